#include "results/comparison.h"

namespace mmuscope {
namespace {

/// Against the first native run, of the same guest as all the others.
void fill_slowdown(std::vector<Compared>& runs) {
  for (const Compared& base : runs) {
    if (base.row.experiment->pager->name != "native" || !base.row.result->ok()) continue;
    const auto native = static_cast<double>(base.row.cycles.total());
    for (Compared& run : runs) {
      run.row.slowdown = static_cast<double>(run.row.cycles.total()) / native;
    }
    return;
  }
}

}  // namespace

Comparison compare_pagers(const std::string& name, ExperimentText text,
                          const std::vector<std::string>& specs,
                          std::span<const PagerInfo> pagers) {
  Comparison all;
  for (const std::string& spec : specs) {
    text.pager = spec;
    all.experiments.push_back(std::make_unique<Experiment>(parse_experiment(text, pagers)));
  }
  for (std::size_t i = 0; i < specs.size(); ++i) {
    const Experiment& experiment = *all.experiments[i];
    all.results.push_back(std::make_unique<Result>(run_experiment(experiment)));
    all.runs.push_back({specs[i], make_suite_row(name, i + 1, experiment, *all.results[i])});
  }
  fill_slowdown(all.runs);
  return all;
}

}  // namespace mmuscope
