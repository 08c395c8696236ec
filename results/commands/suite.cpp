#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <thread>

#include "core/error.h"
#include "results/commands/commands.h"
#include "results/suite/engine.h"
#include "results/tables.h"

namespace mmuscope {
namespace {

constexpr CommandHelp kHelp = {
    "suite FILE|NAME --out DIR [options]",
    "Runs a matrix of experiments, writes suite.csv, processes.csv and vcpus.csv into DIR and\n"
    "prints a table of them. Ctrl-C keeps every finished row; --resume goes on from there.\n"
    "A suite file has lines `key = value` with the keys name, workload, pager, cpu, set, vcpus "
    "and\n"
    "seed; workload, pager, cpu and set are repeated for alternatives, vcpus and seed take lists\n"
    "of numbers; the suite is their product. `mmuscope list suites` shows those that have names.\n",
    "  mmuscope suite default --out out\n"
    "  mmuscope suite my.suite --out results-of-mine --jobs 1 --resume\n"};

}  // namespace

int suite_command(const Args& args) {
  const unsigned cores = std::clamp(std::thread::hardware_concurrency(), 1u, 1024u);
  CommandLine line(kHelp);
  line.words("suite")
      .value("out", "", "folder for the CSV files, made if it is not there")
      .value("jobs", std::to_string(cores).c_str(), "experiments at a time, 1 to 1024")
      .flag("resume", "take over the finished experiments that DIR holds");
  if (!line.parse(args)) return kDone;
  const std::vector<std::string> suites = line.texts("suite");
  if (suites.size() != 1) {
    throw InputError("one FILE or NAME is needed; usage: mmuscope " + std::string(kHelp.usage));
  }
  SuiteOptions options;
  options.out = line.required("out");
  options.jobs = static_cast<unsigned>(line.number("jobs", 1, 1024));
  options.resume = line.has("resume");
  options.terminal = isatty(STDERR_FILENO) == 1;
  const Suite suite = find_suite(suites[0]);
  options.stop = &catch_interruptions();
  const SuiteOutcome outcome = run_suite(suite, options);
  if (outcome.interrupted) {
    fmt::print(stderr, "interrupted: {} of {} experiments are in {}; go on with --resume\n",
               outcome.cells.size(), suite.cells.size(), options.out.string());
    return kInterrupted;
  }
  fmt::print("{}", suite_table(outcome.cells));
  return kDone;
}

}  // namespace mmuscope
