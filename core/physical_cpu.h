#pragma once

#include <memory>
#include <vector>

#include "core/data_caches.h"
#include "core/entry_cache.h"
#include "core/guest_physical_cache.h"
#include "core/tlb.h"
#include "core/walk_cache.h"

namespace mmuscope {

class Vcpu;

/// A CPU of the host: all that caches translations, and which vCPU has it.
struct PhysicalCpu {
  explicit PhysicalCpu(const CpuModel& cpu)
      : tlb(cpu), walk_cache(cpu), guest_physical(cpu), page_entries(cpu) {}

  Tlb tlb;
  WalkCache walk_cache;
  GuestPhysicalCache guest_physical;
  EntryCache page_entries;
  std::unique_ptr<DataCaches> data_caches;  ///< null unless they are modelled

  std::vector<Vcpu*> vcpus;  ///< placed on it, by VM and index
  Vcpu* current = nullptr;   ///< that has it now
  Vcpu* last_ran = nullptr;  ///< whose guest it ran last
  u64 slice_end = 0;         ///< clock at which another one gets it
  u64 tick = 0;              ///< of the LRU, when it last changed hands
  u32 next_asid = 1;         ///< AMD: to be given out next
  u64 asid_generation = 1;   ///< goes up when they have run out
};

}  // namespace mmuscope
