#pragma once

#include "results/csv.h"
#include "results/published/published.h"

namespace mmuscope {

/// A cost that follows from published times, and the one price of the cost model that is fitted to
/// it: nothing else is.
struct Component {
  std::string_view what;
  double published;           ///< cycles
  Figure measured;            ///< the same of the emulator: what a run spends, divided by how often
  std::string_view constant;  ///< in `list costs`
  Figure paid;                ///< how often it is paid for in each
};
std::span<const Component> components();

struct Calibrated {
  const Component* component = nullptr;
  std::optional<double> ours;  ///< cycles
  u64 constant = 0;            ///< as it stands in the cost model or the user's file
  u64 fitted = 0;  ///< with which ours would be what was published, all others as they stand
};
/// Measures every component. Nothing if it was stopped.
std::optional<std::vector<Calibrated>> calibrate(const Measuring& how);

/// With a header, a row for each.
std::vector<CsvRow> calibration_rows(std::span<const Calibrated> all);

}  // namespace mmuscope
