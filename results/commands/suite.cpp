#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <iterator>
#include <thread>

#include "core/error.h"
#include "results/commands/commands.h"
#include "results/commands/progress.h"
#include "results/suite/engine.h"
#include "results/suite/manifest.h"
#include "results/suite/summary.h"

namespace mmuscope {
namespace {

constexpr CommandHelp kHelp = {
    "suite FILE|NAME --out DIR [options]",
    "Runs a matrix of experiments, writes suite.csv, processes.csv, vcpus.csv (and summary.csv\n"
    "where seeds are repeated) and manifest.json into DIR and prints a table of them. Ctrl-C keeps "
    "every finished row; --resume goes on from there.\n"
    "A suite file has lines `key = value` with the keys name, workload, pager, cpu, set, vcpus, "
    "vms "
    "and\n"
    "seed; workload, pager, cpu and set are repeated for alternatives, vcpus and seed take lists\n"
    "of numbers; the suite is their product. `mmuscope list suites` shows those that have names.\n",
    "  mmuscope suite default --out out\n"
    "  mmuscope suite my.suite --out results-of-mine --jobs 1 --resume\n"};

/// The command as the manifest keeps it; --resume is no part of what is to be repeated.
std::string repeated(const Args& args) {
  Args words = {"mmuscope", "suite"};
  std::copy_if(args.begin(), args.end(), std::back_inserter(words),
               [](const std::string& word) { return word != "--resume"; });
  return shell_command(words);
}

}  // namespace

int suite_command(const Args& args) {
  const unsigned cores = std::clamp(std::thread::hardware_concurrency(), 1u, 1024u);
  CommandLine line(kHelp);
  Args names;
  for (const NamedSuite& named : named_suites()) names.emplace_back(named.name);
  line.words("suite", names)
      .value("out", "", "folder for the CSV files, made if it is not there")
      .value("jobs", std::to_string(cores).c_str(), "experiments at a time, 1 to 1024")
      .value("shard", "", "I/N: only the I-th of N parts of the suite; `mmuscope merge` joins them")
      .flag("resume",
            "take over the finished experiments that DIR holds, if this same program made them");
  if (!line.parse(args)) return kDone;
  const std::vector<std::string> suites = line.texts("suite");
  if (suites.size() != 1) {
    throw InputError("one FILE or NAME is needed; usage: mmuscope " + std::string(kHelp.usage));
  }
  SuiteOptions options;
  options.out = line.required("out");
  options.jobs = static_cast<unsigned>(line.number("jobs", 1, 1024));
  options.resume = line.has("resume");
  if (line.has("shard")) options.shard = parse_shard(line.text("shard"));
  options.command = repeated(args);
  Progress progress(Progress::Log::Lines);
  options.progress = std::ref(progress);
  const Suite suite = find_suite(suites[0]);
  options.stop = &catch_interruptions();
  const SuiteOutcome outcome = run_suite(suite, options);
  progress.clear();
  if (outcome.interrupted) {
    fmt::print(stderr, "interrupted: {} of {} experiments are in {}; go on with --resume\n",
               outcome.cells.size(), outcome.all, options.out.string());
    return kInterrupted;
  }
  fmt::print("{}", suite_summary(outcome.cells));
  return kDone;
}

}  // namespace mmuscope
