#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "results/columns.h"
#include "results/scenario.h"

namespace mmuscope {

/// What a lab expects, found by running the emulator: the files of a lab hold no answers, only
/// what is to be run. A value is
///   a number
///   {"workload": SPEC, "pager": SPEC, "set": [...], "vcpus": N, "cpu": NAME, "column": NAME}
///     of suite.csv; with "process": NAME (or shared, orphaned, vm) of the first such row of
///     processes.csv
///   {"scenario": FILE, "pager": SPEC, "step": N, "figure": NAME}, FILE in the lab's start/
///   {"scenario": FILE, "pager": SPEC, "word": GPA}: memory after the last step
///   {"access": r|w|x, "pager": SPEC, "guest-page": SIZE, "before": WORD, "set": [...],
///    "count": references or an event}, as `explain` has it
///   {"plus"|"minus"|"times"|"over": [A, B]}
/// and a word {"least"|"most": {WORD: VALUE, ...}}: the one whose value is that.
class LabValues {
 public:
  using Json = nlohmann::json;
  /// `folder`: where the scenarios are that values name.
  explicit LabValues(std::filesystem::path folder) : folder_(std::move(folder)) {}

  /// Throws InputError or Json::exception: no value. What ran once is not run again.
  double number(const Json& value);
  /// Of {"least"|"most": ...}.
  std::string word(const Json& value);

 private:
  struct Run {
    explicit Run(Experiment e) : experiment(std::move(e)), result(run_experiment(experiment)) {}
    Experiment experiment;
    Result result;
    CellText cells;
  };
  const Run& run(const Json& value);
  double column(const Json& value);
  double figure_of(const Json& value);
  double word_of(const Json& value);
  double access(const Json& value);

  std::filesystem::path folder_;
  std::map<std::string, std::unique_ptr<Run>> runs_;
  std::map<std::string, ScenarioResult> scenarios_;
};

}  // namespace mmuscope
