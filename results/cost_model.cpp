#include "results/cost_model.h"

#include <array>
#include <cassert>

#include "core/cpu_model.h"
#include "results/experiment.h"

namespace mmuscope {
namespace {

template <Event kEvent>
u64 count(const Counted& c) {
  return c.counters[kEvent];
}
u64 accesses(const Counted& c) { return c.accesses; }
u64 table_refs(const Counted& c) {
  return c.counters[Event::TableRefGuest] + c.counters[Event::TableRefShadow] +
         c.counters[Event::TableRefNested];
}
u64 located_refs(const Counted& c) {
  return c.counters[Event::TableRefL1] + c.counters[Event::TableRefL2] +
         c.counters[Event::TableRefLlc] + c.counters[Event::TableRefMemory];
}
u64 unlocated_refs(const Counted& c) { return table_refs(c) - located_refs(c); }
u64 register_exits(const Counted& c) {
  return c.counters[Event::ExitCr3] + c.counters[Event::ExitCr0] + c.counters[Event::ExitCr4];
}
u64 invalidation_exits(const Counted& c) {
  return c.counters[Event::ExitInvlpg] + c.counters[Event::ExitInvpcid];
}

// Times of the PVM paper are turned into cycles at its host's nominal 2.5 GHz.
constexpr std::array kCosts = {
    // --- the guest's own work -------------------------------------------------------------------
    Cost{"access", CycleClass::Guest, 3, "guest access",
         "every third instruction accesses memory, an instruction a cycle; the data near, as no "
         "data cache is modelled",
         Sure::Assumed, false, accesses},
    Cost{"work", CycleClass::Guest, 1, "cycle of its own that a guest program states",
         "parameter work of a workload", Sure::Assumed, false, count<Event::GuestWork>},
    Cost{"guest_fault", CycleClass::Guest, 8600, "page fault delivered to the guest",
         "the guest kernel's own work for a page: entry, handler, zeroing, its share of the "
         "release; PVM paper, touch 4 GB under EPT",
         Sure::Derived, false, count<Event::GuestPageFault>},
    // --- translation ----------------------------------------------------------------------------
    Cost{"l2_tlb_hit", CycleClass::Walk, 9, "hit in the second-level TLB",
         "Skylake, widely measured", Sure::Memory, false, count<Event::TlbL2Hit>},
    Cost{"walk", CycleClass::Walk, 15, "walk",
         "a Haswell walk that reads one cached entry takes about 20 cycles, of which the entry 5; "
         "Mynavi's Haswell review",
         Sure::Secondary, false, count<Event::Walk>},
    Cost{"table_ref", CycleClass::Walk, 5, "table entry read by the walker",
         "load-to-use latency of a first-level data cache; entries are taken to be cached, unless "
         "table-lines=on says where they are",
         Sure::Memory, false, unlocated_refs},
    // --- the hypervisor's work, the exit's round trip not included
    // --------------------------------
    Cost{"reflect", CycleClass::Vmm, 450, "page fault injected into the guest",
         "intercept and reflect 1,600, less the round trip of 1,150; PVM paper", Sure::Derived,
         true, count<Event::PfGuest>},
    Cost{"fill", CycleClass::Vmm, 2270, "page fault or violation solved by setting an entry",
         "what shadow paging adds to a fresh page, 9,700, less a reflected fault, 1,600, two CR3 "
         "exits of KPTI, 4,680, and a round trip; with its share of unmapping; PVM paper",
         Sure::Derived, true, count<Event::PfFixed>},
    Cost{"emulate_write", CycleClass::Vmm, 2550, "guest table write emulated",
         "exit, emulation and injection 1.66 us = 4,150, less a reflected fault, 1,600; PVM paper",
         Sure::Derived, true, count<Event::MmuPteWrite>},
    Cost{"new_shadow_page", CycleClass::Vmm, 1000, "shadow page created",
         "zeroing 4 KiB, and write-protecting the guest's table in the reverse map", Sure::Assumed,
         true, count<Event::MmuCacheMiss>},
    Cost{"zap_shadow_page", CycleClass::Vmm, 1500, "shadow page dropped",
         "512 entries looked at, at about 3 cycles each", Sure::Assumed, true,
         count<Event::MmuShadowZapped>},
    Cost{"control_register", CycleClass::Vmm, 1190, "exit for MOV to CR3, CR0 or CR4",
         "getpid with KPTI under shadow against EPT: 1.87 us for two CR3 writes, 2,340 each, less "
         "the round trip; PVM paper. CR0 and CR4 taken alike",
         Sure::Derived, true, register_exits},
    Cost{"invalidation", CycleClass::Vmm, 1190, "exit for INVLPG or INVPCID",
         "taken as a CR3 write's: decode, look up a shadow page, flush", Sure::Assumed, true,
         invalidation_exits},
    Cost{"msr_write", CycleClass::Vmm, 1025, "exit for WRMSR",
         "MSR access 0.87 us = 2,175, less the round trip; PVM paper", Sure::Derived, false,
         count<Event::ExitMsrWrite>},
    Cost{"interrupt", CycleClass::Vmm, 200, "exit for an interrupt",
         "taken as the cheapest exit with a handler: CPUID 0.54 us = 1,350, less the round trip; "
         "PVM paper",
         Sure::Assumed, false, count<Event::ExitInterrupt>},
    // --- synchronisation ------------------------------------------------------------------------
    Cost{"ipi", CycleClass::Sync, 6750, "interrupt sent to another CPU, waited for",
         "2.7 us at 2.5 GHz; Kumar et al., *LATR: Lazy Translation Coherence*, ASPLOS 2018",
         Sure::Memory, false, count<Event::Ipi>},
    Cost{"lock", CycleClass::Sync, 40, "MMU lock taken and released, uncontended",
         "two atomic instructions of about 20 cycles", Sure::Memory, false,
         count<Event::LockAcquisition>},
};

constexpr std::string_view kHypercall = "hypercall through KVM 0.46 us = 1,150; PVM paper";
constexpr std::string_view kSameCore = "the same core as Cascade Lake's, measured in the PVM paper";
constexpr std::string_view kAsCascadeLake =
    "no figure read for this CPU; taken as Cascade Lake's, the newest Intel one read";
constexpr std::string_view kAmd2020 =
    "a KVM host of 2020: 1,344 to 1,376 cycles from before to after the guest ran; Linux KVM "
    "mailing list";
constexpr std::string_view kAsAmd2020 =
    "no figure read for this CPU; taken as that of the AMD host of 2020";

constexpr std::array kExitCosts = {
    ExitCost{"nehalem", 2000,
             "Xeon X5570 under KVM, direct cost of an exit; Landau et al., *SplitX*, WIOV 2011. "
             "The hardware's part is 1,009 by Agesen et al., *Software Techniques for Avoiding "
             "Hardware Virtualization Exits*, USENIX ATC 2012 (memory)",
             Sure::Abstract},
    ExitCost{"haswell", 1650,
             "no figure read for this CPU; taken as Sandy Bridge-E's, VMCALL through KVM 1,600 to "
             "1,700",
             Sure::Assumed},
    ExitCost{"skylake", 1150, kSameCore, Sure::Derived},
    ExitCost{"cascade-lake", 1150, kHypercall, Sure::Text},
    ExitCost{"ice-lake", 1150, kAsCascadeLake, Sure::Assumed},
    ExitCost{"sapphire-rapids", 1150, kAsCascadeLake, Sure::Assumed},
    ExitCost{"barcelona", 2000, "no figure read; taken as its contemporary Nehalem's",
             Sure::Assumed},
    ExitCost{"zen1", 1360, kAsAmd2020, Sure::Assumed},
    ExitCost{"zen2", 1360, kAmd2020, Sure::Text},
    ExitCost{"zen3", 1360, kAsAmd2020, Sure::Assumed},
    ExitCost{"zen4", 1360, kAsAmd2020, Sure::Assumed},
};

constexpr std::array kRefCosts = {
    RefCost{"nehalem", 4, 10, 38, 190},   RefCost{"haswell", 5, 12, 50, 230},
    RefCost{"skylake", 5, 14, 70, 225},   RefCost{"cascade-lake", 5, 14, 70, 225},
    RefCost{"ice-lake", 5, 14, 75, 240},  RefCost{"sapphire-rapids", 5, 15, 110, 290},
    RefCost{"barcelona", 3, 12, 45, 180}, RefCost{"zen1", 4, 17, 40, 220},
    RefCost{"zen2", 4, 12, 39, 250},      RefCost{"zen3", 4, 12, 46, 270},
    RefCost{"zen4", 4, 14, 50, 330},
};

u64& part_of(Cycles& cycles, CycleClass part) {
  switch (part) {
    case CycleClass::Guest:
      return cycles.guest;
    case CycleClass::Walk:
      return cycles.walk;
    case CycleClass::Exit:
      return cycles.exit;
    case CycleClass::Vmm:
      return cycles.vmm;
    case CycleClass::Sync:
      break;
  }
  return cycles.sync;
}

}  // namespace

std::string_view name_of(CycleClass c) {
  constexpr std::array<std::string_view, kCycleClasses> kNames = {"guest", "walk", "exit", "vmm",
                                                                  "sync"};
  return kNames[static_cast<unsigned>(c)];
}

std::string_view name_of(Sure sure) {
  constexpr std::array<std::string_view, 6> kNames = {"text",    "abstract", "secondary",
                                                      "derived", "memory",   "assumed"};
  return kNames[static_cast<unsigned>(sure)];
}

std::span<const Cost> costs() { return kCosts; }
std::span<const ExitCost> exit_costs() { return kExitCosts; }

const ExitCost& exit_cost(std::string_view cpu) {
  for (const ExitCost& cost : kExitCosts) {
    if (cost.cpu == cpu) return cost;
  }
  assert(false && "every CPU model has an exit cost");
  return kExitCosts[0];
}

std::span<const RefCost> ref_costs() { return kRefCosts; }

const RefCost& ref_cost(std::string_view cpu) {
  for (const RefCost& cost : kRefCosts) {
    if (cost.cpu == cpu) return cost;
  }
  assert(false && "every CPU model has prices of table entries");
  return kRefCosts[0];
}

Cycles price(std::string_view cpu, const Counted& counted) {
  Cycles cycles;
  for (const Cost& cost : kCosts) {
    const u64 sum = cost.cycles * cost.count(counted);
    part_of(cycles, cost.part) += sum;
    if (cost.paging) cycles.paging += sum;
  }
  const RefCost& ref = ref_cost(cpu);
  const Counters& c = counted.counters;
  cycles.walk += ref.l1 * c[Event::TableRefL1] + ref.l2 * c[Event::TableRefL2] +
                 ref.llc * c[Event::TableRefLlc] + ref.memory * c[Event::TableRefMemory];
  const u64 exits = total_exits(counted.counters);
  const u64 other = counted.counters[Event::ExitInterrupt] + counted.counters[Event::ExitMsrWrite] +
                    counted.counters[Event::ExitHypercall];
  const u64 round_trip = exit_cost(cpu).cycles;
  cycles.exit = exits * round_trip;
  cycles.paging += (exits - other) * round_trip;
  return cycles;
}

}  // namespace mmuscope
