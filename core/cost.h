#pragma once

#include "core/event.h"

namespace mmuscope {

/// What events cost, in cycles of the CPU that counts them: plain data, only added up. Named prices
/// with their sources are results/cost_model's. Sums are modulo 2^64, so a price may take away from
/// another (an entry read from memory instead of the flat price of a read).
struct CostTable {
  u64 access = 0;                    ///< of the guest
  std::array<u64, kEvents> event{};  ///< one count of each
  u64 ipi_delivery = 0;              ///< an interrupt, from its sending to its arrival
  u64 ipi_answer = 0;                ///< from its arrival until its sender knows that it was served

  /// Nothing costs anything but what is waited: a cycle is a cycle.
  CostTable() {
    for (const Event e : {Event::LockWait, Event::FlushWait, Event::GuestLockWait,
                          Event::HaltedCycles, Event::StealCycles}) {
      event[static_cast<unsigned>(e)] = 1;
    }
  }
  /// The sum; what was waited is part of it.
  u64 of(u64 accesses, const Counters& counters) const {
    u64 sum = access * accesses;
    for (unsigned i = 0; i < kEvents; ++i) sum += event[i] * counters[static_cast<Event>(i)];
    return sum;
  }
};

}  // namespace mmuscope
