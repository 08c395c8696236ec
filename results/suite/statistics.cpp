#include "results/suite/statistics.h"

#include <algorithm>
#include <boost/math/distributions/students_t.hpp>
#include <cmath>
#include <cstdlib>
#include <map>

namespace mmuscope {
namespace {

/// Positions in a row of suite.csv of what tells groups of seeds apart.
std::vector<std::size_t> group_columns() {
  std::vector<std::size_t> columns;
  for (std::size_t i = 0; i < suite_columns().size(); ++i) {
    const auto& c = suite_columns()[i];
    if (c.kind == ColumnKind::Identity && c.name != "cell" && c.name != "seed" &&
        c.name != "status") {
      columns.push_back(i);
    }
  }
  return columns;
}

struct Statistics {
  double mean = 0;
  std::string min, max;             // as they stand in suite.csv
  std::optional<double> low, high;  // of the interval; none for one value
};

Statistics statistics_of(const std::vector<std::string>& texts) {
  std::vector<double> values;
  for (const std::string& text : texts) values.push_back(std::strtod(text.c_str(), nullptr));
  const auto [least, most] = std::minmax_element(values.begin(), values.end());
  Statistics s;
  s.min = texts[static_cast<std::size_t>(least - values.begin())];
  s.max = texts[static_cast<std::size_t>(most - values.begin())];
  const auto n = static_cast<double>(values.size());
  for (const double v : values) s.mean += v / n;
  if (values.size() < 2) return s;
  double squares = 0;
  for (const double v : values) squares += (v - s.mean) * (v - s.mean);
  const boost::math::students_t distribution(n - 1);
  const double half =
      boost::math::quantile(distribution, 0.975) * std::sqrt(squares / (n - 1)) / std::sqrt(n);
  s.low = s.mean - half;
  s.high = s.mean + half;
  return s;
}

std::string field(const std::optional<double>& value) {
  return value ? csv_field(Value(*value)) : "";
}

/// The rows of experiments that differ only in their seed.
void add_group(std::string& text, const CsvRow& identity, const std::vector<const CsvRow*>& rows) {
  for (std::size_t i = 0; i < suite_columns().size(); ++i) {
    const auto& column = suite_columns()[i];
    if (column.kind == ColumnKind::Identity) continue;
    std::vector<std::string> values;
    for (const CsvRow* row : rows) {
      if (!(*row)[i].empty()) values.push_back((*row)[i]);
    }
    if (values.empty()) continue;
    const Statistics s = statistics_of(values);
    CsvRow row = identity;
    row.insert(row.end(),
               {std::string(column.name), std::string(column.unit), std::to_string(values.size()),
                csv_field(Value(s.mean)), s.min, s.max, field(s.low), field(s.high)});
    text += csv_line(row);
  }
}

}  // namespace

std::vector<SummaryColumn> summary_columns() {
  std::vector<SummaryColumn> all;
  for (const std::size_t i : group_columns()) {
    const auto& c = suite_columns()[i];
    all.push_back({c.name, c.kind, c.unit, c.meaning});
  }
  using Kind = ColumnKind;
  all.push_back({"column", Kind::Identity, "", "the column of suite.csv that the row is about"});
  all.push_back({"unit", Kind::Identity, "", "its unit, which mean, min, max and ci95_* have"});
  all.push_back({"seeds", Kind::Identity, "experiments",
                 "with different seeds that have a value in that column"});
  all.push_back({"mean", Kind::Ratio, "", "mean over the seeds"});
  all.push_back({"min", Kind::Ratio, "", "the least"});
  all.push_back({"max", Kind::Ratio, "", "the most"});
  all.push_back({"ci95_low", Kind::Ratio, "",
                 "lower end of the 95 % interval of the mean (Student's t); empty for one seed"});
  all.push_back({"ci95_high", Kind::Ratio, "", "upper end of it"});
  return all;
}

std::string summary_csv(const std::vector<CellText>& cells) {
  const std::vector<std::size_t> columns = group_columns();
  const std::size_t status = suite_column("status");
  std::map<CsvRow, std::size_t> group_of;
  std::vector<std::pair<CsvRow, std::vector<const CsvRow*>>> groups;  // in the order of the cells
  bool repeated = false;
  for (const CellText& cell : cells) {
    CsvRow identity;
    for (const std::size_t i : columns) identity.push_back(cell.suite[i]);
    const auto [at, fresh] = group_of.emplace(identity, groups.size());
    if (fresh) groups.push_back({identity, {}});
    repeated = repeated || !fresh;
    if (cell.suite[status] == "ok") groups[at->second].second.push_back(&cell.suite);
  }
  if (!repeated) return "";
  CsvRow header;
  for (const SummaryColumn& c : summary_columns()) header.emplace_back(c.name);
  std::string text = csv_line(header);
  for (const auto& [identity, rows] : groups) add_group(text, identity, rows);
  return text;
}

}  // namespace mmuscope
