#pragma once

#include <string>
#include <vector>

#include "results/columns.h"

namespace mmuscope {

/// 1,234,567
std::string thousands(u64 value);

/// Rows of fields as lines in columns: the first `left` columns to the left, the others to the
/// right, two spaces between them.
std::string aligned(const std::vector<CsvRow>& rows, std::size_t left);

/// One of several runs that are shown side by side.
struct Compared {
  std::string label;  ///< the pager's SPEC
  SuiteRow row;
};
/// What ran, and then every counter, gauge and ratio that is not zero everywhere, a column for each
/// run (empty for one that could not go on); with more than one, beside each its ratio to the
/// first.
std::string comparison_table(const std::vector<Compared>& runs);

/// The rows of processes.csv for people, those with most pager bytes first; at most `limit`.
std::string process_table(const Result& result, std::size_t limit);

}  // namespace mmuscope
