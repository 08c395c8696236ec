#include "results/experiment.h"

#include <new>
#include <optional>

#include "core/cpu_model.h"
#include "core/error.h"
#include "results/data_file.h"
#include "results/process_accounts.h"
#include "results/series.h"
#include "workloads/trace/machine_recorder.h"

namespace mmuscope {
namespace {

PageSize backing_of(const Params& machine) {
  const std::string& name = machine.text("backing");
  return name == "4k" ? PageSize::k4K : name == "2m" ? PageSize::k2M : PageSize::k1G;
}

WalkCaches walk_caches_of(const Params& machine) {
  const std::string& name = machine.text("walk-caches");
  return name == "off"  ? WalkCaches::Off
         : name == "1d" ? WalkCaches::OneD
         : name == "2d" ? WalkCaches::TwoD
                        : WalkCaches::TwoDTlb;
}

WalkCacheKind walk_cache_kind_of(const Params& machine) {
  const std::string& name = machine.text("walk-cache-kind");
  return name == "cpu"      ? WalkCacheKind::Cpu
         : name == "prefix" ? WalkCacheKind::Prefix
                            : WalkCacheKind::Entry;
}

/// What --set decides.
MachineConfig config_of(const Params& machine) {
  MachineConfig config;
  config.backing = backing_of(machine);
  if (machine.text("backing") == "mixed") {
    config.fragmented = static_cast<u32>(machine.real("fragmentation") * 1e6 + 0.5);
  }
  config.prebacked = machine.on("prebacked");
  config.walk_caches = walk_caches_of(machine);
  config.walk_cache_kind = walk_cache_kind_of(machine);
  config.table_lines = machine.on("table-lines");
  config.vpid = machine.on("vpid");
  config.tlb_percent = static_cast<unsigned>(machine.real("tlb-scale") * 100 + 0.5);
  config.guest_levels = machine.text("guest-levels") == "5" ? 5 : 4;
  config.kpti = machine.on("kpti");
  config.pcid = machine.on("pcid");
  const std::string& thp = machine.text("thp");
  config.thp = thp == "never"    ? HugePages::Never
               : thp == "always" ? HugePages::Always
                                 : HugePages::Madvise;
  config.khugepaged = machine.count("khugepaged");
  config.swap_bytes = machine.count("swap");
  config.quantum = machine.count("quantum");
  return config;
}

void set_machine(Params& machine, const std::vector<std::string>& set) {
  std::string keys;
  for (const std::string& item : set) keys.append(keys.empty() ? "" : ",").append(item);
  machine.set_list(keys);
}

MachineConfig config_of(const Experiment& e, u64 memory_bytes) {
  MachineConfig config = config_of(e.machine);
  config.cpu = e.cpu;
  config.memory_bytes = memory_bytes + config.swap_bytes;
  config.vcpus = e.vcpus;
  config.seed = e.seed;
  config.virtualized = e.pager->virtualized;
  return config;
}

Machine::MakePager pager_maker(const Experiment& e) {
  return [&e](Machine& machine) { return e.pager->make(machine, e.pager_params); };
}

/// The workload with its files found; its row keeps the path as the user wrote it, so that results
/// do not tell where the project lies.
std::unique_ptr<Workload> make_workload(const Experiment& e) {
  Params params = e.workload_params;
  for (const ParamInfo& info : e.workload->params) {
    if (info.name == "file") params.set("file", find_data_file(params.text("file")));
  }
  return e.workload->make(params, e.seed);
}

/// What only the parts themselves can judge: the pager about its CPU, the workload about its file.
void check_parts(const Experiment& e) {
  MachineConfig config = config_of(e, page_bytes(PageSize::k1G));
  config.vcpus = 1;
  const Machine machine(config, pager_maker(e));
  (void)make_workload(e);
}

void collect(Machine& machine, const ProcessAccounts& accounts, Result& result) {
  for (unsigned i = 0; i < machine.vcpu_count(); ++i) {
    result.vcpus.push_back({machine.vcpu(i).accesses(), machine.vcpu(i).counters});
  }
  result.accesses = machine.accesses();
  result.counters = machine.counters();
  result.gauges = machine.pager().gauges();
  result.guest_table_bytes_peak = accounts.guest_table_pages_peak() * kPageBytes;
  result.processes_peak = accounts.processes_peak();
  result.processes = accounts.rows(result.counters, result.gauges);
}

}  // namespace

Experiment parse_experiment(const ExperimentText& text, std::span<const PagerInfo> pagers) {
  const Spec workload = parse_spec(text.workload);
  const Spec pager = parse_spec(text.pager);
  const WorkloadInfo& w = find_workload(workload.name);
  const PagerInfo& p = find_pager(pager.name, pagers);
  Experiment e{&w,         Params("workload " + workload.name, w.params),
               &p,         Params("pager " + pager.name, p.params()),
               text.cpu,   Params("machine", machine_params()),
               0,          text.seed,
               text.record};
  e.workload_params.set_list(workload.list);
  e.pager_params.set_list(pager.list);
  (void)cpu_model(text.cpu);
  set_machine(e.machine, text.set);
  if (text.vcpus < 1 || text.vcpus > kMaxVcpus) {
    throw InputError("vcpus=" + std::to_string(text.vcpus) +
                     " is not valid; valid: an integer from 1 to " + std::to_string(kMaxVcpus));
  }
  e.vcpus = static_cast<unsigned>(text.vcpus);
  check_parts(e);
  return e;
}

MachineConfig parse_machine(const std::string& cpu, const std::vector<std::string>& set) {
  Params machine("machine", machine_params());
  set_machine(machine, set);
  MachineConfig config = config_of(machine);
  config.cpu = cpu_model(cpu).name;
  return config;
}

Result run_experiment(const Experiment& experiment) {
  Result result;
  try {
    const std::unique_ptr<Workload> workload = make_workload(experiment);
    Machine machine(config_of(experiment, workload->memory_bytes()), pager_maker(experiment));
    ProcessAccounts accounts(experiment.pager->tables);
    const u64 every = experiment.machine.count("series-every");
    Series series(accounts, every);
    std::optional<MachineRecorder> recorder;
    if (!experiment.record.empty()) {
      recorder.emplace(
          machine, experiment.record,
          std::string(experiment.workload->name) + " " + experiment.workload_params.canonical());
    }
    workload->run(machine, every != 0 ? static_cast<ProcessListener*>(&series) : &accounts);
    if (recorder) recorder->finish();
    collect(machine, accounts, result);
    if (every != 0) result.series = series.take();
  } catch (const RunError& error) {
    result.status = error.what();
  } catch (const std::bad_alloc&) {
    result.status = "the emulator ran out of memory";
  }
  return result;
}

u64 total_exits(const Counters& counters) {
  u64 sum = 0;
  for (unsigned e = static_cast<unsigned>(Event::ExitPageFault);
       e <= static_cast<unsigned>(Event::ExitHypercall); ++e) {
    sum += counters[static_cast<Event>(e)];
  }
  return sum;
}

}  // namespace mmuscope
