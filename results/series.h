#pragma once

#include <vector>

#include "results/process_accounts.h"

namespace mmuscope {

/// Takes the samples that series.csv shows on their way to the accounts of processes.
class Series : public ProcessListener {
 public:
  /// A row whenever `every` guest accesses were made since the last, and one at the end.
  Series(ProcessAccounts& accounts, u64 every) : accounts_(accounts), every_(every) {}

  /// Throws RunError when there are more rows than a file should have.
  void on_sample(Machine& machine, std::span<const ProcessView> alive, const ProcessView* leaving,
                 u64 guest_table_pages_in_all) override;
  u64 sample_period() const override;

  /// The rows, after the run; the last one is the end.
  std::vector<SeriesSample> take();

 private:
  void keep(const SeriesSample& sample);

  ProcessAccounts& accounts_;
  u64 every_;
  std::vector<SeriesSample> samples_;
  SeriesSample last_;  ///< seen, whether it was due or not
};

}  // namespace mmuscope
