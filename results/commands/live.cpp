#include "results/live/live.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "results/commands/commands.h"
#include "results/live/random_scenario.h"

namespace mmuscope {
namespace {

constexpr CommandHelp kHelp = {
    "live FILE... | --random N [options]",
    "Runs scenarios on this host's own KVM, op by op in real vCPUs, and the same under the pager "
    "that\n"
    "corresponds; prints what the kernel and the emulator counted in each step. Exit status 1 if\n"
    "they differ. Needs /dev/kvm; touches no other VM and no module parameter.\n",
    "  mmuscope live tests/truth/kvm/demand_touch.json\n"
    "  mmuscope live --random 1000 --seed 1 --record differs.json\n"};

/// Rows of --csv.
CsvRow csv_header() {
  return {"scenario", "step", "label", "counter", "kernel", "emulator", "equal"};
}
std::vector<CsvRow> csv_rows(const Scenario& recorded, const ScenarioResult& result) {
  std::vector<CsvRow> rows;
  for (std::size_t i = 0; i < recorded.steps.size(); ++i) {
    for (const auto& [name, kernel] : recorded.steps[i].expect) {
      const u64 emulator = figure(result.steps[i], name);
      rows.push_back({recorded.name, fmt::format("{}", i + 1), recorded.steps[i].label, name,
                      fmt::format("{}", kernel), fmt::format("{}", emulator),
                      kernel == emulator ? "yes" : "no"});
    }
  }
  return rows;
}

/// For people: each step's counters that are not zero on both sides.
std::string table(const Scenario& recorded, const ScenarioResult& result) {
  std::string text = fmt::format("{}\n", recorded.name);
  for (std::size_t i = 0; i < recorded.steps.size(); ++i) {
    const ScenarioStep& step = recorded.steps[i];
    text += fmt::format("step {}  {}  ({} ops)\n  {:<28}{:>12}{:>12}\n", i + 1, step.label,
                        step.ops.size(), "counter", "kernel", "emulator");
    for (const auto& [name, kernel] : step.expect) {
      const u64 emulator = figure(result.steps[i], name);
      if (kernel == 0 && emulator == 0) continue;
      text += fmt::format("  {:<28}{:>12}{:>12}  {}\n", name, kernel, emulator,
                          kernel == emulator ? "equal" : "DIFFERS");
    }
  }
  return text;
}

struct Options {
  HostFacts host;
  std::string cpu, csv, record;
};

/// A scenario run twice: what the kernel counted stands in `recorded` as what is expected.
struct Comparison {
  Scenario recorded;
  ScenarioResult emulated;
  ScenarioCheck check;
  std::vector<std::string> wrong;  ///< a line for each op that ended otherwise than announced
};
Comparison compare(LiveRunner& runner, const Scenario& scenario, const Options& options) {
  Comparison c;
  LiveRunner::Record record = runner.record(scenario);
  c.recorded = std::move(record.scenario);
  c.wrong = std::move(record.wrong);
  if (options.host.native_supervisor) c.recorded = with_supervisor_accesses(c.recorded);
  c.emulated = run_scenario(c.recorded, options.host.pager, options.cpu);
  c.check = check_scenario(c.recorded, c.emulated);
  return c;
}

void print_notes(const LiveRunner& runner) {
  for (const std::string& note : runner.notes()) fmt::print(stderr, "{}\n", note);
}

/// Compares one file, adds to the CSV and to what is printed; true if all is equal.
bool compare_file(LiveRunner& runner, const std::string& file, bool alone, const Options& options,
                  std::string& csv, std::string& text) {
  const Scenario scenario = load_scenario(file);
  Comparison c = compare(runner, scenario, options);
  if (!c.check.failures.empty()) {
    // A host that is short of memory may take a page from under the guest.
    fmt::print(stderr, "{}: differs, and is run once more\n", file);
    c = compare(runner, scenario, options);
  }
  for (const std::string& wrong : c.wrong) c.check.failures.push_back(wrong);
  for (const CsvRow& row : csv_rows(c.recorded, c.emulated)) csv += csv_line(row);
  if (alone) text += table(c.recorded, c.emulated);
  text += check_text(c.recorded, c.emulated, c.check);
  if (!options.record.empty()) write_file(options.record, scenario_json(c.recorded));
  return c.check.failures.empty();
}

int compare_files(LiveRunner& runner, const std::vector<std::string>& files,
                  const Options& options) {
  std::string csv = csv_line(csv_header()), text;
  bool all_hold = true;
  for (const std::string& file : files) {
    try {
      all_hold = compare_file(runner, file, files.size() == 1, options, csv, text) && all_hold;
    } catch (const RunError& died) {
      text += fmt::format("{}\n", died.what());
      all_hold = false;
    }
  }
  print_notes(runner);
  if (!options.csv.empty()) write_file(options.csv, csv);
  if (options.csv != "-") fmt::print("{}", text);
  return all_hold ? kDone : kCheckFailed;
}

// --- random scenarios ----------------------------------------------------------------------------

bool fetches_a_stub(const ScenarioOp& op) {
  return op.access.is_fetch() && op.address == kStubPage;
}

/// True if the guest of the emulator reaches its stubs whenever it fetches one, and faults wherever
/// it fetches from elsewhere. One that keeps stale translations may not: then it says nothing.
bool runs_through(const Scenario& scenario, const Options& options) {
  const Scenario whole = with_supervisor_accesses(scenario);
  try {
    const ScenarioResult result = run_scenario(whole, options.host.pager, options.cpu);
    for (std::size_t i = 0; i < whole.steps.size(); ++i) {
      auto ended = result.steps[i].ended.begin();
      for (const ScenarioOp& op : whole.steps[i].ops) {
        if (op.kind != ScenarioOp::Kind::Access) continue;
        if (op.access.is_fetch() && fetches_a_stub(op) != ended->done) return false;
        ++ended;
      }
    }
    return true;
  } catch (const std::runtime_error&) {
    return false;  // the limit is too small, or a table leads beyond memory
  }
}

/// True if kernel and emulator differ, a vCPU that dies included, and do so again.
bool differs(LiveRunner& runner, const Scenario& scenario, const Options& options) {
  if (!runs_through(scenario, options)) return false;
  for (int i = 0; i < 2; ++i) {
    try {
      if (compare(runner, scenario, options).check.failures.empty()) return false;
    } catch (const RunError&) {
    }
  }
  return true;
}

/// Shrinks a scenario that differs, shows it, writes it and adds it to the CSV.
void tell_difference(LiveRunner& runner, const Scenario& scenario, const Options& options,
                     std::string& csv) {
  Scenario least =
      shrink(scenario, [&](const Scenario& smaller) { return differs(runner, smaller, options); });
  std::string text = fmt::format("{} differs; shrunk from {} ops to {}\n", scenario.name,
                                 units(scenario), units(least));
  try {
    const Comparison c = compare(runner, least, options);
    for (const CsvRow& row : csv_rows(c.recorded, c.emulated)) csv += csv_line(row);
    least = c.recorded;
    auto& words = least.final_memory;
    words.erase(std::remove_if(words.begin(), words.end(), [](auto& w) { return w.second == 0; }),
                words.end());
    text += scenario_json(least) + check_text(c.recorded, c.emulated, c.check);
  } catch (const RunError& died) {
    text += fmt::format("{}{}\n", scenario_json(least), died.what());
  }
  if (options.csv != "-") fmt::print("{}", text);
  if (!options.record.empty()) write_file(options.record, scenario_json(least));
}

/// A scenario that is equal, or was once: a host that is short of memory may take a page from under
/// the guest, and a vCPU that dies counts as a difference.
struct RandomRun {
  bool equal = false;
  u64 figures = 0;
  std::string csv, why;
};
RandomRun compare_once(LiveRunner& runner, const Scenario& scenario, const Options& options) {
  RandomRun run;
  try {
    const Comparison c = compare(runner, scenario, options);
    for (const CsvRow& row : csv_rows(c.recorded, c.emulated)) run.csv += csv_line(row);
    run.figures = c.check.passed;
    run.equal = c.check.failures.empty();
    if (!run.equal) run.why = c.check.failures.front();
  } catch (const RunError& died) {
    run.why = died.what();
  }
  return run;
}

int compare_random(LiveRunner& runner, u64 count, u64 seed, const Options& options) {
  u64 compared = 0, figures = 0;
  std::string csv = csv_line(csv_header());
  int status = kDone;
  for (u64 i = 0; i < count && status == kDone; ++i) {
    const Scenario scenario = random_scenario(seed + i);
    if (!runs_through(scenario, options)) continue;
    RandomRun run = compare_once(runner, scenario, options);
    if (!run.equal && differs(runner, scenario, options)) {
      tell_difference(runner, scenario, options, csv);
      status = kCheckFailed;
      break;
    }
    if (!run.equal) {
      fmt::print(stderr, "{} differed once and not again: {}\n", scenario.name, run.why);
      run = compare_once(runner, scenario, options);
    }
    figures += run.figures;
    ++compared;
    if (!options.csv.empty()) csv += run.csv;
  }
  print_notes(runner);
  if (!options.csv.empty()) write_file(options.csv, csv);
  const std::string text =
      fmt::format("{} random scenarios from seed {}: {} compared, equal in {} figures\n", count,
                  seed, compared, figures);
  if (status == kDone && options.csv != "-") fmt::print("{}", text);
  return status;
}

}  // namespace

int live_command(const Args& args) {
  CommandLine line(kHelp);
  line.words("file")
      .value("random", "", "compares this many random scenarios; stops at one that differs")
      .value("seed", "1", "of the first random scenario")
      .value("record", "",
             "writes the scenario with the kernel's counters as `expect`: of one FILE, or of the "
             "random one that differs, shrunk")
      .value("pager", "", "SPEC of the pager to compare with; without it what the host has")
      .value("cpu", std::string(kDefaultCpu).c_str(), "CPU model")
      .value("csv", "",
             "writes scenario,step,label,counter,kernel,emulator,equal; - is standard output");
  if (!line.parse(args)) return kDone;
  const std::vector<std::string> files = line.texts("file");
  if (files.empty() == !line.has("random")) {
    throw InputError("either FILE... or --random; usage: mmuscope " + std::string(kHelp.usage));
  }
  if (line.has("record") && files.size() > 1) throw InputError("--record takes one FILE");
  Options options{read_host(this_host()), line.text("cpu"), line.text("csv"), line.text("record")};
  if (line.has("pager")) options.host.pager = line.text("pager");
  LiveRunner runner(options.host);
  fmt::print(stderr, "{}\n", options.host.text());
  if (line.has("random")) {
    constexpr u64 kMost = 1'000'000'000;
    return compare_random(runner, line.number("random", 1, kMost), line.number("seed", 0, ~u64{0}),
                          options);
  }
  return compare_files(runner, files, options);
}

}  // namespace mmuscope
