#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "core/types.h"

namespace mmuscope {

/// A published ratio of shadow paging to nested paging, and the runs that it is compared with.
struct PublishedRow {
  std::string_view source, what;
  std::string_view workload;  ///< SPEC with OPS where the number of operations goes
  u64 few, many;              ///< operations: the difference of two runs is what they cost
  unsigned vcpus;
  std::string_view settings;  ///< of the machine, besides those of all rows
  double published;           ///< time under shadow paging over that under nested
  /// The largest factor between the two, either way, that counts as agreement.
  double tolerance;
  bool calibration;  ///< a price of `list costs` was derived from it: no test
};
std::span<const PublishedRow> published_rows();

/// What the emulator makes of a row: modelled time for each operation under shadow-unsync (as Linux
/// KVM's shadow paging) over that under nested. Nothing if a run could not go on.
std::optional<double> measure(const PublishedRow& row);

/// True if the two differ by no more than that factor.
bool agrees(double published, double ours, double tolerance);

}  // namespace mmuscope
