#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/memory_map.h"
#include "core/scheduler.h"
#include "core/vcpu.h"

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
  u64 khugepaged =
      0;  ///< guest accesses between two passes of its collapse of small pages; 0: none
  u64 swap_bytes = 0;  ///< of guest memory, at its top: a persistent-memory device to swap to
};

/// The guest's tables as a hypervisor (or a test) reads them in software.
struct SoftwareWalk {
  bool ok = false;     ///< a translation exists and permits the access
  u32 error_code = 0;  ///< of the guest's #PF otherwise
  u8 flagged = 0;      ///< bit per level: A or D had to be set in its entry
  WalkPath<GuestFormat> path;
};

/// One virtual machine: memory, the map under it, vCPUs, and the pager that translates for them.
/// Owns all of them and wires them.
class Machine {
 public:
  using MakePager = std::function<std::unique_ptr<Pager>(Machine&)>;
  Machine(const MachineConfig& config, const MakePager& make_pager);
  ~Machine();

  const MachineConfig& config() const { return config_; }
  const CpuModel& cpu() const { return cpu_; }
  u8 max_phys_bits() const { return max_phys_bits_; }
  PhysicalMemory& memory() { return memory_; }
  MemoryMap& map() { return map_; }
  Pager& pager() { return *pager_; }
  Scheduler& scheduler() { return scheduler_; }
  unsigned vcpu_count() const { return static_cast<unsigned>(vcpus_.size()); }
  Vcpu& vcpu(unsigned i) { return *vcpus_[i]; }
  /// The sum over the vCPUs.
  Counters counters() const;
  u64 accesses() const;

  // --- the harness's door: before or after a run, uncounted ------------------------------------
  u64 host_read(Gpa a);
  void host_write(Gpa a, u64 value);
  /// Attaches it to all vCPUs and to host_write(); null detaches.
  void set_observer(AccessObserver* observer);

  // --- what a hypervisor reads of its guest, in software ----------------------------------------
  u64 guest_read(Gpa a) { return memory_.read(map_.back(a)); }
  void guest_write(Gpa a, u64 value) {
    if (map_.is_merged(a.frame())) unmerge(a.frame(), nullptr);
    memory_.write(map_.back(a), value);
  }
  /// Walks the guest's tables uncounted; if the access is permitted, sets A and D as hardware does
  /// (KVM's walker: all of them, once the whole walk has succeeded).
  SoftwareWalk walk_guest(Gpa root, Gva va, Access access, const Controls& controls);
  WalkRules guest_rules(const Controls& c) const {
    return {max_phys_bits_, c.nxe, true, true, cpu_.pages_1g};
  }

  /// Flushes this VM's translations on every vCPU, interrupting those that run the guest, and
  /// settles the debt. `initiator` (may be null) flushes too but needs no interrupt. Counts
  /// remote_tlb_flush_requests once if anything was owed.
  void apply(Shootdown&& owed, Vcpu* initiator);
  /// Makes every vCPU that runs the guest leave it, by an interrupt each.
  void interrupt_all(Vcpu* initiator);
  /// Counts the request and flushes as above although nothing may be owed.
  void flush_all(Vcpu* initiator);

  // --- what the host does to the memory under its guest; `vcpu` (may be null) is who made it -----
  /// Takes back the memory under frames that the guest has offered: they read as zeros afterwards,
  /// without a host, too, so that a guest sees the same under every pager.
  void unback(Gfn first, u64 frames, Vcpu* vcpu);
  /// Gives `gone` the memory of `keep`, which nobody may write until unmerge(). False, having done
  /// nothing, if their contents differ, one has no memory, or there is no host.
  bool merge(Gfn keep, Gfn gone, Vcpu* vcpu);
  /// Gives a merged frame memory of its own again: someone is about to write to it.
  void unmerge(Gfn g, Vcpu* vcpu);

  /// Runs body(vcpu) for each vCPU by turns (see Scheduler), or directly when there is one.
  void run(const std::function<void(Vcpu&)>& body);

 private:
  void add_vcpu(unsigned index);

  MachineConfig config_;
  CpuModel cpu_;
  u8 max_phys_bits_;
  PhysicalMemory memory_;
  MemoryMap map_;
  std::unique_ptr<Pager> pager_;
  std::unique_ptr<LineCache> llc_;  // if data caches are modelled
  std::vector<std::unique_ptr<Vcpu>> vcpus_;
  Scheduler scheduler_;
  AccessObserver* observer_ = nullptr;
};

}  // namespace mmuscope
