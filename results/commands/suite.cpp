#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <thread>

#include "core/error.h"
#include "results/commands/commands.h"
#include "results/suite/engine.h"
#include "results/suite/summary.h"

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

std::string title(const Experiment& e) {
  const std::string pager_params = e.pager_params.canonical();
  return fmt::format("{} {} {}{}{} {} vcpus={} seed={}", e.workload->name,
                     e.workload_params.canonical(), e.pager->name, pager_params.empty() ? "" : " ",
                     pager_params, e.machine.canonical(), e.vcpus, e.seed);
}

/// Progress on standard error: on a terminal one line that changes, in a log a line for each.
class Progress {
 public:
  void operator()(const SuiteProgress& p) {
    if (p.experiment == nullptr) {
      fmt::print(stderr, "{} of {} experiments taken over\n", p.done, p.all);
      return;
    }
    if (!terminal_) {
      fmt::print(stderr, "{}/{} {}: {}\n", p.done, p.all, title(*p.experiment), p.status);
      return;
    }
    clear();
    if (p.status != "ok") fmt::print(stderr, "{}: {}\n", title(*p.experiment), p.status);
    const auto seconds =
        std::chrono::duration_cast<std::chrono::seconds>(std::chrono::steady_clock::now() - start_);
    fmt::print(stderr, "{}/{} {} s  {:.60}", p.done, p.all, seconds.count(), title(*p.experiment));
    std::fflush(stderr);
  }
  void clear() {
    if (terminal_) fmt::print(stderr, "\r\x1b[K");
  }

 private:
  bool terminal_ = isatty(STDERR_FILENO) == 1;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

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
  Progress progress;
  options.progress = std::ref(progress);
  const Suite suite = find_suite(suites[0]);
  options.stop = &catch_interruptions();
  const SuiteOutcome outcome = run_suite(suite, options);
  progress.clear();
  if (outcome.interrupted) {
    fmt::print(stderr, "interrupted: {} of {} experiments are in {}; go on with --resume\n",
               outcome.cells.size(), suite.cells.size(), options.out.string());
    return kInterrupted;
  }
  fmt::print("{}", suite_summary(outcome.cells));
  return kDone;
}

}  // namespace mmuscope
