#include "results/live/live.h"

#include <fmt/format.h>

#include <filesystem>

#include "core/error.h"
#include "results/commands/commands.h"

namespace mmuscope {
namespace {

constexpr CommandHelp kHelp = {
    "live FILE... | --random N [options]",
    "Runs scenarios on this host's own KVM, op by op in real vCPUs, and the same under the pager "
    "that\n"
    "corresponds; prints what the kernel and the emulator counted in each step. Exit status 1 if\n"
    "they differ. Needs /dev/kvm; touches no other VM and no module parameter.\n",
    "  mmuscope live tests/truth/kvm/demand_touch.json\n"
    "  mmuscope live tests/truth/kvm/*.json --csv live.csv\n"};

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
      text += fmt::format("  {:<28}{:>12}{:>12}{}\n", name, kernel, emulator,
                          kernel == emulator ? "" : "  differs");
    }
  }
  return text;
}

}  // namespace

int live_command(const Args& args) {
  CommandLine line(kHelp);
  line.words("file")
      .value("pager", "", "SPEC of the pager to compare with; without it what the host has")
      .value("cpu", std::string(kDefaultCpu).c_str(), "CPU model")
      .value("csv", "",
             "writes scenario,step,label,counter,kernel,emulator,equal; - is standard output");
  if (!line.parse(args)) return kDone;
  const std::vector<std::string> files = line.texts("file");
  if (files.empty()) throw InputError("no FILE; usage: mmuscope " + std::string(kHelp.usage));
  LiveHost host = live_host();
  if (line.has("pager")) host.pager = line.text("pager");
  LiveRunner runner(host);
  fmt::print(stderr, "{}\n", host.text());
  std::string csv = csv_line(csv_header()), text;
  bool all_hold = true;
  for (const std::string& file : files) {
    const Scenario recorded = runner.as_emulated(runner.record(load_scenario(file)));
    const ScenarioResult result = run_scenario(recorded, host.pager, line.text("cpu"));
    const ScenarioCheck check = check_scenario(recorded, result);
    for (const CsvRow& row : csv_rows(recorded, result)) csv += csv_line(row);
    if (files.size() == 1) text += table(recorded, result);
    text += check_text(recorded, result, check);
    all_hold = all_hold && check.failures.empty();
  }
  for (const std::string& note : runner.notes()) fmt::print(stderr, "{}\n", note);
  if (line.has("csv")) write_file(line.text("csv"), csv);
  if (line.text("csv") != "-") fmt::print("{}", text);
  return all_hold ? kDone : kCheckFailed;
}

}  // namespace mmuscope
