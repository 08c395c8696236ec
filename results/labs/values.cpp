#include "results/labs/values.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "results/narration.h"

namespace mmuscope {
namespace {

using Json = LabValues::Json;

std::vector<std::string> settings(const Json& value) {
  return value.value("set", std::vector<std::string>{});
}

/// A field of a CSV row by its column's name.
template <class Row>
double field(std::span<const Column<Row>> columns, const CsvRow& row, const std::string& name) {
  for (std::size_t i = 0; i < columns.size(); ++i) {
    if (columns[i].name != name) continue;
    if (row[i].empty()) throw InputError("the column " + name + " is empty here");
    return std::stod(row[i]);
  }
  throw InputError("no column " + name);
}

unsigned index_in(std::span<const std::string_view> words, const std::string& word) {
  const auto at = std::find(words.begin(), words.end(), word);
  if (at == words.end()) throw InputError(unknown_word("word", word, words));
  return static_cast<unsigned>(at - words.begin());
}

}  // namespace

const LabValues::Run& LabValues::run(const Json& value) {
  ExperimentText text;
  text.workload = value.at("workload").get<std::string>();
  text.pager = value.at("pager").get<std::string>();
  text.set = settings(value);
  text.cpu = value.value("cpu", text.cpu);
  text.vcpus = value.value("vcpus", u64{1});
  const std::string key = fmt::format("{}\n{}\n{}\n{}\n{}", text.workload, text.pager,
                                      fmt::join(text.set, "\n"), text.cpu, text.vcpus);
  std::unique_ptr<Run>& run = runs_[key];
  if (run != nullptr) return *run;
  auto fresh = std::make_unique<Run>(parse_experiment(text));
  if (!fresh->result.ok()) {
    throw InputError(
        fmt::format("{} under {}: {}", text.workload, text.pager, fresh->result.status));
  }
  fresh->cells = cell_text(make_suite_row("lab", 1, fresh->experiment, fresh->result));
  run = std::move(fresh);
  return *run;
}

double LabValues::column(const Json& value) {
  const CellText& cells = run(value).cells;
  const std::string name = value.at("column").get<std::string>();
  if (!value.contains("process")) return field(suite_columns(), cells.suite, name);
  const std::string process = value.at("process").get<std::string>();
  const auto columns = process_columns();
  const auto at =
      std::find_if(columns.begin(), columns.end(), [](const auto& c) { return c.name == "name"; });
  for (const CsvRow& row : cells.processes) {
    if (row[static_cast<std::size_t>(at - columns.begin())] == process) {
      return field(columns, row, name);
    }
  }
  throw InputError("no process " + process);
}

double LabValues::figure_of(const Json& value) {
  const std::string file = value.at("scenario").get<std::string>();
  const std::string pager = value.at("pager").get<std::string>();
  auto found = scenarios_.find(file + "\n" + pager);
  if (found == scenarios_.end()) {
    const Scenario scenario = load_scenario(folder_ / file);
    found =
        scenarios_
            .emplace(file + "\n" + pager, run_scenario(scenario, pager, std::string(kDefaultCpu)))
            .first;
  }
  const auto step = value.at("step").get<std::size_t>();
  const std::string name = value.at("figure").get<std::string>();
  const std::vector<std::string_view> valid = scenario_figures();
  if (step < 1 || step > found->second.steps.size() ||
      std::find(valid.begin(), valid.end(), name) == valid.end()) {
    throw InputError(fmt::format("{} has no step {} or there is no figure {}", file, step, name));
  }
  return static_cast<double>(figure(found->second.steps[step - 1], name));
}

double LabValues::word_of(const Json& value) {
  Scenario scenario = load_scenario(folder_ / value.at("scenario").get<std::string>());
  scenario.final_memory = {{std::stoull(value.at("word").get<std::string>(), nullptr, 0), 0}};
  const ScenarioResult result =
      run_scenario(scenario, value.at("pager").get<std::string>(), std::string(kDefaultCpu));
  return static_cast<double>(result.final_memory.front());
}

double LabValues::access(const Json& value) {
  static constexpr std::string_view kAccesses[] = {"r", "w", "x"};
  static constexpr std::string_view kSizes[] = {"4k", "2m", "1g"};
  LoneAccess lone;
  lone.va = Gva(0x40'0000'0000);
  lone.access = {
      static_cast<AccessKind>(index_in(kAccesses, value.at("access").get<std::string>())),
      Privilege::User};
  lone.guest_page = static_cast<PageSize>(index_in(kSizes, value.value("guest-page", "4k")));
  lone.before = static_cast<Before>(index_in(kBeforeNames, value.value("before", "cold")));
  const Narration n =
      narrate_access(lone, value.at("pager").get<std::string>(),
                     parse_machine(value.value("cpu", std::string(kDefaultCpu)), settings(value)));
  const std::string count = value.at("count").get<std::string>();
  if (count == "references") return static_cast<double>(n.references());
  for (const EventInfo& e : kEventInfo) {
    if (e.name == count) return static_cast<double>(n.counters[e.event]);
  }
  throw InputError("no event " + count);
}

double LabValues::number(const Json& value) {
  if (value.is_number()) return value.get<double>();
  if (value.contains("workload")) return column(value);
  if (value.contains("word")) return word_of(value);
  if (value.contains("scenario")) return figure_of(value);
  if (value.contains("access")) return access(value);
  const std::string name = value.items().begin().key();
  const Json& operands = value.at(name);
  const double a = number(operands.at(0)), b = number(operands.at(1));
  if (name == "plus") return a + b;
  if (name == "minus") return a - b;
  if (name == "times") return a * b;
  if (name == "over") return a / b;
  throw InputError("no value: " + value.dump());
}

std::string LabValues::word(const Json& value) {
  const std::string name = value.items().begin().key();
  const Json& candidates = value.at(name);
  std::string best;
  double extreme = 0;
  for (const auto& [word, candidate] : candidates.items()) {
    const double is = number(candidate);
    const bool better = name == "most" ? is > extreme : is < extreme;
    if (best.empty() || better) {
      best = word;
      extreme = is;
    }
  }
  return best;
}

}  // namespace mmuscope
