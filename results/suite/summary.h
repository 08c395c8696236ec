#pragma once

#include <string>
#include <vector>

#include "results/columns.h"

namespace mmuscope {

/// A suite in short, for people: a table for each question (exits and time, memory,
/// synchronisation) with a line for each workload and machine and a column for each pager; lines
/// and columns that tell nothing are left out; with more than four pagers one table with a line for
/// each. Then a line for each experiment that could not go on.
std::string suite_summary(const std::vector<CellText>& cells);

}  // namespace mmuscope
