#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <iterator>
#include <thread>

#include "core/error.h"
#include "results/commands/commands.h"
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

/// "key=value,..." of the keys that have not their default.
std::string changed(const Params& params, std::span<const ParamInfo> infos) {
  const Params plain("", infos);
  std::vector<std::string> keys;
  for (const ParamInfo& info : infos) {
    const std::string& value = params.text(info.name);
    if (value != plain.text(info.name)) keys.push_back(fmt::format("{}={}", info.name, value));
  }
  return fmt::format("{}", fmt::join(keys, ","));
}

/// A cell in few words: what it would be asked for by, defaults left out.
std::string title(const Experiment& e) {
  std::string text;
  const auto add = [&](std::string_view name, std::string_view mark, const std::string& value) {
    if (!text.empty()) text += ' ';
    text += fmt::format("{}{}{}", name, value.empty() ? "" : mark, value);
  };
  add(e.workload->name, ":", changed(e.workload_params, e.workload->params));
  add(e.pager->name, ":", changed(e.pager_params, e.pager->params()));
  if (e.cpu != kDefaultCpu) add(e.cpu, "", "");
  if (const std::string set = changed(e.machine, machine_params()); !set.empty()) add(set, "", "");
  if (e.vcpus != 1) add("vcpus", "=", fmt::format("{}", e.vcpus));
  if (e.vms != 1) add("vms", "=", fmt::format("{}", e.vms));
  if (e.seed != 1) add("seed", "=", fmt::format("{}", e.seed));
  return text;
}

std::string duration(double seconds) {
  const auto whole = static_cast<u64>(seconds + 0.5);
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  return fmt::format("{} h {:02} min", whole / 3600, whole / 60 % 60);
}

/// Progress on standard error: on a terminal one line that changes, in a log a line for each.
class Progress {
 public:
  void operator()(const SuiteProgress& p) {
    if (p.experiment == nullptr) {
      fmt::print(stderr, "{} of {} experiments taken over\n", p.done, p.all);
      return;
    }
    const std::string pace = pace_of(p);
    if (!terminal_) {
      fmt::print(stderr, "{}/{} cells, {}  {}{}\n", p.done, p.all, pace, title(*p.experiment),
                 p.status == "ok" ? "" : fmt::format(": {}", p.status));
      return;
    }
    clear();
    if (p.status != "ok") fmt::print(stderr, "{}: {}\n", title(*p.experiment), p.status);
    fmt::print(stderr, "{}/{} cells, {}  {:.40}", p.done, p.all, pace, title(*p.experiment));
    std::fflush(stderr);
  }
  void clear() {
    if (terminal_) fmt::print(stderr, "\r\x1b[K");
  }

 private:
  /// Speed so far, and the time left if the cells that are left take as long as those done.
  std::string pace_of(const SuiteProgress& p) const {
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    const auto done = static_cast<double>(p.done - p.taken_over);
    return fmt::format("{:.1f} million accesses/s, {} left",
                       static_cast<double>(p.accesses) / 1e6 / seconds,
                       duration(seconds / done * static_cast<double>(p.all - p.done)));
  }

  bool terminal_ = isatty(STDERR_FILENO) == 1;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

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
  Progress progress;
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
