#pragma once

#include <span>
#include <vector>

#include "core/exit.h"

namespace mmuscope {

class Vcpu;

/// Values at an instant, as opposed to events.
struct Gauges {
  u64 mmu_unsync = 0;  ///< shadow pages out of sync with their guest table
  u64 pages_4k = 0;    ///< leaf entries of each size that the hypervisor's tables hold
  u64 pages_2m = 0;
  u64 pages_1g = 0;
  u64 table_pages = 0;       ///< the pager's own tables
  u64 table_bytes = 0;       ///< 4096 each
  u64 pager_bytes = 0;       ///< tables and all bookkeeping about them
  u64 table_bytes_peak = 0;  ///< the most that there were at once
  u64 pager_bytes_peak = 0;

  /// Those of another VM's pager besides.
  Gauges& operator+=(const Gauges& o) {
    mmu_unsync += o.mmu_unsync;
    pages_4k += o.pages_4k;
    pages_2m += o.pages_2m;
    pages_1g += o.pages_1g;
    table_pages += o.table_pages;
    table_bytes += o.table_bytes;
    pager_bytes += o.pager_bytes;
    table_bytes_peak += o.table_bytes_peak;
    pager_bytes_peak += o.pager_bytes_peak;
    return *this;
  }
};

/// The pager's tables by the guest root that needs them.
struct TableUse {
  struct Share {
    u64 pages = 0;
    u64 bytes = 0;  ///< with bookkeeping
  };
  std::vector<Share> by_root;     ///< reachable from this root only, in the order asked for
  std::vector<u64> shared_pages;  ///< also reachable from this root, but not from it alone
  Share shared;                   ///< reachable from several roots, each page once
  Share orphaned;                 ///< reachable from none of them
};

/// How guest-virtual addresses become host-physical ones. Three faces: what the hardware does,
/// what the hypervisor does when the hardware exits to it, and what the host may ask.
class Pager {
 public:
  virtual ~Pager() = default;

  // --- hardware face: counts walks and table references, never exits -------------------------
  /// Translates on a TLB miss, sets accessed and dirty flags, or says why it cannot.
  virtual Outcome walk(Vcpu& vcpu, Gva va, Access access) = 0;
  /// True if the guest's instruction (or an interrupt) leaves the guest. Instructions that do not
  /// are performed by the vCPU itself.
  virtual bool intercepts(ExitReason reason) const = 0;
  /// The reason for which writing these controls (CR0, CR4 or EFER) leaves the guest, if it does.
  /// By default any change that concerns paging does whose reason is intercepted.
  virtual std::optional<ExitReason> intercepts_change(const Controls& from,
                                                      const Controls& to) const;
  /// The controls under which the hardware judges TLB hits while the guest believes in `guest`.
  virtual Controls hardware_controls(const Controls& guest) const { return guest; }
  /// A vCPU is about to run the guest for the first time, its CR3 and controls set.
  virtual void start(Vcpu& vcpu) { (void)vcpu; }
  /// The hypervisor's flush of all that the hardware may have cached of the VM on this vCPU's CPU.
  virtual void flush(Vcpu& vcpu);
  /// An exit has just happened, whatever will serve it.
  virtual void left_guest(Vcpu& vcpu) { (void)vcpu; }
  /// A control register that is not intercepted has changed.
  virtual void controls_changed(Vcpu& vcpu) { (void)vcpu; }

  // --- hypervisor face: counts everything but the exit itself --------------------------------
  /// Serves an exit. Never called for a reason that intercepts() denies, except the faults and
  /// violations that walk() itself returned.
  virtual Resume handle(Vcpu& vcpu, const VmExit& exit) = 0;

  // --- host face ------------------------------------------------------------------------------
  virtual Gauges gauges() const = 0;
  /// Splits the tables by guest root (guest CR3 values without PCID bits).
  virtual TableUse table_use(std::span<const Gpa> roots) const = 0;
  /// Starts or stops noting which guest frames are written, by the guest or for it. Pagers that
  /// cannot ignore it.
  virtual void log_dirty(bool on) { (void)on; }
  /// How many frames were written since the log was started or last harvested; notes the next write
  /// to each again. 0 from pagers that cannot.
  virtual u64 harvest_dirty() { return 0; }
  /// The host is about to change what is under the frames [first, first + frames): drops whatever
  /// maps one of them, the host page around it included. Linux, kvm_unmap_gfn_range. The machine
  /// does the rest (Machine::unback, merge, unmerge). Pagers without tables of their own ignore it.
  virtual void forget(Gfn first, u64 frames, Shootdown& owed) {
    (void)first, (void)frames, (void)owed;
  }
  /// Changes how many shadow pages may exist, in pages. Pagers without any ignore it.
  virtual void limit_shadow_pages(u64 pages) { (void)pages; }
};

}  // namespace mmuscope
