#pragma once

#include <string>
#include <vector>

#include "results/columns.h"

namespace mmuscope {

/// A column of summary.csv, for `list columns`.
struct SummaryColumn {
  std::string_view name;
  ColumnKind kind;
  std::string_view unit, meaning;
};
/// Identities of experiments but cell, seed and status, then the statistics.
std::vector<SummaryColumn> summary_columns();

/// The text of summary.csv: experiments that differ only in their seed taken together, a row for
/// each of their columns. Empty if no experiment ran with two seeds. Experiments that could not go
/// on are left out.
std::string summary_csv(const std::vector<CellText>& cells);

}  // namespace mmuscope
