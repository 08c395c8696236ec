#pragma once

#include <unordered_map>

#include "core/machine.h"

namespace mmuscope {

/// The lock, or locks, under which a hypervisor changes its tables. Each acquisition is counted.
/// With clocks a lock is a resource that is free from some time on: whoever comes earlier waits,
/// first come first served, and pays for the hand-over. What is done under a lock is one piece: no
/// other vCPU runs in between, so nothing has to be excluded, only waited for.
class MmuLock {
 public:
  /// `kvm` is what LockKind::Kvm stands for.
  MmuLock(Machine& machine, LockKind kvm)
      : machine_(machine),
        kind_(machine.config().lock == LockKind::Kvm ? kvm : machine.config().lock) {}

  /// Holds the lock for a scope.
  class Hold {
   public:
    ~Hold() {
      if (vcpu_ == nullptr) return;
      const u64 now = vcpu_->clock();
      vcpu_->counters[Event::LockHold] += now - since_;
      u64& free_at = shared_ ? lock_->read_until : lock_->written_until;
      free_at = std::max(free_at, now);
    }
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;

   private:
    friend class MmuLock;
    struct Resource {
      u64 written_until = 0, read_until = 0;
    };
    Hold(Vcpu& v, Resource& lock, bool shared) : vcpu_(&v), lock_(&lock), shared_(shared) {
      const u64 free_at =
          shared ? lock.written_until : std::max(lock.written_until, lock.read_until);
      if (free_at > v.clock()) {
        v.advance_to(free_at, Event::LockWait);
        ++v.counters[Event::LockContended];
      }
      since_ = v.clock();
    }
    Hold() = default;

    Vcpu* vcpu_ = nullptr;
    Resource* lock_ = nullptr;
    bool shared_ = false;
    u64 since_ = 0;
  };

  /// To change what is there. `table` is the guest table concerned: with LockKind::Fine it alone is
  /// locked. `v` null: the host itself, whose time is nobody's.
  [[nodiscard]] Hold write(Vcpu* v, Gfn table) { return take(v, table, false); }
  /// To add to what is there by atomic exchanges: shared with others that do, where there are
  /// readers' locks, which those for each table are.
  [[nodiscard]] Hold read(Vcpu* v, Gfn table) { return take(v, table, kind_ != LockKind::Coarse); }

 private:
  Hold take(Vcpu* v, Gfn table, bool shared) {
    ++(v != nullptr ? *v : machine_.vcpu(0)).counters[Event::LockAcquisition];
    if (v == nullptr || !machine_.host().timed()) return {};
    return {*v, locks_[kind_ == LockKind::Fine ? table.raw() : 0], shared};
  }

  Machine& machine_;
  LockKind kind_;
  std::unordered_map<u64, Hold::Resource> locks_;  // one, or by table; only looked up
};

}  // namespace mmuscope
