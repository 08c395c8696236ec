#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "results/commands/commands.h"
#include "results/comparison.h"
#include "results/suite/records.h"
#include "results/tables.h"

namespace mmuscope {
namespace {

constexpr std::size_t kProcessesShown = 20;

std::string machine_keys() {
  std::string text = "keys of --set:\n";
  std::vector<CsvRow> rows;
  for (const ParamInfo& info : machine_params()) {
    rows.push_back({fmt::format("  {}={}", info.name, info.default_value), std::string(info.unit),
                    fmt::format("{} ({})", info.meaning, valid_values(info))});
  }
  return text + aligned(rows, 3) +
         "`mmuscope list workloads`, `list pagers` and `list cpus` show the others.\n";
}

constexpr CommandHelp kRunHelp = {
    "run --workload SPEC --pager SPEC [options]",
    "Runs one experiment and prints what it counted. SPEC is NAME or NAME:key=value,key=value.\n",
    "  mmuscope run --workload fork --pager shadow\n"
    "  mmuscope run --workload touch:pattern=uniform --pager nested --set backing=2m --csv -\n",
    machine_keys};
constexpr CommandHelp kCompareHelp = {
    "compare --workload SPEC --pager SPEC --pager SPEC ... [options]",
    "Runs the same guest under each pager and prints what they counted side by side, with the\n"
    "ratio to the first. SPEC is NAME or NAME:key=value,key=value.\n",
    "  mmuscope compare --workload fork --pager native --pager shadow --pager nested\n"
    "  mmuscope compare --workload switch --vcpus 4 --pager nested --pager nested:ad=off\n",
    machine_keys};

void add_options(CommandLine& line) {
  line.value("workload", "", "SPEC of the workload")
      .repeated("pager", "SPEC of the pager")
      .value("cpu", std::string(kDefaultCpu).c_str(), "CPU model")
      .value("vcpus", "1", "virtual CPUs of each VM, 1 to 64")
      .value("vms", "1", "virtual machines, each with the workload and a seed of its own, 1 to 256")
      .value("seed", "1", "seed of the workload's choices")
      .repeated("set", "key=value of the machine; may be given again for another key")
      .value("csv", "", "writes suite.csv's row or rows; - is standard output")
      .value("processes-csv", "", "writes processes.csv's rows")
      .value("vcpus-csv", "", "writes vcpus.csv's rows")
      .value("series-csv", "",
             "writes series.csv's rows; without --set series-every=N a row each 1,000 accesses");
}

ExperimentText experiment_text(const CommandLine& line) {
  ExperimentText text;
  text.workload = line.required("workload");
  text.cpu = line.text("cpu");
  text.set = line.texts("set");
  const auto is_series = [](const std::string& s) { return s.rfind("series-every=", 0) == 0; };
  if (line.has("series-csv") && std::none_of(text.set.begin(), text.set.end(), is_series)) {
    text.set.push_back("series-every=1000");
  }
  text.vcpus = line.number("vcpus", 1, kMaxVcpus);
  text.vms = line.number("vms", 1, kMaxVms);
  text.seed = line.number("seed", 0, 0);
  if (line.has("record")) text.record = line.text("record");
  return text;
}

/// The CSV files that were asked for. False if one of them is standard output, which then is for
/// nothing else.
bool write_csv_files(const CommandLine& line, const std::vector<CellText>& cells) {
  unsigned to_stdout = 0;
  for (const char* option : {"csv", "processes-csv", "vcpus-csv", "series-csv"}) {
    to_stdout += line.text(option) == "-";
  }
  if (to_stdout > 1) throw InputError("only one CSV can go to standard output");
  if (line.has("csv")) write_file(line.text("csv"), suite_csv(cells));
  if (line.has("processes-csv")) write_file(line.text("processes-csv"), processes_csv(cells));
  if (line.has("vcpus-csv")) write_file(line.text("vcpus-csv"), vcpus_csv(cells));
  if (line.has("series-csv")) write_file(line.text("series-csv"), series_csv(cells));
  return to_stdout == 0;
}

/// Runs the workload under each pager in turn; `name` stands in the CSV column suite.
int run_and_print(const CommandLine& line, const std::string& name,
                  const std::vector<std::string>& pagers) {
  const Comparison comparison = compare_pagers(name, experiment_text(line), pagers);
  const std::vector<Compared>& runs = comparison.runs;
  std::size_t failed = 0;
  for (const Compared& run : runs) {
    if (run.row.result->ok()) continue;
    ++failed;
    fmt::print(stderr, "mmuscope: {}: {}\n", run.label, run.row.result->status);
  }
  std::vector<CellText> cells;
  for (const Compared& run : runs) cells.push_back(cell_text(run.row));
  if (write_csv_files(line, cells) && failed < runs.size()) {
    fmt::print("{}", comparison_table(runs));
    if (runs.size() == 1) fmt::print("\n{}", process_table(*runs[0].row.result, kProcessesShown));
  }
  return failed == 0 ? kDone : kCheckFailed;
}

}  // namespace

int run_command(const Args& args) {
  CommandLine line(kRunHelp);
  add_options(line);
  line.value("record", "",
             "writes a trace of all that the guest does to the machine; --workload trace:file=FILE "
             "replays it without the guest kernel");
  if (!line.parse(args)) return kDone;
  const std::vector<std::string> pagers = line.texts("pager");
  if (pagers.size() != 1) {
    throw InputError("one --pager is needed; `mmuscope compare` takes several");
  }
  return run_and_print(line, "run", pagers);
}

int compare_command(const Args& args) {
  CommandLine line(kCompareHelp);
  add_options(line);
  if (!line.parse(args)) return kDone;
  const std::vector<std::string> pagers = line.texts("pager");
  if (pagers.size() < 2) throw InputError("two or more --pager are needed to compare");
  return run_and_print(line, "compare", pagers);
}

}  // namespace mmuscope
