#pragma once

#include <atomic>
#include <filesystem>
#include <functional>

#include "results/suite/records.h"
#include "results/suite/shard.h"
#include "results/suite/suite.h"

namespace mmuscope {

struct SuiteProgress {
  std::size_t done = 0, all = 0;           ///< cells of this run
  std::size_t taken_over = 0;              ///< of those done
  u64 accesses = 0;                        ///< emulated by this run so far
  const Experiment* experiment = nullptr;  ///< that finished
  std::string_view status;                 ///< of it
};

struct SuiteOptions {
  std::filesystem::path out;  ///< folder of the CSV files; made if it is not there
  unsigned jobs = 1;          ///< experiments at a time
  bool resume = false;        ///< take over the finished cells that `out` holds
  Shard shard;                ///< the part of the suite that is run
  std::string command;        ///< for the manifest: what to give a shell to repeat it
  /// Told about every finished cell, and first about those taken over (no experiment then).
  std::function<void(const SuiteProgress&)> progress;
  /// Set by whoever wants the suite to end early, a signal handler for one.
  const std::atomic<bool>* stop = nullptr;
};

struct SuiteOutcome {
  bool interrupted = false;
  std::vector<CellText> cells;  ///< the finished ones, in order, slowdown_vs_native filled in
  std::size_t all = 0;          ///< cells of this run
};

/// Runs every cell of the shard that is not taken over, `jobs` at a time, and writes suite.csv,
/// processes.csv and vcpus.csv (and summary.csv where seeds are repeated, series.csv where
/// a cell asks for it) in the order of the
/// cells: the same bytes whatever the number of jobs. manifest.json says how they came about. While
/// it runs, finished cells are in the folder's journal.
///
/// When stopped it writes the finished rows and returns at once; experiments under way are given
/// up, and their threads are left to the end of the program, which must follow. Throws InputError
/// if a file cannot be written, or if a cell's input turns out to be bad (the finished cells stay
/// in the journal).
SuiteOutcome run_suite(const Suite& suite, const SuiteOptions& options);

}  // namespace mmuscope
