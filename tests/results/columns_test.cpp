#include "results/columns.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <set>

#include "core/cpu_model.h"

using namespace mmuscope;

namespace {

// The columns that are promised, in the order in which the contract names them. Those that nothing
// counts yet are left out here as they are in the files.
const CsvRow kSuite = {"suite",
                       "cell",
                       "workload",
                       "workload_params",
                       "pager",
                       "pager_params",
                       "cpu",
                       "vcpus",
                       "vms",
                       "seed",
                       "status",
                       "accesses",
                       "loads",
                       "stores",
                       "fetches",
                       "guest_page_faults",
                       "guest_work_cycles",
                       "tlb_l1_hits",
                       "tlb_l2_hits",
                       "tlb_misses",
                       "walks",
                       "table_refs",
                       "table_refs_guest",
                       "table_refs_nested",
                       "refs_per_walk",
                       "walk_cache_hits",
                       "exits",
                       "exits_page_fault",
                       "exits_cr3",
                       "exits_invlpg",
                       "exits_invpcid",
                       "exits_cr0",
                       "exits_cr4",
                       "exits_ept_violation",
                       "exits_ept_misconfig",
                       "exits_pml_full",
                       "exits_interrupt",
                       "exits_msr_write",
                       "exits_hypercall",
                       "pf_taken",
                       "pf_fixed",
                       "pf_emulate",
                       "pf_spurious",
                       "pf_fast",
                       "pf_guest",
                       "mmu_cache_miss",
                       "mmu_pte_write",
                       "mmu_pde_zapped",
                       "mmu_flooded",
                       "mmu_recycled",
                       "mmu_shadow_zapped",
                       "mmu_unsync",
                       "pages_4k",
                       "pages_2m",
                       "pages_1g",
                       "tlb_flush",
                       "invlpg",
                       "dirty_pages",
                       "unbacked_pages",
                       "merged_pages",
                       "unmerged_pages",
                       "guest_table_bytes_peak",
                       "pager_table_bytes_peak",
                       "pager_bytes_peak",
                       "processes_peak",
                       "pager_bytes_per_process_mean",
                       "pager_bytes_per_process_max",
                       "remote_tlb_flush_requests",
                       "remote_tlb_flush",
                       "ipis",
                       "flush_wait_cycles",
                       "lock_acquisitions",
                       "lock_wait_cycles",
                       "cycles_guest",
                       "cycles_walk",
                       "cycles_exit",
                       "cycles_vmm",
                       "cycles_sync",
                       "cycles_total",
                       "paging_share_of_vmm",
                       "slowdown_vs_native"};
// Not in the contract: what was added to it.
const std::set<std::string> kAdded = {"table_refs_l1",
                                      "table_refs_l2",
                                      "table_refs_llc",
                                      "table_refs_memory",
                                      "machine_params",
                                      "table_refs_shadow",
                                      "nested_walk_cache_hits",
                                      "nested_tlb_hits",
                                      "tlb_splinters",
                                      "dirty_harvests",
                                      "guest_syscalls",
                                      "guest_context_switches",
                                      "guest_tasks",
                                      "guest_frames",
                                      "guest_string_lines",
                                      "cr3_writes",
                                      "guest_invalidations",
                                      "mmu_entries_synced",
                                      "deferred_flushes",
                                      "lock_contended",
                                      "lock_hold_cycles",
                                      "guest_lock_acquisitions",
                                      "guest_lock_contended",
                                      "guest_lock_wait_cycles",
                                      "vcpu_switches",
                                      "asid_rollovers",
                                      "vmm_cycles_true_faults",
                                      "vmm_cycles_hidden_faults",
                                      "vmm_cycles_table_writes",
                                      "vmm_cycles_shadow_pages",
                                      "vmm_cycles_synchronising",
                                      "vmm_cycles_registers",
                                      "vmm_cycles_invalidations",
                                      "vmm_cycles_other",
                                      "halted_cycles",
                                      "steal_cycles",
                                      "cycles_elapsed"};
const CsvRow kProcesses = {"cell",
                           "vm",
                           "pid",
                           "name",
                           "guest_table_pages",
                           "guest_table_bytes",
                           "pager_table_pages_private",
                           "pager_table_pages_shared",
                           "pager_bytes",
                           "exits",
                           "guest_page_faults"};
const CsvRow kVcpus = {"cell",
                       "vm",
                       "vcpu",
                       "exits",
                       "ipis_sent",
                       "ipis_received",
                       "lock_wait_cycles",
                       "flush_wait_cycles",
                       "guest_lock_wait_cycles",
                       "halted_cycles",
                       "steal_cycles",
                       "cycles_total"};

}  // namespace

TEST_CASE("columns: the headers are the contract's") {
  CsvRow header = csv_header(suite_columns());
  header.erase(std::remove_if(header.begin(), header.end(),
                              [](const std::string& name) { return kAdded.count(name) != 0; }),
               header.end());
  CHECK(header == kSuite);
  CHECK(csv_header(process_columns()) == kProcesses);
  CHECK(csv_header(vcpu_columns()) == kVcpus);
}

TEST_CASE("columns: every one has a meaning, every number a unit unless it is a plain ratio") {
  for (const Column<SuiteRow>& c : suite_columns()) {
    CAPTURE(c.name);
    CHECK(!c.meaning.empty());
    if (c.kind == ColumnKind::Counter || c.kind == ColumnKind::Gauge) CHECK(!c.unit.empty());
  }
}

