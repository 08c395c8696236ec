#pragma once

#include <optional>
#include <string>
#include <vector>

#include "results/catalog.h"
#include "results/cost_model.h"

namespace mmuscope {

/// Everything that decides what a run does: one cell of a suite.
struct Experiment {
  const WorkloadInfo* workload = nullptr;
  Params workload_params;
  const PagerInfo* pager = nullptr;
  Params pager_params;
  std::string cpu;
  Params machine;      ///< keys of --set
  unsigned vcpus = 1;  ///< of each VM
  unsigned vms = 1;
  u64 seed = 1;
  std::string record;  ///< file for a recording of all that the machine's guest does; empty: none

  bool timed() const { return machine.text("schedule") == "time"; }
  /// Of its CPU, with the user's changes. Throws InputError if their file is bad.
  Prices prices() const;
};

/// The most vCPUs that one VM is given, and the most VMs: together no more than can be told apart
/// by their tags.
inline constexpr unsigned kMaxVcpus = 64;
inline constexpr unsigned kMaxVms = 256;
inline constexpr unsigned kMaxVcpusInAll = 1000;

/// An experiment as users write it.
struct ExperimentText {
  std::string workload, pager;  ///< SPECs
  std::string cpu{kDefaultCpu};
  std::vector<std::string> set;  ///< key=value of the machine
  u64 vcpus = 1;
  u64 vms = 1;
  u64 seed = 1;
  std::string record;  ///< as in Experiment
};
/// Throws InputError: an unknown name or key, a value out of range, a workload whose own check of
/// its parameters fails (an unreadable trace). The pagers must outlive the experiment.
Experiment parse_experiment(const ExperimentText& text,
                            std::span<const PagerInfo> pagers = pager_catalog());

/// The machine of --cpu and --set; its memory and vCPUs are the caller's to set. Throws InputError:
/// an unknown name or key, a value out of range.
MachineConfig parse_machine(const std::string& cpu, const std::vector<std::string>& set);

/// What one process, or a row that stands for what belongs to none, needed. Values that do not
/// apply to the pager are empty.
struct ProcessRow {
  std::optional<u32> pid;  ///< none for `shared`, `orphaned` and `vm`
  std::string name;
  std::optional<u64> guest_table_pages;  ///< peak
  /// Of the pager's tables, at the peak of pager_bytes.
  std::optional<u64> table_pages_private, table_pages_shared;
  std::optional<u64> pager_bytes;  ///< private to the row, peak
  std::optional<u64> exits, guest_page_faults;
  unsigned vm = 0;
};

/// A moment of a run: a row of series.csv.
struct SeriesSample {
  u64 accesses = 0;  ///< so far
  u64 processes = 0, guest_table_bytes = 0, pager_table_bytes = 0, pager_bytes = 0, mmu_unsync = 0;
  u64 exits = 0, guest_page_faults = 0;  ///< so far
  friend bool operator==(const SeriesSample&, const SeriesSample&) = default;
};

/// What a run gave.
struct Result {
  std::string status = "ok";  ///< or why the run could not go on; then nothing else holds
  bool ok() const { return status == "ok"; }

  struct OfVcpu {
    unsigned vm = 0;
    unsigned vcpu = 0;
    u64 accesses = 0;
    Counters counters;
    u64 clock = 0;  ///< cycles from the beginning to its end; with schedule=time
  };
  std::vector<OfVcpu> vcpus;  ///< by VM and index
  u64 accesses = 0;           ///< the sum over vCPUs
  Counters counters;          ///< the sum over vCPUs
  Gauges gauges;              ///< at the end
  u64 guest_table_bytes_peak = 0;
  u64 processes_peak = 0;
  std::vector<ProcessRow> processes;  ///< by pid, then `shared`, `orphaned`, `vm`
  std::vector<SeriesSample> series;   ///< empty unless the machine's series-every asks for it
};

/// Runs one experiment on a fresh machine. A RunError becomes the status; an InputError (a trace
/// damaged in its middle) is thrown on.
Result run_experiment(const Experiment& experiment);

/// The sum of all VM exits.
u64 total_exits(const Counters& counters);

}  // namespace mmuscope
