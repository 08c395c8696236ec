#include "workloads/guest/guest_tlb.h"

#include <algorithm>

namespace mmuscope {

namespace {
constexpr u64 kSinglePages = 33;  // Linux, tlb_single_page_flush_ceiling
}  // namespace

void GuestTlb::load(Vcpu& vcpu, AddressSpace& space) {
  Cpu& c = cpu(vcpu);
  c.resting = false;
  if (c.loaded == &space) {
    if (c.flushes == space.flushes) return;
    ++statistics_.full_flushes;
  } else {
    ++statistics_.context_switches;
  }
  // From here on requests for the new tables are answered, and those for the old ones need no work:
  // nothing is accessed between this and the write.
  c.loaded = &space;
  c.flushes = space.flushes;
  vcpu.write_cr3(space.root.raw());
}

void GuestTlb::unload(Vcpu& vcpu) {
  Cpu& c = cpu(vcpu);
  c.resting = false;
  if (c.loaded == nullptr) return;
  vcpu.write_cr3(kernel_root_.raw());
  c.loaded = nullptr;
}

void GuestTlb::flush(Vcpu& vcpu, AddressSpace& space, const FlushRange& range) {
  Request request{&space, range, ++space.flushes};
  if (!range.everything) {
    const u64 pages = (range.end - range.start) >> page_shift(range.stride);
    request.range.everything = pages > kSinglePages;
  }
  send(vcpu, request);
  if (cpu(vcpu).loaded == &space) perform(vcpu, request);
  while (request.unanswered > 0) vcpu.give_way();
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
  }
}

void GuestTlb::perform(Vcpu& vcpu, const Request& request) {
  Cpu& c = cpu(vcpu);
  const FlushRange& range = request.range;
  c.flushes = std::max(c.flushes, request.flushes);
  if (range.everything) {
    ++statistics_.full_flushes;
    vcpu.write_cr3(request.space->root.raw());
    return;
  }
  for (Gva va = range.start; va < range.end; va = va + page_bytes(range.stride)) {
    ++statistics_.page_flushes;
    vcpu.invlpg(va);
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
  free_all(frames);
}

void TlbGather::finish_teardown(Vcpu& vcpu, FrameAllocator& frames) {
  tlb_.flush_for_teardown(vcpu, space_);
  free_all(frames);
}

void TlbGather::free_all(FrameAllocator& frames) {
  for (const Dropped& d : frames_) frames.release(d.frame, d.size);
  for (const Gfn table : tables_) frames.release(table);
}

}  // namespace mmuscope
