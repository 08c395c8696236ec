#pragma once

#include <string>

#include "core/cost.h"
#include "core/cpu_model.h"

namespace mmuscope {

/// Which caches of walks there are besides the TLB.
enum class WalkCaches : u8 {
  Off,
  OneD,     ///< paging-structure caches by guest-virtual address
  TwoD,     ///< and by guest-physical address, for the second dimension
  TwoDTlb,  ///< and a nested TLB: whole translations of guest tables' addresses
};

/// What those of tables hold: a prefix of the address, or entries by their own address.
enum class WalkCacheKind : u8 { Cpu, Prefix, Entry };

/// Where a guest kernel gives 2-MByte pages by itself: transparent huge pages.
enum class HugePages : u8 { Never, Madvise, Always };

/// Who runs next: see Host.
enum class Schedule : u8 { Lockstep, Time };

/// How the hypervisor guards its tables.
enum class LockKind : u8 {
  Kvm,        ///< as Linux KVM does: Coarse for shadow tables, ReadWrite for EPT and NPT
  Coarse,     ///< one lock a VM
  ReadWrite,  ///< one lock a VM; faults that only add to the tables share it
  Fine,       ///< one lock for each guest table that is shadowed, each leaf table of EPT or NPT
};

/// What the machine is, whatever pager runs it.
struct MachineConfig {
  std::string cpu{kDefaultCpu};
  u64 memory_bytes = u64{64} << 20;  ///< guest memory
  PageSize backing = PageSize::k4K;  ///< host pages under it
  u32 fragmented = 0;      ///< millionths of them that must be smaller (MemoryMap::Policy)
  bool prebacked = false;  ///< all host pages are there, and mapped, from the start
  u64 seed = 1;            ///< decides which host pages are smaller
  unsigned vcpus = 1;
  WalkCaches walk_caches = WalkCaches::OneD;
  WalkCacheKind walk_cache_kind = WalkCacheKind::Cpu;
  bool table_lines = false;          ///< the data caches that the walker reads through are modelled
  bool virtualized = true;           ///< false: guest-physical is host-physical
  u8 guest_levels = 4;               ///< of a guest kernel's tables: 4 or 5
  bool vpid = true;                  ///< false: TLBs without tags, exits and entries flush
  unsigned tlb_percent = 100;        ///< TLB entries, of the CPU model's
  u64 quantum = 64;                  ///< guest accesses a turn, with several vCPUs
  u8 max_phys_bits = 0;              ///< 0: the CPU model's
  bool kpti = false;                 ///< a guest kernel keeps tables of its own for user mode
  bool pcid = true;                  ///< the guest is offered PCIDs, if the CPU has them
  HugePages thp = HugePages::Never;  ///< of anonymous memory
  /// Guest accesses between two passes of khugepaged's collapse of small pages; 0: none.
  u64 khugepaged = 0;
  u64 swap_bytes = 0;  ///< of guest memory, at its top: a persistent-memory device to swap to
  // Time and several vCPUs.
  Schedule schedule = Schedule::Lockstep;
  CostTable costs;
  LockKind lock = LockKind::Kvm;
  bool apicv = true;      ///< guest interrupts are delivered without an exit, if the CPU can
  bool pv_flush = false;  ///< flushes for a vCPU that has no CPU wait until it gets one
  unsigned cpus = 0;      ///< of the host; 0: one for each vCPU. Fewer only with Schedule::Time
  u64 slice = 0;          ///< cycles that a vCPU keeps its CPU while others want it
  u32 tags = 0;           ///< VPIDs or ASIDs that there are; 0: the CPU model's
};

}  // namespace mmuscope
