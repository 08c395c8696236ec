#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>

#include "results/cost_model.h"
#include "results/csv.h"
#include "results/experiment.h"

namespace mmuscope {

enum class ColumnKind : u8 {
  Identity,  ///< says which experiment, process or vCPU a row is about
  Counter,   ///< change over the run
  Gauge,     ///< value at the end, or its peak where the name says so
  Ratio,
};
std::string_view name_of(ColumnKind kind);

/// A value of a row; empty where the column does not apply.
using Value = std::variant<std::monostate, u64, double, std::string>;
/// As a CSV field: integers plain, ratios with six significant digits (large ones to the unit).
std::string csv_field(const Value& value);

/// A column of a table whose rows are made from Rows.
template <class Row>
struct Column {
  std::string_view name;
  ColumnKind kind;
  std::string_view unit;   ///< empty if it has none
  std::string_view group;  ///< the heading under which people read it
  std::string_view meaning;
  Value (*value)(const Row& row);
};

/// A finished experiment, as a row of suite.csv.
struct SuiteRow {
  std::string suite;
  u64 cell = 1;
  const Experiment* experiment = nullptr;
  const Result* result = nullptr;
  Cycles cycles;
  std::optional<double> slowdown;  ///< against the native cell, once it is known
};
/// Prices the result. Both must outlive the row.
SuiteRow make_suite_row(const std::string& suite, u64 cell, const Experiment& experiment,
                        const Result& result);

struct ProcessCsvRow {
  u64 cell = 1;
  const ProcessRow* process = nullptr;
};
struct SeriesCsvRow {
  u64 cell = 1;
  u64 sample = 1;
  const SeriesSample* seen = nullptr;
};
struct VcpuCsvRow {
  u64 cell = 1;
  bool timed = false;
  const Prices* prices = nullptr;
  const Result::OfVcpu* counted = nullptr;
};

std::span<const Column<SuiteRow>> suite_columns();
std::span<const Column<ProcessCsvRow>> process_columns();
std::span<const Column<VcpuCsvRow>> vcpu_columns();
std::span<const Column<SeriesCsvRow>> series_columns();

template <class Row>
CsvRow csv_header(std::span<const Column<Row>> columns) {
  CsvRow row;
  for (const Column<Row>& c : columns) row.emplace_back(c.name);
  return row;
}

/// A cell's rows in the four files, without the headers; only identities and the status of one
/// that could not go on.
struct CellText {
  CsvRow suite;
  std::vector<CsvRow> processes, vcpus, series;
};
CellText cell_text(const SuiteRow& row);

/// Position of a column of suite.csv. The name must exist.
std::size_t suite_column(std::string_view name);

}  // namespace mmuscope
