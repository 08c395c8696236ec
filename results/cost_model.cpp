#include "results/cost_model.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <charconv>
#include <fstream>
#include <utility>

#include "core/error.h"
#include "core/exit.h"
#include "core/params.h"

namespace mmuscope {
namespace {

constexpr std::array<Event, 3> of(Event e) { return {e, e, e}; }
constexpr std::array<Event, 3> of(Event a, Event b) { return {a, b, b}; }

// Times of the PVM paper are turned into cycles at its host's nominal 2.5 GHz. `published
// --calibration` is the fit of what was derived from them.
constexpr std::array kCosts = {
    // --- the guest's own work -------------------------------------------------------------------
    Cost{"work", CycleClass::Guest, 1, "cycle of its own that a guest program states",
         "parameter work of a workload", Sure::Assumed, Cause::None, of(Event::GuestWork)},
    Cost{"guest_syscall", CycleClass::Guest, 132, "system call",
         "getpid without KPTI 0.06 us, less its accesses; PVM paper", Sure::Derived, Cause::None,
         of(Event::GuestEntry)},
    Cost{"guest_cr3", CycleClass::Guest, 199, "MOV to CR3, an exit not included",
         "getpid with KPTI 0.22 us under EPT, where it does not exit, less 0.06 us, by two; PVM "
         "paper",
         Sure::Derived, Cause::None, of(Event::Cr3Write)},
    Cost{"guest_invalidation", CycleClass::Guest, 120, "INVLPG or INVPCID, an exit not included",
         "about what is measured on recent Intel", Sure::Memory, Cause::None,
         of(Event::GuestInvalidation)},
    Cost{"guest_fault", CycleClass::Guest, 1000, "page fault delivered to the guest",
         "exception, handler and return on recent Intel, without what the handler gives out",
         Sure::Memory, Cause::None, of(Event::GuestPageFault)},
    Cost{"guest_frame", CycleClass::Guest, 6419, "frame that the guest kernel gives out",
         "the guest's own cost of a fresh page, 8,600, less a fault, two CR3 writes of KPTI, "
         "zeroing, walks and locks; with its share of the release; PVM paper, touch 4 GB under "
         "EPT",
         Sure::Derived, Cause::None, of(Event::GuestFrame)},
    Cost{"guest_line", CycleClass::Guest, 6, "64 bytes filled or copied by a string instruction",
         "about 10 bytes a cycle: a page does not stay in the first-level cache", Sure::Memory,
         Cause::None, of(Event::GuestLine)},
    Cost{"guest_task", CycleClass::Guest, 60000, "process or thread made, run and ended",
         "fork 110 us on a 2.4 GHz Xeon without a hypervisor, LMbench in Barham et al., *Xen and "
         "the Art of Virtualization*, SOSP 2003, less what is counted: pages, faults, switches",
         Sure::Memory, Cause::None, of(Event::GuestTask)},
    Cost{"guest_switch", CycleClass::Guest, 1500, "context switch of the guest kernel",
         "scheduler and registers, without the CR3 write, on recent Intel", Sure::Memory,
         Cause::None, of(Event::GuestSwitch)},
    // --- translation ----------------------------------------------------------------------------
    Cost{"l2_tlb_hit", CycleClass::Walk, 9, "hit in the second-level TLB",
         "Skylake, widely measured", Sure::Memory, Cause::None, of(Event::TlbL2Hit)},
    Cost{"walk", CycleClass::Walk, 15, "walk",
         "a Haswell walk that reads one cached entry takes about 20 cycles, of which the entry 5; "
         "Mynavi's Haswell review",
         Sure::Secondary, Cause::None, of(Event::Walk)},
    Cost{"table_ref",
         CycleClass::Walk,
         5,
         "table entry read by the walker",
         "load-to-use latency of a first-level data cache; entries are taken to be cached, unless "
         "table-lines=on says where they are",
         Sure::Memory,
         Cause::None,
         {Event::TableRefGuest, Event::TableRefShadow, Event::TableRefNested}},
    // --- the hypervisor's work, the exit's round trip not included
    Cost{"reflect", CycleClass::Vmm, 440, "page fault injected into the guest",
         "intercept and reflect 1,600, less the round trip of 1,150 and an entry synchronised; PVM "
         "paper",
         Sure::Derived, Cause::TrueFaults, of(Event::PfGuest)},
    Cost{"fill", CycleClass::Vmm, 2066, "page fault or violation solved by setting an entry",
         "what shadow paging adds to a fresh page, 9,700, less a reflected fault, two CR3 exits of "
         "KPTI, a round trip, and its share of upper tables; with that of unmapping; PVM paper",
         Sure::Derived, Cause::HiddenFaults, of(Event::PfFixed)},
    Cost{"emulate_write", CycleClass::Vmm, 2550, "guest table write emulated",
         "exit, emulation and injection 1.66 us = 4,150, less a reflected fault, 1,600; PVM paper",
         Sure::Derived, Cause::TableWrites, of(Event::MmuPteWrite)},
    Cost{"new_shadow_page", CycleClass::Vmm, 1000, "shadow page created",
         "zeroing 4 KiB, and write-protecting the guest's table in the reverse map", Sure::Assumed,
         Cause::ShadowPages, of(Event::MmuCacheMiss)},
    Cost{"zap_shadow_page", CycleClass::Vmm, 1500, "shadow page dropped",
         "512 entries looked at, at about 3 cycles each", Sure::Assumed, Cause::ShadowPages,
         of(Event::MmuShadowZapped)},
    Cost{"sync_entry", CycleClass::Vmm, 10, "shadow entry compared with the guest's",
         "two entries read, rights compared", Sure::Assumed, Cause::Synchronising,
         of(Event::MmuEntrySynced)},
    Cost{"control_register",
         CycleClass::Vmm,
         1190,
         "exit for MOV to CR3, CR0 or CR4",
         "getpid with KPTI under shadow against EPT: 1.87 us for two CR3 writes, 2,340 each, less "
         "the round trip; PVM paper. CR0 and CR4 taken alike",
         Sure::Derived,
         Cause::Registers,
         {Event::ExitCr3, Event::ExitCr0, Event::ExitCr4}},
    Cost{"invalidation", CycleClass::Vmm, 1190, "exit for INVLPG or INVPCID",
         "taken as a CR3 write's: decode, look up a shadow page, flush", Sure::Assumed,
         Cause::Invalidations, of(Event::ExitInvlpg, Event::ExitInvpcid)},
    Cost{"msr_write", CycleClass::Vmm, 1025, "exit for WRMSR",
         "MSR access 0.87 us = 2,175, less the round trip; PVM paper", Sure::Derived, Cause::Other,
         of(Event::ExitMsrWrite)},
    Cost{"interrupt", CycleClass::Vmm, 200, "exit for an interrupt",
         "taken as the cheapest exit with a handler: CPUID 0.54 us = 1,350, less the round trip; "
         "PVM paper",
         Sure::Assumed, Cause::Other, of(Event::ExitInterrupt)},
    Cost{"vcpu_switch", CycleClass::Vmm, 3000, "change of the vCPU that has a CPU",
         "a context switch of the host and loading the VM's state, about 1.2 us", Sure::Assumed,
         Cause::Other, of(Event::VcpuSwitch)},
    // --- synchronisation ------------------------------------------------------------------------
    Cost{"ipi_send", CycleClass::Sync, 300, "interrupt sent to another CPU",
         "writing the x2APIC's command register", Sure::Memory, Cause::None, of(Event::Ipi)},
    Cost{"ipi_receive", CycleClass::Sync, 2500, "interrupt from another CPU served",
         "exception entry, handler, end of interrupt: about 1 us; part of the 2.7 us of "
         "*LATR: Lazy Translation Coherence*, Kumar et al., ASPLOS 2018",
         Sure::Assumed, Cause::None, of(Event::IpiReceived)},
    Cost{"lock", CycleClass::Sync, 40, "lock taken and released, the hypervisor's or the guest's",
         "two atomic instructions of about 20 cycles", Sure::Memory, Cause::None,
         of(Event::LockAcquisition, Event::GuestLock)},
    Cost{"lock_handover", CycleClass::Sync, 600, "lock handed to one that waited for it",
         "two transfers of a cache line between sockets, about 130 ns each", Sure::Memory,
         Cause::None, of(Event::LockContended, Event::GuestLockContended)},
    Cost{"waiting",
         CycleClass::Sync,
         1,
         "cycle that a vCPU waited for a lock or an answer",
         "schedule=time counts them",
         Sure::Derived,
         Cause::None,
         {Event::LockWait, Event::FlushWait, Event::GuestLockWait}},
};

constexpr std::array kOtherCosts = {
    OtherCost{"access", 3, "guest access",
              "every third instruction accesses memory, an instruction a cycle; the data near, as "
              "no data cache is modelled",
              Sure::Assumed},
    OtherCost{"ipi_delivery", 2500, "interrupt between CPUs, from sending to arrival",
              "about 1 us between two sockets; part of the 2.7 us of LATR", Sure::Assumed},
    OtherCost{"ipi_answer", 1450, "interrupt between CPUs, from served until its sender knows",
              "the rest of LATR's 2.7 us = 6,750, which is of memory (medium)", Sure::Memory},
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

template <class Row>
const Row& of_cpu(std::span<const Row> rows, std::string_view cpu) {
  const auto found =
      std::find_if(rows.begin(), rows.end(), [cpu](const Row& row) { return row.cpu == cpu; });
  assert(found != rows.end() && "every CPU model has its prices");
  return *found;
}

/// Why the guest is left. Page faults and violations are hidden ones here; those that were not are
/// taken out again where they are counted.
Cause cause_of(ExitReason reason) {
  switch (reason) {
    case ExitReason::PageFault:
    case ExitReason::EptViolation:
    case ExitReason::EptMisconfig:
      return Cause::HiddenFaults;
    case ExitReason::Cr3:
    case ExitReason::Cr0:
    case ExitReason::Cr4:
      return Cause::Registers;
    case ExitReason::Invlpg:
    case ExitReason::Invpcid:
      return Cause::Invalidations;
    default:
      return Cause::Other;
  }
}

constexpr unsigned index(Event e) { return static_cast<unsigned>(e); }

u64 sum(const std::array<u64, kEvents>& weights, const Counters& counters) {
  u64 total = 0;
  for (unsigned e = 0; e < kEvents; ++e) total += weights[e] * counters[static_cast<Event>(e)];
  return total;
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

const ExitCost& exit_cost(std::string_view cpu) { return of_cpu(exit_costs(), cpu); }

std::span<const RefCost> ref_costs() { return kRefCosts; }
const RefCost& ref_cost(std::string_view cpu) { return of_cpu(ref_costs(), cpu); }
std::span<const OtherCost> other_costs() { return kOtherCosts; }

Prices::Prices(std::string_view cpu, std::span<const PriceChange> changes, bool timed)
    : changes_(changes.begin(), changes.end()), ref_(ref_cost(cpu)) {
  u64 table_ref = 0;
  for (const Cost& cost : kCosts) {
    const u64 cycles = cycles_of(cost.name, cost.cycles);
    if (cost.name == "table_ref") table_ref = cycles;
    for (std::size_t i = 0; i < cost.events.size(); ++i) {
      if (i > 0 && cost.events[i] == cost.events[i - 1]) break;
      by_class_[static_cast<unsigned>(cost.part)][index(cost.events[i])] += cycles;
      by_cause_[static_cast<unsigned>(cost.cause)][index(cost.events[i])] += cycles;
    }
  }
  exit_ = cycles_of("exit", exit_cost(cpu).cycles);
  for (unsigned e = index(Event::ExitPageFault); e <= index(Event::ExitHypercall); ++e) {
    const auto reason = static_cast<ExitReason>(e - index(Event::ExitPageFault));
    by_class_[static_cast<unsigned>(CycleClass::Exit)][e] += exit_;
    by_cause_[static_cast<unsigned>(cause_of(reason))][e] += exit_;
  }
  for (const auto& [event, cause] : {std::pair(Event::PfGuest, Cause::TrueFaults),
                                     std::pair(Event::PfEmulate, Cause::TableWrites)}) {
    by_cause_[static_cast<unsigned>(Cause::HiddenFaults)][index(event)] -= exit_;
    by_cause_[static_cast<unsigned>(cause)][index(event)] += exit_;
  }
  // An entry whose place is known costs what that place does, instead of the flat price.
  auto& walk = by_class_[static_cast<unsigned>(CycleClass::Walk)];
  walk[index(Event::TableRefL1)] += cycles_of("table_ref_l1", ref_.l1) - table_ref;
  walk[index(Event::TableRefL2)] += cycles_of("table_ref_l2", ref_.l2) - table_ref;
  walk[index(Event::TableRefLlc)] += cycles_of("table_ref_llc", ref_.llc) - table_ref;
  walk[index(Event::TableRefMemory)] += cycles_of("table_ref_memory", ref_.memory) - table_ref;
  auto& sync = by_class_[static_cast<unsigned>(CycleClass::Sync)];
  table_.access = cycles_of("access", kOtherCosts[0].cycles);
  table_.ipi_delivery = cycles_of("ipi_delivery", kOtherCosts[1].cycles);
  table_.ipi_answer = cycles_of("ipi_answer", kOtherCosts[2].cycles);
  if (!timed) {
    sync[index(Event::Ipi)] +=
        table_.ipi_delivery + sync[index(Event::IpiReceived)] + table_.ipi_answer;
  }
  for (unsigned e = 0; e < kEvents; ++e) {
    u64 all = 0;
    for (const auto& weights : by_class_) all += weights[e];
    if (all != 0) table_.event[e] = all;
  }
}

u64 Prices::cycles_of(std::string_view name, u64 cycles) const {
  for (const PriceChange& change : changes_) {
    if (change.name == name) return change.cycles;
  }
  return cycles;
}

Cycles Prices::of(const Counted& counted) const {
  Cycles cycles;
  for (unsigned part = 0; part < kCycleClasses; ++part) {
    part_of(cycles, static_cast<CycleClass>(part)) = sum(by_class_[part], counted.counters);
  }
  cycles.guest += table_.access * counted.accesses;
  for (unsigned cause = 1; cause < kCauses; ++cause) {
    cycles.by_cause[cause] = sum(by_cause_[cause], counted.counters);
  }
  return cycles;
}

// --- a user's own --------------------------------------------------------------------------------

namespace {

std::vector<std::string_view> price_names() {
  std::vector<std::string_view> names = {"exit", "table_ref_l1", "table_ref_l2", "table_ref_llc",
                                         "table_ref_memory"};
  for (const Cost& cost : kCosts) {
    if (cost.name != "waiting") names.push_back(cost.name);
  }
  for (const OtherCost& cost : kOtherCosts) names.push_back(cost.name);
  return names;
}

std::string_view trimmed(std::string_view text) {
  const auto first = text.find_first_not_of(" \t\r");
  if (first == text.npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
}

}  // namespace

std::vector<PriceChange> read_prices(const std::filesystem::path& file) {
  std::ifstream in(file);
  if (!in) throw InputError(file.string() + ": cannot be read");
  std::vector<PriceChange> changes;
  const auto names = price_names();
  std::string text;
  for (unsigned number = 1; std::getline(in, text); ++number) {
    const auto bad = [&](const std::string& why) {
      return InputError(file.string() + ":" + std::to_string(number) + ": " + why);
    };
    const std::string_view line = trimmed(std::string_view(text).substr(0, text.find('#')));
    if (line.empty()) continue;
    const auto equals = line.find('=');
    if (equals == line.npos) throw bad("'" + std::string(line) + "' is not name = cycles");
    const std::string name(trimmed(line.substr(0, equals)));
    const std::string_view value = trimmed(line.substr(equals + 1));
    if (std::find(names.begin(), names.end(), name) == names.end()) {
      throw bad(unknown_word("price", name, names));
    }
    for (const PriceChange& c : changes) {
      if (c.name == name) throw bad("price '" + name + "' is given twice");
    }
    u64 cycles = 0;
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), cycles);
    if (error != std::errc() || end != value.data() + value.size() || cycles > 1'000'000'000) {
      throw bad(name + " = " + std::string(value) +
                " is not valid; valid: cycles, an integer from 0 to 1000000000");
    }
    changes.push_back({name, cycles});
  }
  return changes;
}

}  // namespace mmuscope
