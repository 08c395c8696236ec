#include "core/machine.h"

#include <algorithm>

namespace mmuscope {

namespace {

/// Address space kept for hypervisors' tables: more than any of them can fill, and only reserved.
u64 table_bytes_for(u64 guest_bytes) { return std::max(guest_bytes / 8, u64{1} << 30); }

}  // namespace

Machine::Machine(const MachineConfig& config, const MakePager& make_pager)
    : Machine(config, make_pager, std::make_unique<Host>(config, config.vcpus), nullptr, 0) {}

Machine::Machine(const MachineConfig& config, const MakePager& make_pager, Host& host, unsigned vm)
    : Machine(config, make_pager, nullptr, &host, vm) {}

Machine::Machine(const MachineConfig& config, const MakePager& make_pager,
                 std::unique_ptr<Host> own, Host* host, unsigned vm)
    : config_(config),
      own_host_(std::move(own)),
      host_(host != nullptr ? *host : *own_host_),
      vm_(vm),
      max_phys_bits_(config.max_phys_bits != 0 ? config.max_phys_bits : cpu().max_phys_bits),
      memory_(config.memory_bytes, table_bytes_for(config.memory_bytes)),
      map_(config.virtualized ? MemoryMap(memory_, config.memory_bytes,
                                          {config.backing, config.fragmented, config.seed})
                              : MemoryMap::identity(memory_, config.memory_bytes)) {
  for (unsigned i = 0; i < config.vcpus; ++i) add_vcpu(i);
  if (config.prebacked && config.virtualized) map_.back_all();
  pager_ = make_pager(*this);
}

Machine::~Machine() = default;

void Machine::add_vcpu(unsigned index) {
  vcpus_.push_back(std::make_unique<Vcpu>(*this, index, host_.next_cpu()));
  Vcpu& v = *vcpus_.back();
  host_.place(v);
  const u32 vpid = cpu().vendor == Vendor::Intel ? host_.vpid_of(v) : 1;
  v.tagged_ = cpu().tagged_tlb && config_.vpid && vpid != 0;
  v.set_tag(v.tagged_ ? vpid : 0);
}

Counters Machine::counters() const {
  Counters sum;
  for (const auto& v : vcpus_) sum += v->counters;
  return sum;
}

u64 Machine::accesses() const {
  u64 sum = 0;
  for (const auto& v : vcpus_) sum += v->accesses();
  return sum;
}

u64 Machine::host_read(Gpa a) {
  const auto backing = map_.find(a.frame());
  return backing ? memory_.read(backing->frame.base() + a.page_offset()) : 0;
}

void Machine::host_write(Gpa a, u64 value) {
  if (observer_ != nullptr) observer_->on_host_write(a, value);
  guest_write(a, value);
}

void Machine::set_observer(AccessObserver* observer) {
  observer_ = observer;
  for (const auto& v : vcpus_) v->set_observer(observer);
}

SoftwareWalk Machine::walk_guest(Gpa root, Gva va, Access access, const Controls& controls) {
  SoftwareWalk w;
  const auto read = [this](Gpa where, unsigned, u64& entry) {
    // A table beyond the guest's memory reads as nobody there: all ones.
    entry = map_.contains(where, 8) ? guest_read(where) : ~u64{0};
    return true;
  };
  const auto update = [this, &w](Gpa where, unsigned level, u64 seen, u64 bits) {
    guest_write(where, seen | bits);
    w.flagged |= static_cast<u8>(1u << level);
    return true;
  };
  w.ok =
      walk_for_access<GuestFormat>(w.path, {root, controls.levels}, va, access, controls,
                                   guest_rules(controls), read, update) == WalkVerdict::Permitted;
  if (!w.ok) w.error_code = page_fault_code(access, controls, w.path.status);
  return w;
}

void Machine::apply(Shootdown&& owed, Vcpu* initiator) {
  if (!owed.owed()) return;
  owed.settle();
  flush_all(initiator);
}

void Machine::interrupt_all(Vcpu* initiator) {
  Vcpu& counting = initiator != nullptr ? *initiator : *vcpus_[0];
  const u64 now = host_.timed() ? counting.clock() : 0;
  for (const auto& v : vcpus_) {
    if (v.get() != initiator && v->started_ && v->in_guest_at(now)) kick(counting, *v);
  }
}

/// The hypervisor's interrupt, which takes the vCPU out of the guest whatever its APIC.
void Machine::kick(Vcpu& from, Vcpu& to) {
  ++from.counters[Event::Ipi];
  ++to.counters[Event::IpiReceived];
  to.count_exit(ExitReason::Interrupt);
  if (host_.timed()) to.seen_ = to.clock();
}

void Machine::flush_all(Vcpu* initiator) {
  Vcpu& counting = initiator != nullptr ? *initiator : *vcpus_[0];
  ++counting.counters[Event::RemoteTlbFlushRequest];
  const u64 now = host_.timed() ? counting.clock() : 0;
  bool interrupted = false;
  for (const auto& v : vcpus_) {
    if (!v->started_) continue;  // has cached nothing
    if (v.get() != initiator && v->in_guest_at(now)) {
      interrupted = true;
      kick(counting, *v);
    }
    pager_->flush(*v);
    ++v->counters[Event::TlbFlush];
  }
  if (!interrupted) return;
  ++counting.counters[Event::RemoteTlbFlush];
  // The slowest answers when the last interrupt that was sent has arrived and been served.
  const CostTable& costs = host_.costs();
  if (host_.timed()) {
    const u64 served = costs.event[static_cast<unsigned>(Event::IpiReceived)];
    counting.advance_to(counting.clock() + costs.ipi_delivery + served + costs.ipi_answer,
                        Event::FlushWait);
  }
}

// --- the host's own ------------------------------------------------------------------------------

void Machine::unback(Gfn first, u64 frames, Vcpu* vcpu) {
  if (map_.is_identity()) {
    for (u64 i = 0; i < frames; ++i) {
      zero_bytes(memory_.at(Hpa((first + i).base().raw())), kPageBytes);
    }
    return;
  }
  Shootdown owed;
  pager_->forget(first, frames, owed);
  apply(std::move(owed), vcpu);
  (vcpu != nullptr ? *vcpu : *vcpus_[0]).counters[Event::UnbackedPage] +=
      map_.unback(first, frames);
}

bool Machine::merge(Gfn keep, Gfn gone, Vcpu* vcpu) {
  if (map_.is_identity()) return false;
  const auto a = map_.find(keep), b = map_.find(gone);
  if (!a || !b || a->frame == b->frame || b->merged) return false;
  const auto bytes = [this](const Backing& x) { return memory_.at(x.frame.base()); };
  if (std::memcmp(bytes(*a), bytes(*b), kPageBytes) != 0) return false;
  Shootdown owed;
  pager_->forget(keep, 1, owed);
  pager_->forget(gone, 1, owed);
  apply(std::move(owed), vcpu);
  ++(vcpu != nullptr ? *vcpu : *vcpus_[0]).counters[Event::MergedPage];
  return map_.merge(keep, gone);
}

void Machine::unmerge(Gfn g, Vcpu* vcpu) {
  Shootdown owed;
  pager_->forget(g, 1, owed);
  apply(std::move(owed), vcpu);
  map_.unmerge(g);
  ++(vcpu != nullptr ? *vcpu : *vcpus_[0]).counters[Event::UnmergedPage];
}

void Machine::run(const std::function<void(Vcpu&)>& body) {
  if (vcpus_.size() == 1 && !host_.scheduler().active()) {
    body(*vcpus_[0]);
    return;
  }
  std::vector<Scheduler::Task> tasks;
  for (const auto& v : vcpus_) {
    host_.enlist(*v);
    const auto run_on = [this, &body, vcpu = v.get()] {
      vcpu->deadline_ = vcpu->tick_ + config_.quantum;
      body(*vcpu);
      vcpu->deadline_ = ~u64{0};
      vcpu->set_halted(true);
      host_.dismiss(*vcpu);
    };
    tasks.push_back({run_on, v.get()});
  }
  host_.scheduler().run(std::move(tasks));
}

}  // namespace mmuscope
