#include "results/experiment.h"

#include <functional>
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

LockKind lock_of(const Params& machine) {
  const std::string& name = machine.text("lock");
  return name == "kvm"      ? LockKind::Kvm
         : name == "coarse" ? LockKind::Coarse
         : name == "rw"     ? LockKind::ReadWrite
                            : LockKind::Fine;
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
  config.schedule = machine.text("schedule") == "time" ? Schedule::Time : Schedule::Lockstep;
  config.lock = lock_of(machine);
  config.apicv = machine.on("apicv");
  config.pv_flush = machine.on("pv-flush");
  config.cpus = static_cast<unsigned>(machine.count("cpus"));
  config.slice = machine.count("slice");
  config.tags = static_cast<u32>(machine.count("tags"));
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
  config.costs = e.prices().table();
  return config;
}

Machine::MakePager pager_maker(const Experiment& e) {
  return [&e](Machine& machine) { return e.pager->make(machine, e.pager_params); };
}

/// The workload with its files found; its row keeps the path as the user wrote it, so that results
/// do not tell where the project lies.
std::unique_ptr<Workload> make_workload(const Experiment& e, unsigned vm = 0) {
  Params params = e.workload_params;
  for (const ParamInfo& info : e.workload->params) {
    if (info.name == "file") params.set("file", find_data_file(params.text("file")));
  }
  return e.workload->make(params, e.seed + vm);
}

/// What only the parts themselves can judge: the pager about its CPU, the workload about its file.
void check_parts(const Experiment& e) {
  MachineConfig config = config_of(e, page_bytes(PageSize::k1G));
  config.vcpus = 1;
  const Machine machine(config, pager_maker(e));
  (void)make_workload(e);
}

/// Adds what one VM gave.
void collect(Machine& machine, const ProcessAccounts& accounts, Result& result) {
  for (unsigned i = 0; i < machine.vcpu_count(); ++i) {
    const Vcpu& v = machine.vcpu(i);
    result.vcpus.push_back({machine.vm(), i, v.accesses(), v.counters, v.clock()});
  }
  const Gauges gauges = machine.pager().gauges();
  result.accesses += machine.accesses();
  result.counters += machine.counters();
  result.gauges += gauges;
  result.guest_table_bytes_peak += accounts.guest_table_pages_peak() * kPageBytes;
  result.processes_peak += accounts.processes_peak();
  for (ProcessRow& row : accounts.rows(machine.counters(), gauges)) {
    row.vm = machine.vm();
    result.processes.push_back(std::move(row));
  }
}

/// One VM of an experiment, and who watches it.
struct Vm {
  Vm(const Experiment& e, unsigned number, Host& host)
      : workload(make_workload(e, number)),
        machine(config_of(e, workload->memory_bytes()), pager_maker(e), host, number),
        accounts(e.pager->tables),
        every(e.machine.count("series-every")),
        series(accounts, every) {}
  void run() {
    workload->run(machine, every != 0 ? static_cast<ProcessListener*>(&series) : &accounts);
  }

  std::unique_ptr<Workload> workload;
  Machine machine;
  ProcessAccounts accounts;
  u64 every;
  Series series;
};

void run_all(Host& host, std::vector<std::unique_ptr<Vm>>& vms) {
  if (vms.size() == 1) return vms[0]->run();
  std::vector<std::function<void()>> bodies;
  for (const auto& vm : vms) bodies.emplace_back([&vm] { vm->run(); });
  host.scheduler().run(std::move(bodies));
}

/// One number of a range, or an error that says which it is.
unsigned in_range(const char* what, u64 value, unsigned most) {
  if (value >= 1 && value <= most) return static_cast<unsigned>(value);
  throw InputError(std::string(what) + "=" + std::to_string(value) +
                   " is not valid; valid: an integer from 1 to " + std::to_string(most));
}

/// What only goes together with something else.
void check_together(const Experiment& e) {
  const unsigned vcpus = e.vms * e.vcpus;
  if (vcpus > kMaxVcpusInAll) {
    throw InputError("vms=" + std::to_string(e.vms) + " with vcpus=" + std::to_string(e.vcpus) +
                     " makes " + std::to_string(vcpus) + " vCPUs; valid: up to " +
                     std::to_string(kMaxVcpusInAll) + " in all");
  }
  const u64 cpus = e.machine.count("cpus");
  if (cpus != 0 && cpus < vcpus && !e.timed()) {
    throw InputError("cpus=" + std::to_string(cpus) + " is fewer than the " +
                     std::to_string(vcpus) + " vCPUs, which needs schedule=time");
  }
  if (e.vms == 1) return;
  if (e.machine.count("series-every") != 0) throw InputError("series-every needs vms=1");
  if (!e.record.empty()) throw InputError("a recording needs vms=1");
  if (e.machine.on("table-lines")) throw InputError("table-lines=on needs vms=1");
}

}  // namespace

Experiment parse_experiment(const ExperimentText& text, std::span<const PagerInfo> pagers) {
  const Spec workload = parse_spec(text.workload);
  const Spec pager = parse_spec(text.pager);
  const WorkloadInfo& w = find_workload(workload.name);
  const PagerInfo& p = find_pager(pager.name, pagers);
  Experiment e{&w,        Params("workload " + workload.name, w.params),
               &p,        Params("pager " + pager.name, p.params()),
               text.cpu,  Params("machine", machine_params()),
               0,         0,
               text.seed, text.record};
  e.workload_params.set_list(workload.list);
  e.pager_params.set_list(pager.list);
  (void)cpu_model(text.cpu);
  set_machine(e.machine, text.set);
  e.vcpus = in_range("vcpus", text.vcpus, kMaxVcpus);
  e.vms = in_range("vms", text.vms, kMaxVms);
  check_together(e);
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
    Host host(config_of(experiment, 0), experiment.vms * experiment.vcpus);
    std::vector<std::unique_ptr<Vm>> vms;
    for (unsigned i = 0; i < experiment.vms; ++i) {
      vms.push_back(std::make_unique<Vm>(experiment, i, host));
    }
    std::optional<MachineRecorder> recorder;
    if (!experiment.record.empty()) {
      recorder.emplace(
          vms[0]->machine, experiment.record,
          std::string(experiment.workload->name) + " " + experiment.workload_params.canonical());
    }
    run_all(host, vms);
    if (recorder) recorder->finish();
    for (const auto& vm : vms) collect(vm->machine, vm->accounts, result);
    if (vms[0]->every != 0) result.series = vms[0]->series.take();
  } catch (const RunError& error) {
    result.status = error.what();
  } catch (const std::bad_alloc&) {
    result.status = "the emulator ran out of memory";
  }
  return result;
}

Prices Experiment::prices() const {
  const std::string& file = machine.text("prices");
  return Prices(cpu, file == "none" ? std::vector<PriceChange>{} : read_prices(file), timed());
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