TEST_CASE("columns: integers are plain, ratios have six significant digits") {
  CHECK(csv_field(Value(u64{18446744073709551615u})) == "18446744073709551615");
  CHECK(csv_field(Value(4.0)) == "4.00000");
  CHECK(csv_field(Value(2.0 / 3)) == "0.666667");
  CHECK(csv_field(Value(99999.4)) == "99999.4");
  CHECK(csv_field(Value(99999.5)) == "100000");
  CHECK(csv_field(Value(12345678.5)) == "12345678");
  CHECK(csv_field(Value()).empty());
}

TEST_CASE("columns: exits are the sum of the reasons") {
  Counters c;
  for (unsigned e = 0; e < kEvents; ++e) c[static_cast<Event>(e)] = u64{1} << e;
  u64 sum = 0;
  for (const EventInfo& info : kEventInfo) {
    if (info.name.substr(0, 6) == "exits_") sum += c[info.event];
  }
  CHECK(total_exits(c) == sum);
}

TEST_CASE("cost model: a price for every CPU, and events priced by hand") {
  for (const CpuModel& cpu : cpu_models()) CHECK(exit_cost(cpu.name).cpu == cpu.name);
  CHECK(exit_costs().size() == cpu_models().size());

  Counted counted;
  counted.accesses = 1000;
  counted.counters[Event::TlbL1Miss] = 30;
  counted.counters[Event::TlbL2Hit] = 10;
  counted.counters[Event::Walk] = 25;
  counted.counters[Event::TableRefShadow] = 100;
  counted.counters[Event::ExitPageFault] = 3;
  counted.counters[Event::ExitMsrWrite] = 1;
  counted.counters[Event::PfGuest] = 1;
  counted.counters[Event::GuestPageFault] = 1;
  counted.counters[Event::PfFixed] = 1;
  counted.counters[Event::MmuPteWrite] = 1;
  counted.counters[Event::Ipi] = 2;
  const Cycles cycles = price("cascade-lake", counted);
  CHECK(cycles.guest == 3000 + 1000);
  CHECK(cycles.walk == 10 * 9 + 25 * 15 + 100 * 5);
  CHECK(cycles.exit == 4 * 1150);
  CHECK(cycles.vmm == 440 + 2066 + 2550 + 1025);
  CHECK(cycles.sync == 2 * 6750);
  const auto by = [&](Cause cause) { return cycles.by_cause[static_cast<unsigned>(cause)]; };
  CHECK(by(Cause::TrueFaults) == 1150 + 440);
  CHECK(by(Cause::HiddenFaults) == 2 * 1150 + 2066);
  CHECK(by(Cause::TableWrites) == 2550);
  CHECK(by(Cause::Other) == 1150 + 1025);
  CHECK(cycles.total() == 4000 + 965 + 4600 + 6081 + 13500);
  // The machine's clocks add up the same.
  const Prices prices("cascade-lake");
  CHECK(prices.table().of(counted.accesses, counted.counters) == cycles.total());
  CHECK(price("nehalem", counted).exit == 4 * 2000);
}

TEST_CASE("cost model: table entries by where they lie, a price for every CPU") {
  for (const CpuModel& cpu : cpu_models()) {
    CAPTURE(cpu.name);
    const RefCost& c = ref_cost(cpu.name);
    CHECK(c.cpu == cpu.name);
    CHECK((c.l1 < c.l2 && c.l2 < c.llc && c.llc < c.memory));
  }
  CHECK(ref_costs().size() == cpu_models().size());
  Counted counted;
  counted.counters[Event::TableRefNested] = 100;
  CHECK(price("cascade-lake", counted).walk == 100 * 5);
  counted.counters[Event::TableRefL1] = 60;
  counted.counters[Event::TableRefL2] = 20;
  counted.counters[Event::TableRefLlc] = 15;
  counted.counters[Event::TableRefMemory] = 5;
  CHECK(price("cascade-lake", counted).walk == 60 * 5 + 20 * 14 + 15 * 70 + 5 * 225);
}

TEST_CASE(
    "columns: where table entries lay adds up to the references, and is empty unless modelled") {
  for (const bool on : {false, true}) {
    for (const char* pager : {"native", "shadow-unsync", "nested"}) {
      CAPTURE(pager);
      ExperimentText text;
      text.workload = "database:bytes=2m,accesses=5000,threads=2";
      text.pager = pager;
      text.vcpus = 2;
      if (on) text.set = {"table-lines=on"};
      const Experiment experiment = parse_experiment(text);
      const Result result = run_experiment(experiment);
      REQUIRE(result.ok());
      const SuiteRow row = make_suite_row("", 1, experiment, result);
      u64 sum = 0, all = 0;
      for (const Column<SuiteRow>& c : suite_columns()) {
        const Value value = c.value(row);
        if (c.name == "table_refs") all = std::get<u64>(value);
        for (const char* level : {"l1", "l2", "llc", "memory"}) {
          if (c.name != std::string("table_refs_") + level) continue;
          CHECK(std::holds_alternative<u64>(value) == on);
          if (on) {
            sum += std::get<u64>(value);
          }
        }
      }
      CHECK(all > 0);
      CHECK(sum == (on ? all : 0));
    }
  }
}
