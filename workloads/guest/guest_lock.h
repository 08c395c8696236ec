#pragma once

#include <algorithm>

#include "core/vcpu.h"

namespace mmuscope {

/// A lock of the guest kernel, held by one or shared by many (Linux's rw_semaphore; of spin locks
/// only the first use is made). A vCPU may give way inside any access, so what is read and written
/// under a lock stays true only under it. Those that wait answer interrupts meanwhile; sharers wait
/// behind who waits to have it alone, or that one would wait for ever.
class GuestLock {
 public:
  enum class Use : u8 { Alone, Shared };

  /// Holds it for a scope.
  class Hold {
   public:
    Hold(Vcpu& vcpu, GuestLock& lock, Use use = Use::Alone) : vcpu_(vcpu), lock_(lock), use_(use) {
      vcpu.note(Event::GuestLock);
      vcpu.keep_time();
      if (lock.is_held_against(use) || lock.free_at(use) > vcpu.clock()) {
        ++vcpu.counters[Event::GuestLockContended];
      }
      wait();
      vcpu.advance_to(lock.free_at(use), Event::GuestLockWait);
      (use == Use::Alone ? lock.alone_ : lock.sharing_) += 1;
    }
    ~Hold() {
      const bool alone = use_ == Use::Alone;
      (alone ? lock_.alone_ : lock_.sharing_) -= 1;
      u64& until = alone ? lock_.alone_until_ : lock_.shared_until_;
      until = std::max(until, vcpu_.clock());
    }
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;

   private:
    void wait() {
      const u32 waits = use_ == Use::Alone ? 1 : 0;
      while (lock_.is_held_against(use_)) {
        lock_.waiting_ += waits;
        vcpu_.give_way(Event::GuestLockWait);
        lock_.waiting_ -= waits;
      }
    }

    Vcpu& vcpu_;
    GuestLock& lock_;
    Use use_;
  };

 private:
  bool is_held_against(Use use) const {
    return alone_ != 0 || (use == Use::Alone ? sharing_ != 0 : waiting_ != 0);
  }
  /// On the clock of who held it last.
  u64 free_at(Use use) const {
    return use == Use::Alone ? std::max(alone_until_, shared_until_) : alone_until_;
  }

  u32 alone_ = 0, sharing_ = 0;  // that hold it
  u32 waiting_ = 0;              // to have it alone
  u64 alone_until_ = 0, shared_until_ = 0;
};

}  // namespace mmuscope
