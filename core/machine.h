#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/host.h"
#include "core/machine_config.h"
#include "core/memory_map.h"
#include "core/vcpu.h"

namespace mmuscope {

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
  /// On a host of its own.
  Machine(const MachineConfig& config, const MakePager& make_pager);
  /// The VM of that number on a host that it shares.
  Machine(const MachineConfig& config, const MakePager& make_pager, Host& host, unsigned vm);
  ~Machine();

  const MachineConfig& config() const { return config_; }
  Host& host() { return host_; }
  unsigned vm() const { return vm_; }
  const CpuModel& cpu() const { return host_.cpu_model(); }
  /// The guest's interrupts are delivered without an exit.
  bool virtual_apic() const { return config_.apicv && cpu().apicv; }
  u8 max_phys_bits() const { return max_phys_bits_; }
  PhysicalMemory& memory() { return memory_; }
  MemoryMap& map() { return map_; }
  Pager& pager() { return *pager_; }
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
    return {max_phys_bits_, c.nxe, true, true, cpu().pages_1g};
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

  /// Runs body(vcpu) for each vCPU by turns (see Host), or directly when there is one alone.
  void run(const std::function<void(Vcpu&)>& body);

 private:
  void add_vcpu(unsigned index);
  void kick(Vcpu& from, Vcpu& to);

  Machine(const MachineConfig& config, const MakePager& make_pager, std::unique_ptr<Host> own,
          Host* host, unsigned vm);

  MachineConfig config_;
  std::unique_ptr<Host> own_host_;
  Host& host_;
  unsigned vm_;
  u8 max_phys_bits_;
  PhysicalMemory memory_;
  MemoryMap map_;
  std::unique_ptr<Pager> pager_;
  std::vector<std::unique_ptr<Vcpu>> vcpus_;
  AccessObserver* observer_ = nullptr;
};

}  // namespace mmuscope
