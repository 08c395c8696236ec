#include "core/machine.h"

#include <algorithm>

namespace mmuscope {

namespace {

/// Address space kept for hypervisors' tables: more than any of them can fill, and only reserved.
u64 table_bytes_for(u64 guest_bytes) { return std::max(guest_bytes / 8, u64{1} << 30); }

}  // namespace

Machine::Machine(const MachineConfig& config, const MakePager& make_pager)
    : config_(config),
      cpu_(with_tlbs_scaled(cpu_model(config.cpu), config.tlb_percent)),
      max_phys_bits_(config.max_phys_bits != 0 ? config.max_phys_bits : cpu_.max_phys_bits),
      memory_(config.memory_bytes, table_bytes_for(config.memory_bytes)),
      map_(config.virtualized ? MemoryMap(memory_, config.memory_bytes,
                                          {config.backing, config.fragmented, config.seed})
                              : MemoryMap::identity(memory_, config.memory_bytes)) {
  if (config.table_lines) llc_ = std::make_unique<LineCache>(cpu_.llc_lines);
  for (unsigned i = 0; i < config.vcpus; ++i) add_vcpu(i);
  if (config.prebacked && config.virtualized) map_.back_all();
  pager_ = make_pager(*this);
}

Machine::~Machine() = default;

void Machine::add_vcpu(unsigned index) {
  vcpus_.push_back(std::make_unique<Vcpu>(*this, index, cpu_));
  Vcpu& v = *vcpus_.back();
  const bool by_entry = config_.walk_cache_kind == WalkCacheKind::Entry ||
                        (config_.walk_cache_kind == WalkCacheKind::Cpu && cpu_.entry_cache);
  const bool one = config_.walk_caches != WalkCaches::Off;
  const bool two = config_.walk_caches >= WalkCaches::TwoD;
  v.walk_cache_.set_enabled(one && !by_entry);
  v.guest_physical_.enable(two && !by_entry, config_.walk_caches >= WalkCaches::TwoDTlb);
  v.page_entries_.enable(one && by_entry, two && by_entry);
  if (llc_ != nullptr) v.data_caches_ = std::make_unique<DataCaches>(cpu_, *llc_);
  v.watches_walks_ = v.page_entries_.on() || llc_ != nullptr;
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
  for (const auto& v : vcpus_) {
    if (v->started_ && v.get() != initiator && v->in_guest_) {
      ++counting.counters[Event::Ipi];
      ++v->counters[Event::IpiReceived];
      v->count_exit(ExitReason::Interrupt);
    }
  }
}

void Machine::flush_all(Vcpu* initiator) {
  Vcpu& counting = initiator != nullptr ? *initiator : *vcpus_[0];
  ++counting.counters[Event::RemoteTlbFlushRequest];
  bool interrupted = false;
  for (const auto& v : vcpus_) {
    if (!v->started_) continue;  // has cached nothing
    if (v.get() != initiator && v->in_guest_) {
      interrupted = true;
      ++counting.counters[Event::Ipi];
      ++v->counters[Event::IpiReceived];
      v->count_exit(ExitReason::Interrupt);
    }
    pager_->flush(*v);
    ++v->counters[Event::TlbFlush];
  }
  if (interrupted) ++counting.counters[Event::RemoteTlbFlush];
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
  if (vcpus_.size() == 1) {
    body(*vcpus_[0]);
    return;
  }
  std::vector<std::function<void()>> bodies;
  for (const auto& v : vcpus_) {
    bodies.push_back([this, &body, vcpu = v.get()] {
      vcpu->deadline_ = vcpu->tick_ + config_.quantum;
      body(*vcpu);
      vcpu->deadline_ = ~u64{0};
      vcpu->set_halted(true);
    });
  }
  scheduler_.run(std::move(bodies));
}

}  // namespace mmuscope
