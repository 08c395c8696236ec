#include "core/host.h"

#include <algorithm>
#include <stdexcept>

#include "core/machine.h"

namespace mmuscope {

namespace {
constexpr u64 kNever = ~u64{0};
/// So many turns of waits with nobody else doing anything: they wait for each other.
constexpr u64 kDeadlock = 1'000'000;
}  // namespace

Host::Host(const MachineConfig& config, unsigned vcpus)
    : config_(config),
      model_(with_tlbs_scaled(mmuscope::cpu_model(config.cpu), config.tlb_percent)) {
  if (config.table_lines) llc_ = std::make_unique<LineCache>(model_.llc_lines);
  const bool by_entry = config_.walk_cache_kind == WalkCacheKind::Entry ||
                        (config_.walk_cache_kind == WalkCacheKind::Cpu && model_.entry_cache);
  const bool one = config_.walk_caches != WalkCaches::Off;
  const bool two = config_.walk_caches >= WalkCaches::TwoD;
  const unsigned count = config.cpus != 0 ? std::min(config.cpus, vcpus) : vcpus;
  for (unsigned i = 0; i < count; ++i) {
    cpus_.push_back(std::make_unique<PhysicalCpu>(model_));
    PhysicalCpu& cpu = *cpus_.back();
    cpu.walk_cache.set_enabled(one && !by_entry);
    cpu.guest_physical.enable(two && !by_entry, config_.walk_caches >= WalkCaches::TwoDTlb);
    cpu.page_entries.enable(one && by_entry, two && by_entry);
    if (llc_ != nullptr) cpu.data_caches = std::make_unique<DataCaches>(model_, *llc_);
  }
  if (timed()) scheduler_.set_order(this);
}

void Host::place(Vcpu& vcpu) {
  vcpu.hardware_.vcpus.push_back(&vcpu);
  vcpu.number_ = placed_++;
}

void Host::enlist(Vcpu& vcpu) {
  if (!timed()) return;
  const auto at = std::find_if(enlisted_.begin(), enlisted_.end(),
                               [&](const Vcpu* v) { return v->number_ > vcpu.number_; });
  enlisted_.insert(at, &vcpu);
  vcpu.seen_ = vcpu.clock();
  PhysicalCpu& cpu = vcpu.hardware_;
  vcpu.has_cpu_ = cpu.current == nullptr;
  if (!vcpu.has_cpu_) return;
  cpu.current = &vcpu;
  cpu.slice_end = vcpu.seen_ + config_.slice;
}

void Host::dismiss(Vcpu& vcpu) {
  if (!timed()) return;
  enlisted_.erase(std::find(enlisted_.begin(), enlisted_.end(), &vcpu));
  PhysicalCpu& cpu = vcpu.hardware_;
  if (Vcpu* to = successor(cpu, vcpu, true)) {
    hand_over(cpu, vcpu, *to);
  } else {
    cpu.current = nullptr;
    cpu.tick = vcpu.tick_;
  }
}

// --- time ----------------------------------------------------------------------------------------

std::size_t Host::next(std::span<Vcpu* const> ready) {
  constexpr std::size_t kNone = ~std::size_t{0};
  std::size_t best = kNone;
  const auto before = [](const Vcpu& a, const Vcpu& b) {
    if (a.seen_ != b.seen_) return a.seen_ < b.seen_;
    if (a.waiting_ != b.waiting_) return b.waiting_;
    // Those that wait ask by turns, or one would ask for ever.
    return a.waiting_ ? a.turn_ < b.turn_ : a.number_ < b.number_;
  };
  for (std::size_t i = 0; i < ready.size(); ++i) {
    if (ready[i] == nullptr) return i;  // no vCPU's work: it only prepares
    if (!ready[i]->has_cpu_) continue;
    if (best == kNone || before(*ready[i], *ready[best])) best = i;
  }
  if (best == kNone) throw std::logic_error("no vCPU has a CPU");
  if (!ready[best]->waiting_) waits_ = 0;
  return best;
}

void Host::keep_time(Vcpu& vcpu) {
  if (!timed() || !scheduler_.runs(vcpu)) return;
  waits_ = 0;
  vcpu.seen_ = vcpu.clock();
  end_slice_if_due(vcpu);
  const auto goes_first = [&vcpu](const Vcpu* o) {
    if (o == &vcpu || !o->has_cpu_) return false;
    if (o->seen_ != vcpu.seen_) return o->seen_ < vcpu.seen_;
    return !o->waiting_ && o->number_ < vcpu.number_;
  };
  if (!vcpu.has_cpu_ || std::any_of(enlisted_.begin(), enlisted_.end(), goes_first)) {
    scheduler_.give_way();
  }
}

void Host::wait(Vcpu& vcpu, Event why) {
  if (!timed()) return scheduler_.give_way();
  if (!scheduler_.runs(vcpu)) return;
  if (++waits_ > kDeadlock) throw std::logic_error("every vCPU waits for another");
  vcpu.seen_ = vcpu.clock();
  PhysicalCpu& cpu = vcpu.hardware_;
  Vcpu* heir = cpu.vcpus.size() > 1 ? successor(cpu, vcpu, false) : nullptr;
  u64 until = heir != nullptr ? std::max(cpu.slice_end, vcpu.seen_) : kNever;
  u64 later = kNever;  // when one that waits as well may find that it need not any more
  for (const Vcpu* o : enlisted_) {
    if (o == &vcpu || !o->has_cpu_) continue;
    if (!o->waiting_) until = std::min(until, o->seen_);
    if (o->waiting_ && o->seen_ > vcpu.seen_) later = std::min(later, o->seen_);
  }
  if (until == kNever) until = later;
  if (vcpu.ipi_pending_) until = std::min(until, vcpu.ipi_at_);
  const bool halted = vcpu.halted_ && why == Event::HaltedCycles;
  if (halted && heir == nullptr && cpu.vcpus.size() > 1) heir = successor(cpu, vcpu, true);
  if (halted && heir != nullptr && !vcpu.ipi_pending_) {
    hand_over(cpu, vcpu, *heir);
  } else {
    if (until != kNever) vcpu.advance_to(until, why);
    vcpu.seen_ = vcpu.clock();
    end_slice_if_due(vcpu);
  }
  vcpu.waiting_ = true;
  vcpu.turn_ = ++turn_;
  scheduler_.give_way();
  vcpu.waiting_ = false;
}

// --- CPUs that change hands ----------------------------------------------------------------------

/// The next of the CPU's vCPUs, by turns, that has something to run.
Vcpu* Host::successor(const PhysicalCpu& cpu, const Vcpu& vcpu, bool halted_ones) const {
  const auto here = std::find(cpu.vcpus.begin(), cpu.vcpus.end(), &vcpu);
  const auto from = static_cast<std::size_t>(here - cpu.vcpus.begin());
  for (std::size_t i = 1; i < cpu.vcpus.size(); ++i) {
    Vcpu* v = cpu.vcpus[(from + i) % cpu.vcpus.size()];
    if (std::find(enlisted_.begin(), enlisted_.end(), v) == enlisted_.end()) continue;
    if (halted_ones || !v->halted_ || v->ipi_pending_) return v;
  }
  return nullptr;
}

void Host::end_slice_if_due(Vcpu& vcpu) {
  PhysicalCpu& cpu = vcpu.hardware_;
  if (cpu.vcpus.size() == 1 || vcpu.seen_ < cpu.slice_end) return;
  Vcpu* to = successor(cpu, vcpu, false);
  if (to == nullptr) {
    cpu.slice_end = vcpu.seen_ + config_.slice;
    return;
  }
  // The host's timer.
  if (vcpu.in_guest_ && vcpu.machine_.pager().intercepts(ExitReason::Interrupt)) {
    vcpu.count_exit(ExitReason::Interrupt);
    vcpu.seen_ = vcpu.clock();
  }
  hand_over(cpu, vcpu, *to);
}

void Host::hand_over(PhysicalCpu& cpu, Vcpu& from, Vcpu& to) {
  from.has_cpu_ = false;
  cpu.tick = from.tick_;
  to.advance_to(from.clock(), to.halted_ ? Event::HaltedCycles : Event::StealCycles);
  to.has_cpu_ = true;
  to.seen_ = to.clock();
  cpu.current = &to;
  cpu.slice_end = to.seen_ + config_.slice;
  if (!to.halted_) begins_to_run(to);
}

void Host::begins_to_run(Vcpu& vcpu) {
  PhysicalCpu& cpu = vcpu.hardware_;
  if (cpu.last_ran != &vcpu) {
    if (cpu.last_ran != nullptr) ++vcpu.counters[Event::VcpuSwitch];
    cpu.last_ran = &vcpu;
    vcpu.continue_ticks(cpu.tick);
    if (model_.vendor == Vendor::Amd) give_asid(vcpu);
    if (!vcpu.tagged_) vcpu.flush_space();  // nothing tells whose the TLB's entries are
  }
  if (vcpu.flush_deferred_) {
    vcpu.flush_deferred_ = false;
    vcpu.machine_.pager().flush(vcpu);
    ++vcpu.counters[Event::TlbFlush];
  }
}

// --- tags ----------------------------------------------------------------------------------------

/// Linux, allocate_vpid: one for each vCPU while there are some, for good. 0 is the host's.
u32 Host::vpid_of(const Vcpu& vcpu) const {
  return vcpu.number_ + 1 < tags() ? static_cast<u32>(vcpu.number_ + 1) : 0;
}

/// Those that the CPU has, as far as a Context can tell them apart.
u64 Host::tags() const {
  return std::min<u64>(config_.tags != 0 ? config_.tags : model_.tags, (kVpidBits >> 12) + 1);
}

/// Linux, pre_svm_run and new_asid: ASIDs are a CPU's, handed out one after the other; when they
/// have run out all begin again, with an empty TLB.
void Host::give_asid(Vcpu& vcpu, bool anew) {
  PhysicalCpu& cpu = vcpu.hardware_;
  if (!vcpu.tagged_) return;
  if (!anew && vcpu.asid_generation_ == cpu.asid_generation) return;
  if (cpu.next_asid >= tags()) {
    ++cpu.asid_generation;
    cpu.next_asid = 1;
    vcpu.tlb_control(TlbControl::FlushAll, 0);
    ++vcpu.counters[Event::AsidRollover];
  }
  vcpu.asid_generation_ = cpu.asid_generation;
  vcpu.set_tag(cpu.next_asid++);
}

}  // namespace mmuscope
