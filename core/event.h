#pragma once

#include <array>
#include <cassert>
#include <string_view>

#include "core/types.h"

namespace mmuscope {

/// Everything the machine counts. One increment is one event; prices are put on them after the run.
enum class Event : u8 {
  // Accesses that the guest made; loads are what is left of Vcpu::accesses().
  Store,
  Fetch,
  GuestPageFault,
  GuestWork,
  GuestEntry,
  GuestSwitch,
  GuestFrame,
  GuestLine,
  GuestTask,
  Cr3Write,
  GuestInvalidation,
  // Translation, counted by the hardware face.
  TlbL1Miss,
  TlbL2Hit,
  Walk,
  TableRefGuest,
  TableRefShadow,
  TableRefNested,
  WalkCacheHit,
  NestedCacheHit,
  NestedTlbHit,
  TableRefL1,
  TableRefL2,
  TableRefLlc,
  TableRefMemory,
  TlbSplinter,
  // VM exits, one event per reason.
  ExitPageFault,
  ExitCr3,
  ExitInvlpg,
  ExitInvpcid,
  ExitCr0,
  ExitCr4,
  ExitEptViolation,
  ExitEptMisconfig,
  ExitInterrupt,
  ExitMsrWrite,
  ExitPmlFull,
  ExitHypercall,
  // The hypervisor's MMU, named as KVM names its statistics.
  PfTaken,
  PfFixed,
  PfEmulate,
  PfSpurious,
  PfFast,
  PfGuest,
  MmuCacheMiss,
  MmuPteWrite,
  MmuPdeZapped,
  MmuFlooded,
  MmuRecycled,
  MmuShadowZapped,
  MmuEntrySynced,
  TlbFlush,
  Invlpg,
  DirtyHarvest,
  DirtyPage,
  UnbackedPage,
  MergedPage,
  UnmergedPage,
  // Synchronisation.
  RemoteTlbFlushRequest,
  RemoteTlbFlush,
  Ipi,
  IpiReceived,
  FlushDeferred,
  LockAcquisition,
  LockContended,
  LockHold,
  LockWait,
  FlushWait,
  GuestLock,
  GuestLockContended,
  GuestLockWait,
  // CPUs that vCPUs share.
  VcpuSwitch,
  AsidRollover,
  HaltedCycles,
  StealCycles,
};
inline constexpr unsigned kEvents = static_cast<unsigned>(Event::StealCycles) + 1;

struct EventInfo {
  Event event;
  std::string_view name;     ///< the CSV column
  std::string_view meaning;  ///< what one count is
};

/// One row per event, in the order of the enum.
inline constexpr std::array<EventInfo, kEvents> kEventInfo = {{
    {Event::Store, "stores", "data writes by the guest, an exchange included"},
    {Event::Fetch, "fetches", "instruction fetches by the guest"},
    {Event::GuestPageFault, "guest_page_faults",
     "#PF delivered to the guest, whoever found the fault"},
    {Event::GuestWork, "guest_work_cycles",
     "cycles that guest code computes beside its accesses, as the workload says of its programs "
     "and the guest kernel's source of what is done under its locks"},
    {Event::GuestEntry, "guest_syscalls", "system calls that guest programs made"},
    {Event::GuestSwitch, "guest_context_switches",
     "times that a guest kernel gave a vCPU to another process or thread"},
    {Event::GuestFrame, "guest_frames",
     "pages, of 4 KiB or 2 MiB, that a guest kernel gave to memory or tables of its processes"},
    {Event::GuestLine, "guest_string_lines",
     "lines of 64 bytes that string instructions of the guest filled or copied"},
    {Event::GuestTask, "guest_tasks", "processes and threads that a guest kernel made"},
    {Event::Cr3Write, "cr3_writes", "MOV to CR3 by the guest, whether it exits or not"},
    {Event::GuestInvalidation, "guest_invalidations",
     "INVLPG and INVPCID by the guest, whether they exit or not"},
    {Event::TlbL1Miss, "tlb_l1_misses",
     "accesses for whose page the first-level TLB held no entry; one that held too few rights for "
     "the access leads to a walk but is no miss"},
    {Event::TlbL2Hit, "tlb_l2_hits",
     "first-level misses for whose page the second-level TLB held an entry"},
    {Event::Walk, "walks",
     "hardware page walks; the retry after a VM exit and the walk that sets D are walks again"},
    {Event::TableRefGuest, "table_refs_guest",
     "reads of the guest's own table entries by the hardware walker"},
    {Event::TableRefShadow, "table_refs_shadow",
     "reads of shadow table entries by the hardware walker"},
    {Event::TableRefNested, "table_refs_nested",
     "reads of EPT or NPT entries by the hardware walker"},
    {Event::WalkCacheHit, "walk_cache_hits",
     "walks that started below the root thanks to a paging-structure cache; of a page-entry cache, "
     "the entries that it answered"},
    {Event::NestedCacheHit, "nested_walk_cache_hits",
     "walks of the second dimension that began below its root, by its own paging-structure caches; "
     "of a page-entry cache, the entries that it answered"},
    {Event::NestedTlbHit, "nested_tlb_hits",
     "guest-physical addresses of guest tables that the nested TLB translated without a walk"},
    {Event::TableRefL1, "table_refs_l1",
     "table entries read that lay in the first-level data cache"},
    {Event::TableRefL2, "table_refs_l2",
     "those that lay in the second level, and not in the first"},
    {Event::TableRefLlc, "table_refs_llc", "those that lay in the last level alone"},
    {Event::TableRefMemory, "table_refs_memory", "those that came from memory"},
    {Event::TlbSplinter, "tlb_splinters",
     "translations cached as a page smaller than the guest's, because the host's is smaller or the "
     "TLB holds none of that size"},
    {Event::ExitPageFault, "exits_page_fault", "VM exits for #PF (exception or NMI, reason 0)"},
    {Event::ExitCr3, "exits_cr3", "VM exits for MOV to CR3 (reason 28)"},
    {Event::ExitInvlpg, "exits_invlpg", "VM exits for INVLPG (reason 14)"},
    {Event::ExitInvpcid, "exits_invpcid", "VM exits for INVPCID (reason 58)"},
    {Event::ExitCr0, "exits_cr0", "VM exits for MOV to CR0 (reason 28)"},
    {Event::ExitCr4, "exits_cr4", "VM exits for MOV to CR4 (reason 28)"},
    {Event::ExitEptViolation, "exits_ept_violation",
     "VM exits for an EPT violation (reason 48) or NPT's #NPF"},
    {Event::ExitEptMisconfig, "exits_ept_misconfig",
     "VM exits for an EPT misconfiguration (reason 49)"},
    {Event::ExitInterrupt, "exits_interrupt",
     "VM exits of a vCPU that an interrupt reached while it ran the guest (reason 1)"},
    {Event::ExitMsrWrite, "exits_msr_write",
     "VM exits for WRMSR (reason 32): the x2APIC interrupt command register"},
    {Event::ExitPmlFull, "exits_pml_full", "VM exits for a full page-modification log (reason 62)"},
    {Event::ExitHypercall, "exits_hypercall",
     "VM exits for a hypercall (reason 18): the guest tells the host which frames it can spare"},
    {Event::PfTaken, "pf_taken",
     "page faults or EPT violations that entered the hypervisor's MMU handler"},
    {Event::PfFixed, "pf_fixed", "of those, solved by setting an entry"},
    {Event::PfEmulate, "pf_emulate", "of those, solved by emulating the instruction"},
    {Event::PfSpurious, "pf_spurious", "of those, found already solved"},
    {Event::PfFast, "pf_fast", "of those, solved without the MMU lock"},
    {Event::PfGuest, "pf_guest", "#PF injected into the guest by the hypervisor"},
    {Event::MmuCacheMiss, "mmu_cache_miss",
     "shadow pages created because none had the wanted frame and role"},
    {Event::MmuPteWrite, "mmu_pte_write", "guest table writes emulated"},
    {Event::MmuPdeZapped, "mmu_pde_zapped",
     "upper-level shadow entries dropped by an emulated write of a non-zero value"},
    {Event::MmuFlooded, "mmu_flooded",
     "shadow pages dropped because emulated writes to their table seemed not to end"},
    {Event::MmuRecycled, "mmu_recycled", "shadow pages dropped to stay under the limit"},
    {Event::MmuShadowZapped, "mmu_shadow_zapped", "shadow pages dropped, for any reason"},
    {Event::MmuEntrySynced, "mmu_entries_synced",
     "shadow entries compared with the guest's when a table out of sync was brought up to date"},
    {Event::TlbFlush, "tlb_flush", "TLB flushes of one vCPU that the hypervisor did"},
    {Event::Invlpg, "invlpg", "INVLPG instructions that the hypervisor emulated"},
    {Event::DirtyHarvest, "dirty_harvests", "times that the host harvested the dirty log"},
    {Event::DirtyPage, "dirty_pages",
     "4 KiB pages that the harvests found written, to be sent again by a migration"},
    {Event::UnbackedPage, "unbacked_pages",
     "4 KiB guest frames whose memory the host took back, as the guest had offered them"},
    {Event::MergedPage, "merged_pages",
     "4 KiB guest frames that the host gave another, equal frame's memory"},
    {Event::UnmergedPage, "unmerged_pages",
     "writes to frames that others were merged with, each of which left the frame alone"},
    {Event::RemoteTlbFlushRequest, "remote_tlb_flush_requests",
     "times the hypervisor asked all vCPUs of a VM to flush"},
    {Event::RemoteTlbFlush, "remote_tlb_flush",
     "of those, the ones in which another vCPU had to be interrupted"},
    {Event::Ipi, "ipis",
     "interrupts sent to another CPU: the guest's own and the hypervisor's kicks"},
    {Event::IpiReceived, "ipis_received",
     "interrupts from another CPU taken; several that wait at once are taken as one"},
    {Event::FlushDeferred, "deferred_flushes",
     "guest flushes that waited until a vCPU without a CPU got one, instead of an interrupt"},
    {Event::LockAcquisition, "lock_acquisitions",
     "times the hypervisor took the VM's MMU lock, or one of its locks"},
    {Event::LockContended, "lock_contended", "of those, the ones that had to wait"},
    {Event::LockHold, "lock_hold_cycles", "cycles for which those locks were held"},
    {Event::LockWait, "lock_wait_cycles", "cycles that vCPUs waited for those locks"},
    {Event::FlushWait, "flush_wait_cycles",
     "cycles that vCPUs waited for other CPUs to answer a flush, the hypervisor's or the guest's"},
    {Event::GuestLock, "guest_lock_acquisitions",
     "times the guest kernel took a lock that other vCPUs may want"},
    {Event::GuestLockContended, "guest_lock_contended", "of those, the ones that had to wait"},
    {Event::GuestLockWait, "guest_lock_wait_cycles",
     "cycles that vCPUs waited for the guest kernel's own locks"},
    {Event::VcpuSwitch, "vcpu_switches",
     "times a CPU of the host changed from one vCPU to another"},
    {Event::AsidRollover, "asid_rollovers",
     "times a CPU's ASIDs had run out: all of its TLB was flushed and they began again"},
    {Event::HaltedCycles, "halted_cycles", "cycles for which vCPUs had nothing to run"},
    {Event::StealCycles, "steal_cycles", "cycles for which vCPUs that had work had no CPU"},
}};

consteval bool event_rows_in_order() {
  for (unsigned i = 0; i < kEvents; ++i) {
    if (kEventInfo[i].event != static_cast<Event>(i)) return false;
  }
  return true;
}
static_assert(event_rows_in_order(), "kEventInfo has one row per Event, in order");

/// Event counts; the difference of two is what happened between them.
class Counters {
 public:
  constexpr u64& operator[](Event e) { return counts_[static_cast<unsigned>(e)]; }
  constexpr u64 operator[](Event e) const { return counts_[static_cast<unsigned>(e)]; }
  constexpr Counters& operator+=(const Counters& o) {
    for (unsigned i = 0; i < kEvents; ++i) counts_[i] += o.counts_[i];
    return *this;
  }
  friend constexpr Counters operator-(Counters a, const Counters& b) {
    for (unsigned i = 0; i < kEvents; ++i) a.counts_[i] -= b.counts_[i];
    return a;
  }
  friend constexpr bool operator==(const Counters&, const Counters&) = default;

 private:
  std::array<u64, kEvents> counts_{};
};

}  // namespace mmuscope
