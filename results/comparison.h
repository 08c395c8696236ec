#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "results/tables.h"

namespace mmuscope {

/// The same guest under several pagers.
struct Comparison {
  std::vector<std::unique_ptr<Experiment>> experiments;
  std::vector<std::unique_ptr<Result>> results;
  /// One for each pager, in the order given, slowdown_vs_native filled in if one of them is native;
  /// refers to the experiments and results. comparison_table() shows them.
  std::vector<Compared> runs;
};

/// Runs the workload of the text under each pager in turn, its own `pager` apart. `specs` name
/// pagers of the catalogue or, if `pagers` is given, a caller's. A run that cannot go on has its
/// reason in its result. Throws InputError as parse_experiment does, before anything is run.
Comparison compare_pagers(const std::string& name, ExperimentText text,
                          const std::vector<std::string>& specs,
                          std::span<const PagerInfo> pagers = pager_catalog());

}  // namespace mmuscope
