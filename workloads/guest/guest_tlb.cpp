#include "workloads/guest/guest_tlb.h"

#include <algorithm>

namespace mmuscope {

namespace {
constexpr u64 kSinglePages = 33;        // Linux, tlb_single_page_flush_ceiling
constexpr u64 kNoFlush = u64{1} << 63;  // of a value moved to CR3
constexpr u32 kUserPcid = 1u << 11;     // Linux, X86_CR3_PTI_PCID_USER_BIT
}  // namespace

bool GuestTlb::choose_tag(Cpu& c, u64 space, u64 flushes) {
  // Linux, choose_new_asid.
  bool flush = true;
  if (!pcid_) {
    c.tag = 0;
  } else {
    const auto held = std::find_if(c.tags.begin(), c.tags.end(),
                                   [space](const Tag& t) { return t.space == space; });
    if (held != c.tags.end()) {
      c.tag = static_cast<unsigned>(held - c.tags.begin());
      flush = held->flushes < flushes;
    } else {
      c.tag = c.next_tag;
      c.next_tag = (c.next_tag + 1) % kTags;
    }
  }
  c.tags[c.tag] = {space, flushes};
  return flush;
}

void GuestTlb::load_kernel_root(Vcpu& vcpu, Cpu& c, bool flush) {
  u64 cr3 = (c.loaded != nullptr ? c.loaded->root : kernel_root_).raw();
  // PCID 0 stays unused: whatever runs without PCIDs has it. Linux, kern_pcid.
  if (pcid_) cr3 |= (c.tag + 1) | (flush ? 0 : kNoFlush);
  // User mode's PCID is flushed on the way back to it only. Linux, invalidate_user_asid.
  if (flush && pcid_ && kernel_user_root_ != Gpa(0)) c.user_stale |= 1u << c.tag;
  vcpu.write_cr3(cr3);
}

void GuestTlb::load(Vcpu& vcpu, AddressSpace& space) {
  Cpu& c = cpu(vcpu);
  c.resting = false;
  bool flush = true;
  // From here on requests for the new tables are answered, and those for the old ones need no work:
  // nothing is accessed between this and the write.
  if (c.loaded == &space) {
    if (c.tags[c.tag].flushes == space.flushes) return;
    c.tags[c.tag].flushes = space.flushes;
    ++statistics_.full_flushes;
  } else {
    ++statistics_.context_switches;
    flush = choose_tag(c, space.id, space.flushes);
    c.loaded = &space;
  }
  load_kernel_root(vcpu, c, flush);
}

void GuestTlb::unload(Vcpu& vcpu) {
  Cpu& c = cpu(vcpu);
  c.resting = false;
  if (c.loaded == nullptr) return;
  const bool flush = choose_tag(c, kKernelSpace, 0);
  c.loaded = nullptr;
  load_kernel_root(vcpu, c, flush);
}

void GuestTlb::enter_kernel(Vcpu& vcpu) {
  if (kernel_user_root_ == Gpa(0)) return;
  Cpu& c = cpu(vcpu);
  c.on_user_root = false;
  load_kernel_root(vcpu, c, false);
}

void GuestTlb::leave_kernel(Vcpu& vcpu) {
  if (kernel_user_root_ == Gpa(0)) return;
  Cpu& c = cpu(vcpu);
  c.on_user_root = true;
  u64 cr3 = (c.loaded != nullptr ? c.loaded->user_root : kernel_user_root_).raw();
  if (pcid_) {
    const bool flush = (c.user_stale & 1u << c.tag) != 0;
    c.user_stale &= ~(1u << c.tag);
    cr3 |= (c.tag + 1) | kUserPcid | (flush ? 0 : kNoFlush);
  }
  vcpu.write_cr3(cr3);
}

void GuestTlb::flush(Vcpu& vcpu, AddressSpace& space, const FlushRange& range) {
  Request request{&space, range, ++space.flushes};
  if (!range.everything) {
    const u64 pages = (range.end - range.start) >> page_shift(range.stride);
    request.range.everything = pages > kSinglePages;
  }
  send(vcpu, request);
  if (cpu(vcpu).loaded == &space) perform(vcpu, request);
  while (request.unanswered > 0) vcpu.give_way(Event::FlushWait);
  vcpu.advance_to(request.answered_at, Event::FlushWait);
}

void GuestTlb::flush_for_teardown(Vcpu& vcpu, AddressSpace& space) {
  // Linux, exit_mmap: the process has left its address space already, the flush finds a CPU that is
  // idle as far as these tables go and moves it to the kernel's own.
  if (cpu(vcpu).loaded == &space) unload(vcpu);
  flush(vcpu, space, {Gva(0), Gva(0), PageSize::k4K, true, true});
}

void GuestTlb::send(Vcpu& vcpu, Request& request) {
  std::vector<unsigned> targets;
  for (unsigned i = 0; i < cpus_.size(); ++i) {
    const Cpu& other = cpus_[i];
    if (i == vcpu.index() || other.loaded != request.space) continue;
    if (other.resting && !request.range.freed_tables) continue;
    // Linux, kvm_flush_tlb_multi: the hypervisor flushes for a vCPU that does not run.
    if (machine_.config().pv_flush && machine_.vcpu(i).preempted()) {
      machine_.vcpu(i).defer_flush();
      continue;
    }
    targets.push_back(i);
  }
  if (targets.empty()) return;
  ++statistics_.shootdowns;
  request.unanswered = static_cast<unsigned>(targets.size());
  for (const unsigned i : targets) cpus_[i].requests.push_back(&request);
  for (const unsigned i : targets) vcpu.send_ipi(machine_.vcpu(i));
}

void GuestTlb::on_ipi(Vcpu& vcpu) {
  Cpu& c = cpu(vcpu);
  while (!c.requests.empty()) {
    Request& request = *c.requests.front();
    c.requests.erase(c.requests.begin());
    if (c.loaded == request.space) {
      if (c.resting) {
        unload(vcpu);
      } else {
        perform(vcpu, request);
      }
    }
    --request.unanswered;
    request.answered_at =
        std::max(request.answered_at, vcpu.clock() + machine_.host().costs().ipi_answer);
  }
}

void GuestTlb::perform(Vcpu& vcpu, const Request& request) {
  Cpu& c = cpu(vcpu);
  const FlushRange& range = request.range;
  u64& seen = c.tags[c.tag].flushes;
  seen = std::max(seen, request.flushes);
  if (range.everything) {
    ++statistics_.full_flushes;
    load_kernel_root(vcpu, c, true);
    return;
  }
  for (Gva va = range.start; va < range.end; va = va + page_bytes(range.stride)) {
    ++statistics_.page_flushes;
    flush_page(vcpu, c, va);
  }
}

void GuestTlb::flush_page(Vcpu& vcpu, const Cpu& c, Gva va) {
  // Linux, flush_tlb_one_user. Without PCIDs the way back to user mode flushes anyway.
  vcpu.invlpg(va);
  if (pcid_ && kernel_user_root_ != Gpa(0)) {
    vcpu.invpcid(InvpcidType::Address, (c.tag + 1) | kUserPcid, va);
  }
}

void TlbGather::changed(Gva va, PageSize size) {
  any_ = true;
  range_.stride = min_size(range_.stride, size);
  range_.start = std::min(range_.start, va);
  range_.end = std::max(range_.end, va + page_bytes(size));
}

void TlbGather::finish(Vcpu& vcpu, FrameAllocator& frames) {
  range_.freed_tables = !tables_.empty();
  range_.everything = !any_;  // tables alone: they may be cached for any address below them
  if (any_ || range_.freed_tables) tlb_.flush(vcpu, space_, range_);
  free_all(vcpu, frames);
}

void TlbGather::finish_teardown(Vcpu& vcpu, FrameAllocator& frames) {
  tlb_.flush_for_teardown(vcpu, space_);
  free_all(vcpu, frames);
}

void TlbGather::free_all(Vcpu& vcpu, FrameAllocator& frames) {
  for (const Gfn frame : frames_) {
    const Gfn first = frames.head(frame);
    frames.release(frame);
    write_page_struct(vcpu, frames, first);
  }
  for (const Gfn table : tables_) {
    frames.release(table);
    write_page_struct(vcpu, frames, table);
  }
}

}  // namespace mmuscope
