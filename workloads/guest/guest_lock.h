#pragma once

#include "core/vcpu.h"

namespace mmuscope {

/// A lock of the guest kernel. A vCPU may give way inside any access, so what is read and written
/// under a lock stays true only under it. Those that wait answer interrupts meanwhile.
class GuestLock {
 public:
  /// Holds it for a scope.
  class Hold {
   public:
    Hold(Vcpu& vcpu, GuestLock& lock) : vcpu_(vcpu), lock_(lock) {
      vcpu.note(Event::GuestLock);
      vcpu.keep_time();
      if (lock.held_ || lock.free_at_ > vcpu.clock()) ++vcpu.counters[Event::GuestLockContended];
      while (lock.held_) vcpu.give_way(Event::GuestLockWait);
      vcpu.advance_to(lock.free_at_, Event::GuestLockWait);
      lock.held_ = true;
    }
    ~Hold() {
      lock_.held_ = false;
      lock_.free_at_ = vcpu_.clock();
    }
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;

   private:
    Vcpu& vcpu_;
    GuestLock& lock_;
  };

 private:
  bool held_ = false;
  u64 free_at_ = 0;
};

}  // namespace mmuscope
