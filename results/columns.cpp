#include "results/columns.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>

namespace mmuscope {
namespace {

using Kind = ColumnKind;

// --- suite.csv -----------------------------------------------------------------------------------

const Counters& counters(const SuiteRow& r) { return r.result->counters; }

template <Event kEvent>
Value count(const SuiteRow& r) {
  return counters(r)[kEvent];
}
/// A column that is an event: its name and meaning are the event's.
template <Event kEvent>
constexpr Column<SuiteRow> event(std::string_view unit, std::string_view group) {
  const EventInfo& info = kEventInfo[static_cast<unsigned>(kEvent)];
  return {info.name, Kind::Counter, unit, group, info.meaning, count<kEvent>};
}
/// The same, empty where data caches are not modelled.
template <Event kEvent>
constexpr Column<SuiteRow> line_event() {
  Column<SuiteRow> c = event<kEvent>("references", "translation");
  c.value = [](const SuiteRow& r) -> Value {
    if (!r.experiment->machine.on("table-lines")) return {};
    return counters(r)[kEvent];
  };
  return c;
}
template <u64 Gauges::*kGauge>
Value gauge(const SuiteRow& r) {
  return r.result->gauges.*kGauge;
}
/// The same, empty where no clocks run.
template <Event kEvent>
constexpr Column<SuiteRow> timed_event(std::string_view unit, std::string_view group) {
  Column<SuiteRow> c = event<kEvent>(unit, group);
  c.value = [](const SuiteRow& r) -> Value {
    if (!r.experiment->timed()) return {};
    return counters(r)[kEvent];
  };
  return c;
}
template <Cause kCause>
Value cycles_for(const SuiteRow& r) {
  return r.cycles.by_cause[static_cast<unsigned>(kCause)];
}
Value elapsed(const SuiteRow& r) {
  if (!r.experiment->timed()) return {};
  u64 longest = 0;
  for (const Result::OfVcpu& v : r.result->vcpus) longest = std::max(longest, v.clock);
  return longest;
}
template <u64 Cycles::*kPart>
Value cycles(const SuiteRow& r) {
  return r.cycles.*kPart;
}

u64 table_refs(const Counters& c) {
  return c[Event::TableRefGuest] + c[Event::TableRefShadow] + c[Event::TableRefNested];
}
Value refs_per_walk(const SuiteRow& r) {
  const u64 walks = counters(r)[Event::Walk];
  if (walks == 0) return {};
  return static_cast<double>(table_refs(counters(r))) / static_cast<double>(walks);
}

/// Bytes private to a process, over the processes that have the figure: count, sum and largest.
struct PerProcess {
  u64 processes = 0, sum = 0, largest = 0;
};
PerProcess per_process(const SuiteRow& r) {
  PerProcess all;
  for (const ProcessRow& p : r.result->processes) {
    if (!p.pid || !p.pager_bytes) continue;
    ++all.processes;
    all.sum += *p.pager_bytes;
    all.largest = std::max(all.largest, *p.pager_bytes);
  }
  return all;
}
Value mean_per_process(const SuiteRow& r) {
  const PerProcess all = per_process(r);
  if (all.processes == 0) return {};
  return static_cast<double>(all.sum) / static_cast<double>(all.processes);
}
Value max_per_process(const SuiteRow& r) {
  const PerProcess all = per_process(r);
  if (all.processes == 0) return {};
  return all.largest;
}
Value paging_share(const SuiteRow& r) {
  if (r.cycles.exit + r.cycles.vmm == 0) return {};
  return r.cycles.paging_share();
}
Value slowdown(const SuiteRow& r) {
  if (!r.slowdown) return {};
  return *r.slowdown;
}

constexpr std::string_view kIdentity = "identity", kAccesses = "accesses",
                           kTranslation = "translation", kExits = "exits",
                           kMmu = "the hypervisor's MMU", kMemory = "memory",
                           kSync = "synchronisation", kTime = "modelled time",
                           kVmm = "the hypervisor's time by cause";

constexpr std::array kSuiteColumns = {
    Column<SuiteRow>{"suite", Kind::Identity, "", kIdentity, "name of the suite",
                     [](const SuiteRow& r) -> Value { return r.suite; }},
    Column<SuiteRow>{"cell", Kind::Identity, "", kIdentity,
                     "number of the experiment in the suite, from 1",
                     [](const SuiteRow& r) -> Value { return r.cell; }},
    Column<SuiteRow>{
        "workload", Kind::Identity, "", kIdentity, "name of the workload",
        [](const SuiteRow& r) -> Value { return std::string(r.experiment->workload->name); }},
    Column<SuiteRow>{
        "workload_params", Kind::Identity, "", kIdentity, "all its keys and values",
        [](const SuiteRow& r) -> Value { return r.experiment->workload_params.canonical(); }},
    Column<SuiteRow>{
        "pager", Kind::Identity, "", kIdentity, "name of the pager",
        [](const SuiteRow& r) -> Value { return std::string(r.experiment->pager->name); }},
    Column<SuiteRow>{
        "pager_params", Kind::Identity, "", kIdentity, "all its keys and values",
        [](const SuiteRow& r) -> Value { return r.experiment->pager_params.canonical(); }},
    Column<SuiteRow>{"cpu", Kind::Identity, "", kIdentity, "CPU model",
                     [](const SuiteRow& r) -> Value { return r.experiment->cpu; }},
    Column<SuiteRow>{"machine_params", Kind::Identity, "", kIdentity,
                     "all keys of --set and their values",
                     [](const SuiteRow& r) -> Value { return r.experiment->machine.canonical(); }},
    Column<SuiteRow>{"vcpus", Kind::Identity, "vCPUs", kIdentity, "virtual CPUs of each VM",
                     [](const SuiteRow& r) -> Value { return u64{r.experiment->vcpus}; }},
    Column<SuiteRow>{"vms", Kind::Identity, "VMs", kIdentity, "virtual machines on the host",
                     [](const SuiteRow& r) -> Value { return u64{r.experiment->vms}; }},
    Column<SuiteRow>{"seed", Kind::Identity, "", kIdentity, "seed of the workload's choices",
                     [](const SuiteRow& r) -> Value { return r.experiment->seed; }},
    Column<SuiteRow>{"status", Kind::Identity, "", kIdentity,
                     "ok, or why the run could not go on; the columns after it are then empty",
                     [](const SuiteRow& r) -> Value { return r.result->status; }},

    Column<SuiteRow>{"accesses", Kind::Counter, "accesses", kAccesses,
                     "loads, stores and fetches of the guest",
                     [](const SuiteRow& r) -> Value { return r.result->accesses; }},
    Column<SuiteRow>{"loads", Kind::Counter, "accesses", kAccesses, "data reads by the guest",
                     [](const SuiteRow& r) -> Value {
                       return r.result->accesses - counters(r)[Event::Store] -
                              counters(r)[Event::Fetch];
                     }},
    event<Event::Store>("accesses", kAccesses),
    event<Event::Fetch>("accesses", kAccesses),
    event<Event::GuestPageFault>("faults", kAccesses),
    event<Event::GuestWork>("cycles", kAccesses),
    event<Event::GuestEntry>("calls", kAccesses),
    event<Event::GuestSwitch>("switches", kAccesses),
    event<Event::GuestTask>("tasks", kAccesses),
    event<Event::GuestFrame>("frames", kAccesses),
    event<Event::GuestLine>("lines", kAccesses),
    event<Event::Cr3Write>("instructions", kAccesses),
    event<Event::GuestInvalidation>("instructions", kAccesses),

    Column<SuiteRow>{"tlb_l1_hits", Kind::Counter, "accesses", kTranslation,
                     "accesses that the first-level TLB answered at once",
                     [](const SuiteRow& r) -> Value {
                       return r.result->accesses - counters(r)[Event::TlbL1Miss];
                     }},
    event<Event::TlbL2Hit>("accesses", kTranslation),
    Column<SuiteRow>{
        "tlb_misses", Kind::Counter, "accesses", kTranslation,
        "accesses that neither TLB level answered",
        [](const SuiteRow& r)
            -> Value { return counters(r)[Event::TlbL1Miss] - counters(r)[Event::TlbL2Hit]; }},
    event<Event::Walk>("walks", kTranslation),
    Column<SuiteRow>{
        "table_refs", Kind::Counter, "references", kTranslation,
        "reads of table entries by the hardware walker: the guest's, shadow and nested ones",
        [](const SuiteRow& r) -> Value { return table_refs(counters(r)); }},
    event<Event::TableRefGuest>("references", kTranslation),
    event<Event::TableRefShadow>("references", kTranslation),
    event<Event::TableRefNested>("references", kTranslation),
    Column<SuiteRow>{"refs_per_walk", Kind::Ratio, "references", kTranslation,
                     "table_refs / walks; empty where nothing was walked", refs_per_walk},
    event<Event::WalkCacheHit>("walks", kTranslation),
    event<Event::NestedCacheHit>("walks", kTranslation),
    event<Event::NestedTlbHit>("translations", kTranslation),
    line_event<Event::TableRefL1>(),
    line_event<Event::TableRefL2>(),
    line_event<Event::TableRefLlc>(),
    line_event<Event::TableRefMemory>(),
    event<Event::TlbSplinter>("translations", kTranslation),

    Column<SuiteRow>{"exits", Kind::Counter, "exits", kExits, "VM exits, the sum of all exits_*",
                     [](const SuiteRow& r) -> Value { return total_exits(counters(r)); }},
    event<Event::ExitPageFault>("exits", kExits),
    event<Event::ExitCr3>("exits", kExits),
    event<Event::ExitInvlpg>("exits", kExits),
    event<Event::ExitInvpcid>("exits", kExits),
    event<Event::ExitCr0>("exits", kExits),
    event<Event::ExitCr4>("exits", kExits),
    event<Event::ExitEptViolation>("exits", kExits),
    event<Event::ExitEptMisconfig>("exits", kExits),
    event<Event::ExitPmlFull>("exits", kExits),
    event<Event::ExitInterrupt>("exits", kExits),
    event<Event::ExitMsrWrite>("exits", kExits),
    event<Event::ExitHypercall>("exits", kExits),

    event<Event::PfTaken>("faults", kMmu),
    event<Event::PfFixed>("faults", kMmu),
    event<Event::PfEmulate>("faults", kMmu),
    event<Event::PfSpurious>("faults", kMmu),
    event<Event::PfFast>("faults", kMmu),
    event<Event::PfGuest>("faults", kMmu),
    event<Event::MmuCacheMiss>("pages", kMmu),
    event<Event::MmuPteWrite>("writes", kMmu),
    event<Event::MmuPdeZapped>("entries", kMmu),
    event<Event::MmuFlooded>("pages", kMmu),
    event<Event::MmuRecycled>("pages", kMmu),
    event<Event::MmuShadowZapped>("pages", kMmu),
    event<Event::MmuEntrySynced>("entries", kMmu),
    Column<SuiteRow>{"mmu_unsync", Kind::Gauge, "pages", kMmu,
                     "shadow pages out of sync with their guest table, at the end",
                     gauge<&Gauges::mmu_unsync>},
    Column<SuiteRow>{"pages_4k", Kind::Gauge, "entries", kMmu,
                     "4 KiB leaf entries in the pager's tables, at the end",
                     gauge<&Gauges::pages_4k>},
    Column<SuiteRow>{"pages_2m", Kind::Gauge, "entries", kMmu,
                     "2 MiB leaf entries in the pager's tables, at the end",
                     gauge<&Gauges::pages_2m>},
    Column<SuiteRow>{"pages_1g", Kind::Gauge, "entries", kMmu,
                     "1 GiB leaf entries in the pager's tables, at the end",
                     gauge<&Gauges::pages_1g>},
    event<Event::TlbFlush>("flushes", kMmu),
    event<Event::Invlpg>("instructions", kMmu),
    event<Event::DirtyHarvest>("harvests", kMmu),
    event<Event::DirtyPage>("pages", kMmu),
    event<Event::UnbackedPage>("pages", kMmu),
    event<Event::MergedPage>("pages", kMmu),
    event<Event::UnmergedPage>("pages", kMmu),

    Column<SuiteRow>{"guest_table_bytes_peak", Kind::Gauge, "bytes", kMemory,
                     "the most that the guest's own tables took at any sample",
                     [](const SuiteRow& r) -> Value { return r.result->guest_table_bytes_peak; }},
    Column<SuiteRow>{"pager_table_bytes_peak", Kind::Gauge, "bytes", kMemory,
                     "the most that the pager's tables took at once",
                     gauge<&Gauges::table_bytes_peak>},
    Column<SuiteRow>{"pager_bytes_peak", Kind::Gauge, "bytes", kMemory,
                     "the most that the pager's tables and its bookkeeping took at once",
                     gauge<&Gauges::pager_bytes_peak>},
    Column<SuiteRow>{"processes_peak", Kind::Gauge, "processes", kMemory,
                     "the most guest processes alive at any sample",
                     [](const SuiteRow& r) -> Value { return r.result->processes_peak; }},
    Column<SuiteRow>{"pager_bytes_per_process_mean", Kind::Ratio, "bytes", kMemory,
                     "pager bytes private to a process, at its own peak: the mean; empty where the "
                     "pager has no tables of processes",
                     mean_per_process},
    Column<SuiteRow>{"pager_bytes_per_process_max", Kind::Gauge, "bytes", kMemory,
                     "the same, of the process with the most", max_per_process},

    event<Event::RemoteTlbFlushRequest>("requests", kSync),
    event<Event::RemoteTlbFlush>("requests", kSync),
    event<Event::Ipi>("interrupts", kSync),
    event<Event::FlushDeferred>("flushes", kSync),
    timed_event<Event::FlushWait>("cycles", kSync),
    event<Event::LockAcquisition>("acquisitions", kSync),
    timed_event<Event::LockContended>("acquisitions", kSync),
    timed_event<Event::LockHold>("cycles", kSync),
    timed_event<Event::LockWait>("cycles", kSync),
    event<Event::GuestLock>("acquisitions", kSync),
    timed_event<Event::GuestLockContended>("acquisitions", kSync),
    timed_event<Event::GuestLockWait>("cycles", kSync),
    event<Event::VcpuSwitch>("switches", kSync),
    event<Event::AsidRollover>("flushes", kSync),

    Column<SuiteRow>{"cycles_guest", Kind::Counter, "cycles", kTime,
                     "the guest's own instructions and fault handling", cycles<&Cycles::guest>},
    Column<SuiteRow>{"cycles_walk", Kind::Counter, "cycles", kTime,
                     "second-level TLB hits and page walks", cycles<&Cycles::walk>},
    Column<SuiteRow>{"cycles_exit", Kind::Counter, "cycles", kTime,
                     "round trips out of the guest and back", cycles<&Cycles::exit>},
    Column<SuiteRow>{"cycles_vmm", Kind::Counter, "cycles", kTime,
                     "the hypervisor's work between exit and entry", cycles<&Cycles::vmm>},
    Column<SuiteRow>{"cycles_sync", Kind::Counter, "cycles", kTime,
                     "interrupts to other CPUs and locks; waiting, too, with schedule=time, or "
                     "else only for the answers to interrupts",
                     cycles<&Cycles::sync>},
    Column<SuiteRow>{"cycles_total", Kind::Counter, "cycles", kTime,
                     "the sum of the five: CPU time of all vCPUs",
                     [](const SuiteRow& r) -> Value { return r.cycles.total(); }},
    Column<SuiteRow>{"paging_share_of_vmm", Kind::Ratio, "", kTime,
                     "paging's share of cycles_exit + cycles_vmm: all but vmm_cycles_other; empty "
                     "where nothing exits",
                     paging_share},
    Column<SuiteRow>{"vmm_cycles_true_faults", Kind::Counter, "cycles", kVmm,
                     "page faults handed to the guest", cycles_for<Cause::TrueFaults>},
    Column<SuiteRow>{"vmm_cycles_hidden_faults", Kind::Counter, "cycles", kVmm,
                     "page faults and EPT violations that the guest does not see",
                     cycles_for<Cause::HiddenFaults>},
    Column<SuiteRow>{"vmm_cycles_table_writes", Kind::Counter, "cycles", kVmm,
                     "guest table writes emulated", cycles_for<Cause::TableWrites>},
    Column<SuiteRow>{"vmm_cycles_shadow_pages", Kind::Counter, "cycles", kVmm,
                     "shadow pages made and dropped", cycles_for<Cause::ShadowPages>},
    Column<SuiteRow>{"vmm_cycles_synchronising", Kind::Counter, "cycles", kVmm,
                     "tables out of sync brought up to date", cycles_for<Cause::Synchronising>},
    Column<SuiteRow>{"vmm_cycles_registers", Kind::Counter, "cycles", kVmm,
                     "MOV to CR3, CR0 and CR4", cycles_for<Cause::Registers>},
    Column<SuiteRow>{"vmm_cycles_invalidations", Kind::Counter, "cycles", kVmm,
                     "INVLPG and INVPCID", cycles_for<Cause::Invalidations>},
    Column<SuiteRow>{"vmm_cycles_other", Kind::Counter, "cycles", kVmm,
                     "interrupts, MSRs, changes of the vCPU that has a CPU, full logs",
                     cycles_for<Cause::Other>},
    timed_event<Event::HaltedCycles>("cycles", kTime),
    timed_event<Event::StealCycles>("cycles", kTime),
    Column<SuiteRow>{"cycles_elapsed", Kind::Gauge, "cycles", kTime,
                     "from the beginning to the end of the vCPU that ended last; empty without "
                     "schedule=time",
                     elapsed},
    Column<SuiteRow>{"slowdown_vs_native", Kind::Ratio, "", kTime,
                     "cycles_total over that of the native experiment with the same identity but "
                     "the pager; empty where there is none",
                     slowdown},
};

// --- processes.csv -------------------------------------------------------------------------------

Value optional_value(const std::optional<u64>& value) { return value ? Value(*value) : Value(); }
Value guest_table_bytes(const ProcessCsvRow& r) {
  if (!r.process->guest_table_pages) return {};
  return *r.process->guest_table_pages * kPageBytes;
}

constexpr std::array kProcessColumns = {
    Column<ProcessCsvRow>{"cell", Kind::Identity, "", kIdentity, "as in suite.csv",
                          [](const ProcessCsvRow& r) -> Value { return r.cell; }},
    Column<ProcessCsvRow>{"vm", Kind::Identity, "", kIdentity, "number of the VM, from 0",
                          [](const ProcessCsvRow& r) -> Value { return u64{r.process->vm}; }},
    Column<ProcessCsvRow>{"pid", Kind::Identity, "", kIdentity,
                          "the guest's number of the process; empty in the rows shared, orphaned "
                          "and vm",
                          [](const ProcessCsvRow& r) -> Value {
                            return r.process->pid ? Value(u64{*r.process->pid}) : Value();
                          }},
    Column<ProcessCsvRow>{"name", Kind::Identity, "", kIdentity,
                          "name of the process; shared: tables that several processes use; "
                          "orphaned: the pager's tables of no living process; vm: tables of the "
                          "whole VM, and the events of no process or of one's tearing down",
                          [](const ProcessCsvRow& r) -> Value { return r.process->name; }},
    Column<ProcessCsvRow>{
        "guest_table_pages", Kind::Gauge, "pages", kMemory, "its own guest tables, peak",
        [](const ProcessCsvRow& r) { return optional_value(r.process->guest_table_pages); }},
    Column<ProcessCsvRow>{"guest_table_bytes", Kind::Gauge, "bytes", kMemory,
                          "the same in bytes, 4,096 a page", guest_table_bytes},
    Column<ProcessCsvRow>{
        "pager_table_pages_private", Kind::Gauge, "pages", kMemory,
        "the pager's tables that serve this row alone, when its pager_bytes were most",
        [](const ProcessCsvRow& r) { return optional_value(r.process->table_pages_private); }},
    Column<ProcessCsvRow>{
        "pager_table_pages_shared", Kind::Gauge, "pages", kMemory,
        "at that moment, the pager's tables that serve it and others: not for summing; in the row "
        "shared, all of them, each once",
        [](const ProcessCsvRow& r) { return optional_value(r.process->table_pages_shared); }},
    Column<ProcessCsvRow>{
        "pager_bytes", Kind::Gauge, "bytes", kMemory,
        "the pager's tables and bookkeeping that serve this row alone, peak",
        [](const ProcessCsvRow& r) { return optional_value(r.process->pager_bytes); }},
    Column<ProcessCsvRow>{"exits", Kind::Counter, "exits", kExits, "VM exits while it ran",
                          [](const ProcessCsvRow& r) { return optional_value(r.process->exits); }},
    Column<ProcessCsvRow>{
        "guest_page_faults", Kind::Counter, "faults", kAccesses, "page faults delivered to it",
        [](const ProcessCsvRow& r) { return optional_value(r.process->guest_page_faults); }},
};

// --- vcpus.csv -----------------------------------------------------------------------------------

/// Cycles that clocks count, empty where none run.
template <Event kEvent>
constexpr Column<VcpuCsvRow> vcpu_wait() {
  const EventInfo& info = kEventInfo[static_cast<unsigned>(kEvent)];
  return {
      info.name, Kind::Counter, "cycles", kSync, info.meaning, [](const VcpuCsvRow& r) -> Value {
        if (!r.timed) return {};
        return r.counted->counters[kEvent];
      }};
}

constexpr std::array kVcpuColumns = {
    Column<VcpuCsvRow>{"cell", Kind::Identity, "", kIdentity, "as in suite.csv",
                       [](const VcpuCsvRow& r) -> Value { return r.cell; }},
    Column<VcpuCsvRow>{"vm", Kind::Identity, "", kIdentity, "number of the VM, from 0",
                       [](const VcpuCsvRow& r) -> Value { return u64{r.counted->vm}; }},
    Column<VcpuCsvRow>{"vcpu", Kind::Identity, "", kIdentity, "number of the vCPU, from 0",
                       [](const VcpuCsvRow& r) -> Value { return u64{r.counted->vcpu}; }},
    Column<VcpuCsvRow>{
        "exits", Kind::Counter, "exits", kExits, "its VM exits",
        [](const VcpuCsvRow& r) -> Value { return total_exits(r.counted->counters); }},
    Column<VcpuCsvRow>{
        "ipis_sent", Kind::Counter, "interrupts", kSync,
        "interrupts to other CPUs that it caused: its own and the hypervisor's kicks",
        [](const VcpuCsvRow& r) -> Value { return r.counted->counters[Event::Ipi]; }},
    Column<VcpuCsvRow>{
        "ipis_received", Kind::Counter, "interrupts", kSync,
        kEventInfo[static_cast<unsigned>(Event::IpiReceived)].meaning,
        [](const VcpuCsvRow& r) -> Value { return r.counted->counters[Event::IpiReceived]; }},
    vcpu_wait<Event::LockWait>(),
    vcpu_wait<Event::FlushWait>(),
    vcpu_wait<Event::GuestLockWait>(),
    vcpu_wait<Event::HaltedCycles>(),
    vcpu_wait<Event::StealCycles>(),
    Column<VcpuCsvRow>{"cycles_total", Kind::Counter, "cycles", kTime, "its modelled CPU time",
                       [](const VcpuCsvRow& r) -> Value {
                         return r.prices->of({r.counted->accesses, r.counted->counters}).total();
                       }},
};

// --- series.csv ----------------------------------------------------------------------------------

template <u64 SeriesSample::*kMember>
Value seen(const SeriesCsvRow& r) {
  return r.seen->*kMember;
}

constexpr std::array kSeriesColumns = {
    Column<SeriesCsvRow>{"cell", Kind::Identity, "", kIdentity, "as in suite.csv",
                         [](const SeriesCsvRow& r) -> Value { return r.cell; }},
    Column<SeriesCsvRow>{"sample", Kind::Identity, "", kIdentity,
                         "number of the sample, from 1; the last is the end of the run",
                         [](const SeriesCsvRow& r) -> Value { return r.sample; }},
    Column<SeriesCsvRow>{"accesses", Kind::Counter, "accesses", kAccesses,
                         "guest accesses so far, on all vCPUs", seen<&SeriesSample::accesses>},
    Column<SeriesCsvRow>{"guest_page_faults", Kind::Counter, "faults", kAccesses,
                         "page faults delivered to the guest so far",
                         seen<&SeriesSample::guest_page_faults>},
    Column<SeriesCsvRow>{"exits", Kind::Counter, "exits", kExits, "VM exits so far",
                         seen<&SeriesSample::exits>},
    Column<SeriesCsvRow>{"processes", Kind::Gauge, "processes", kMemory,
                         "guest processes at that moment", seen<&SeriesSample::processes>},
    Column<SeriesCsvRow>{"guest_table_bytes", Kind::Gauge, "bytes", kMemory,
                         "the guest's own tables at that moment",
                         seen<&SeriesSample::guest_table_bytes>},
    Column<SeriesCsvRow>{"pager_table_bytes", Kind::Gauge, "bytes", kMemory,
                         "the pager's tables at that moment",
                         seen<&SeriesSample::pager_table_bytes>},
    Column<SeriesCsvRow>{"pager_bytes", Kind::Gauge, "bytes", kMemory,
                         "the pager's tables and its bookkeeping at that moment",
                         seen<&SeriesSample::pager_bytes>},
    Column<SeriesCsvRow>{"mmu_unsync", Kind::Gauge, "pages", kMemory,
                         "shadow pages out of sync with their guest table at that moment",
                         seen<&SeriesSample::mmu_unsync>},
};

template <class Row>
CsvRow csv_row(std::span<const Column<Row>> columns, const Row& row) {
  CsvRow fields;
  for (const Column<Row>& c : columns) fields.push_back(csv_field(c.value(row)));
  return fields;
}

}  // namespace

std::string_view name_of(ColumnKind kind) {
  constexpr std::array<std::string_view, 4> kNames = {"identity", "counter", "gauge", "ratio"};
  return kNames[static_cast<unsigned>(kind)];
}

std::string csv_field(const Value& value) {
  if (const u64* integer = std::get_if<u64>(&value)) return fmt::format("{}", *integer);
  if (const double* ratio = std::get_if<double>(&value)) {
    // Above 99,999 whole numbers have the six digits, and stay free of exponents.
    return std::abs(*ratio) < 99'999.5 ? fmt::format("{:#.6g}", *ratio)
                                       : fmt::format("{:.0f}", *ratio);
  }
  if (const std::string* text = std::get_if<std::string>(&value)) return *text;
  return "";
}

SuiteRow make_suite_row(const std::string& suite, u64 cell, const Experiment& experiment,
                        const Result& result) {
  return {suite,
          cell,
          &experiment,
          &result,
          experiment.prices().of({result.accesses, result.counters}),
          std::nullopt};
}

std::span<const Column<SuiteRow>> suite_columns() { return kSuiteColumns; }
std::span<const Column<ProcessCsvRow>> process_columns() { return kProcessColumns; }
std::span<const Column<VcpuCsvRow>> vcpu_columns() { return kVcpuColumns; }
std::span<const Column<SeriesCsvRow>> series_columns() { return kSeriesColumns; }

CellText cell_text(const SuiteRow& row) {
  CellText text;
  for (const Column<SuiteRow>& c : suite_columns()) {
    const bool holds = c.kind == Kind::Identity || row.result->ok();
    text.suite.push_back(holds ? csv_field(c.value(row)) : "");
  }
  for (const ProcessRow& p : row.result->processes) {
    text.processes.push_back(csv_row(process_columns(), ProcessCsvRow{row.cell, &p}));
  }
  const Prices prices = row.experiment->prices();
  for (const Result::OfVcpu& v : row.result->vcpus) {
    text.vcpus.push_back(
        csv_row(vcpu_columns(), VcpuCsvRow{row.cell, row.experiment->timed(), &prices, &v}));
  }
  u64 sample = 0;
  for (const SeriesSample& s : row.result->series) {
    text.series.push_back(csv_row(series_columns(), SeriesCsvRow{row.cell, ++sample, &s}));
  }
  return text;
}

std::size_t suite_column(std::string_view name) {
  const auto found = std::find_if(kSuiteColumns.begin(), kSuiteColumns.end(),
                                  [&](const Column<SuiteRow>& c) { return c.name == name; });
  assert(found != kSuiteColumns.end());
  return static_cast<std::size_t>(found - kSuiteColumns.begin());
}

}  // namespace mmuscope
