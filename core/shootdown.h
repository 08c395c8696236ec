#pragma once

#include <cassert>
#include <exception>
#include <utility>

#include "core/address.h"

namespace mmuscope {

/// Translations that some table no longer grants but that TLBs may still hold. Whoever shrinks a
/// permission adds to it in the same statement group; Machine::apply() flushes every vCPU and
/// settles it. Dropping an unsettled one is a bug of ours and asserts. A flush is of the whole VM,
/// as KVM's is (Linux, kvm_flush_remote_tlbs).
class [[nodiscard]] Shootdown {
 public:
  Shootdown() = default;
  Shootdown(Shootdown&& o) noexcept : owed_(std::exchange(o.owed_, false)) {}
  Shootdown& operator=(Shootdown&& o) noexcept {
    assert(!owed_ && "an owed shootdown was overwritten");
    owed_ = std::exchange(o.owed_, false);
    return *this;
  }
  ~Shootdown() {
    // A run that ends by an exception leaves its machine behind, stale translations and all.
    assert((!owed_ || std::uncaught_exceptions() > 0) && "an owed shootdown was dropped");
  }

  /// Some present entry lost a right, its target or its existence.
  void add() { owed_ = true; }
  /// Takes over what another one owes.
  void merge(Shootdown&& o) { owed_ |= std::exchange(o.owed_, false); }
  bool owed() const { return owed_; }
  /// Every TLB that may hold the stale translations has been flushed.
  void settle() { owed_ = false; }

 private:
  bool owed_ = false;
};

}  // namespace mmuscope
