#include "results/suite/summary.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <map>
#include <set>
#include <utility>

#include "results/tables.h"

namespace mmuscope {
namespace {

using Settings = std::vector<std::pair<std::string, std::string>>;

/// "key=value,key=value" taken apart.
Settings settings(const std::string& canonical) {
  Settings all;
  for (std::size_t pos = 0; pos < canonical.size();) {
    const std::size_t comma = std::min(canonical.find(',', pos), canonical.size());
    const std::string item = canonical.substr(pos, comma - pos);
    const std::size_t equals = item.find('=');
    all.emplace_back(item.substr(0, equals), equals == item.npos ? "" : item.substr(equals + 1));
    pos = comma + 1;
  }
  return all;
}

/// Names a row of the suite by what sets it apart from others of its workload.
class Labels {
 public:
  explicit Labels(const std::vector<CellText>& cells) {
    for (const CellText& cell : cells) {
      for (const auto& [key, value] : describe(cell)) seen_[{workload(cell), key}].insert(value);
    }
  }
  std::string of(const CellText& cell) const {
    std::string text = workload(cell);
    for (const auto& [key, value] : describe(cell)) {
      if (seen_.at({workload(cell), key}).size() > 1) text += fmt::format(" {}={}", key, value);
    }
    return text;
  }

 private:
  static std::string workload(const CellText& cell) { return cell.suite[suite_column("workload")]; }
  static Settings describe(const CellText& cell) {
    Settings all = settings(cell.suite[suite_column("workload_params")]);
    for (auto& s : settings(cell.suite[suite_column("machine_params")])) all.push_back(s);
    for (const std::string_view name : {"cpu", "vcpus", "seed"}) {
      all.emplace_back(name, cell.suite[suite_column(name)]);
    }
    return all;
  }
  std::map<std::pair<std::string, std::string>, std::set<std::string>> seen_;
};

/// A figure of suite.csv, shown for each pager.
struct Metric {
  std::string_view title;
  std::string_view column;
  std::string (*show)(double value);
};

std::string show_count(double value) { return thousands(static_cast<u64>(value + 0.5)); }
std::string show_kib(double value) { return thousands(static_cast<u64>(value / 1024 + 0.5)); }
std::string show_ratio(double value) { return fmt::format("{:.2f}", value); }

/// What is asked of a suite; each is a table of its own.
struct Question {
  std::string_view title;
  std::array<Metric, 2> metrics;
};
constexpr std::array<Question, 3> kQuestions = {{
    {"VM exits, and modelled time over native",
     {{{"exits", "exits", show_count}, {"slowdown", "slowdown_vs_native", show_ratio}}}},
    {"Memory of the pager at its peak, and the private part of it per process, in KiB",
     {{{"pager", "pager_bytes_peak", show_kib},
       {"process, mean", "pager_bytes_per_process_mean", show_kib}}}},
    {"Synchronisation: interrupts between CPUs, and times the MMU lock was taken",
     {{{"IPIs", "ipis", show_count}, {"locks", "lock_acquisitions", show_count}}}},
}};

std::string pager_of(const CellText& cell) {
  const std::string& params = cell.suite[suite_column("pager_params")];
  return cell.suite[suite_column("pager")] + (params.empty() ? "" : ":" + params);
}

/// Pagers by the shortest name that tells them apart, in order of appearance.
std::vector<std::pair<std::string, std::string>> short_pager_names(
    const std::vector<CellText>& cells) {
  std::vector<std::pair<std::string, std::string>> names;
  std::map<std::string, unsigned> uses;
  for (const CellText& cell : cells) {
    const std::string full = pager_of(cell);
    if (std::none_of(names.begin(), names.end(), [&](auto& n) { return n.first == full; })) {
      names.emplace_back(full, cell.suite[suite_column("pager")]);
      ++uses[names.back().second];
    }
  }
  for (auto& [full, name] : names) {
    if (uses[name] > 1) name = full;
  }
  return names;
}

using PagerNames = std::vector<std::pair<std::string, std::string>>;

/// Puts the cell's figures into the columns of its pager.
void add_figures(CsvRow& row, const CellText& cell, const Question& question,
                 const PagerNames& pagers) {
  std::size_t column = 1;
  for (const Metric& metric : question.metrics) {
    for (const auto& [full, name] : pagers) {
      const std::string& value = cell.suite[suite_column(metric.column)];
      if (full == pager_of(cell) && !value.empty()) {
        row[column] = metric.show(std::strtod(value.c_str(), nullptr));
      }
      ++column;
    }
  }
}

bool tells_nothing(const std::string& field) { return field.empty() || field == "0"; }

/// True if the column may go: nothing in it, or (native's slowdown) the same ratio everywhere.
bool trivial(const std::vector<CsvRow>& rows, std::size_t column) {
  return std::all_of(rows.begin(), rows.end(), [&](const CsvRow& row) {
    return tells_nothing(row[column]) || row[column] == "1.00";
  });
}

/// The table without what tells nothing; a metric's title moves to its first column that stays.
std::vector<CsvRow> without_trivial(const CsvRow& titles, const CsvRow& names,
                                    std::vector<CsvRow> rows) {
  rows.erase(std::remove_if(rows.begin(), rows.end(),
                            [](const CsvRow& row) {
                              return std::all_of(row.begin() + 1, row.end(), tells_nothing);
                            }),
             rows.end());
  std::vector<CsvRow> shown(rows.size() + 2);
  std::string title;
  for (std::size_t c = 0; c < titles.size(); ++c) {
    if (!titles[c].empty()) title = titles[c];
    if (c > 0 && trivial(rows, c)) continue;
    shown[0].push_back(std::exchange(title, ""));
    shown[1].push_back(names[c]);
    for (std::size_t r = 0; r < rows.size(); ++r) shown[r + 2].push_back(rows[r][c]);
  }
  if (shown[0].size() == 1) shown.clear();
  return shown;
}

std::vector<CsvRow> answer(const Question& question, const std::vector<CellText>& cells,
                           const Labels& labels, const PagerNames& pagers) {
  CsvRow titles = {""}, names = {""};
  for (const Metric& metric : question.metrics) {
    for (const auto& [full, name] : pagers) {
      titles.push_back(full == pagers.front().first ? std::string(metric.title) : "");
      names.push_back(name);
    }
  }
  std::vector<CsvRow> rows;
  std::map<std::string, std::size_t> row_of;
  for (const CellText& cell : cells) {
    const std::string label = labels.of(cell);
    const auto [at, fresh] = row_of.emplace(label, rows.size());
    if (fresh) rows.emplace_back(CsvRow(titles.size())).front() = label;
    add_figures(rows[at->second], cell, question, pagers);
  }
  return without_trivial(titles, names, std::move(rows));
}

}  // namespace

std::string suite_summary(const std::vector<CellText>& cells) {
  const Labels labels(cells);
  const PagerNames pagers = short_pager_names(cells);
  std::string text;
  for (const Question& question : kQuestions) {
    const std::vector<CsvRow> rows = answer(question, cells, labels, pagers);
    if (rows.empty()) continue;
    text += fmt::format("{}{}\n\n{}", text.empty() ? "" : "\n", question.title, aligned(rows, 1));
  }
  for (const CellText& cell : cells) {
    const std::string& status = cell.suite[suite_column("status")];
    if (status != "ok") {
      text += fmt::format("{} {}: {}\n", labels.of(cell), pager_of(cell), status);
    }
  }
  return text;
}

}  // namespace mmuscope
