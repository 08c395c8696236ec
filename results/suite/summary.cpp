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
      const Settings all = describe(cell);
      for (std::size_t i = 0; i < all.size(); ++i) {
        seen_[{workload(cell), i}].insert(all[i].second);
      }
    }
  }
  std::string of(const CellText& cell) const {
    std::string text = workload(cell);
    const Settings all = describe(cell);
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (seen_.at({workload(cell), i}).size() == 1) continue;
      text += fmt::format(" {}={}", all[i].first, all[i].second);
    }
    return text;
  }

 private:
  static std::string workload(const CellText& cell) { return cell.suite[suite_column("workload")]; }
  static Settings describe(const CellText& cell) {
    Settings all = settings(cell.suite[suite_column("workload_params")]);
    for (auto& s : settings(cell.suite[suite_column("machine_params")])) all.push_back(s);
    for (const std::string_view name : {"cpu", "vcpus", "vms", "seed"}) {
      all.emplace_back(name, cell.suite[suite_column(name)]);
    }
    return all;
  }
  /// By workload and place in describe(): a key of the machine may be called as one of the
  /// workload.
  std::map<std::pair<std::string, std::size_t>, std::set<std::string>> seen_;
};

/// A figure of suite.csv, shown for each pager.
struct Metric {
  std::string_view title;
  std::string_view column;
  std::string (*show)(double value);
  std::string_view words;
};

std::string show_count(double value) { return thousands(static_cast<u64>(value + 0.5)); }
std::string show_kib(double value) { return thousands(static_cast<u64>(value / 1024 + 0.5)); }
std::string show_millions(double value) { return fmt::format("{:.1f}", value / 1e6); }
std::string show_ratio(double value) { return fmt::format("{:.2f}", value); }

/// What is asked of a suite; each is a table of its own.
struct Question {
  std::string_view about;
  std::array<Metric, 2> metrics;
};
constexpr std::array<Question, 3> kQuestions = {{
    {"",
     {{{"exits", "exits", show_count, "VM exits"},
       {"slowdown", "slowdown_vs_native", show_ratio, "modelled time over native"}}}},
    {"Memory: ",
     {{{"pager KiB", "pager_bytes_peak", show_kib, "the pager's at its peak"},
       {"KiB/process", "pager_bytes_per_process_mean", show_kib,
        "what is private to a process, the mean"}}}},
    {"Synchronisation: ",
     {{{"IPIs", "ipis", show_count, "interrupts between CPUs"},
       {"locks", "lock_acquisitions", show_count, "times the MMU lock was taken"}}}},
}};

std::string pager_of(const CellText& cell) {
  const std::string& params = cell.suite[suite_column("pager_params")];
  return cell.suite[suite_column("pager")] + (params.empty() ? "" : ":" + params);
}

using PagerNames = std::vector<std::pair<std::string, std::string>>;

/// Pagers in order of appearance, with a name for people: the keys at their defaults are left out.
PagerNames pager_names(const std::vector<CellText>& cells) {
  PagerNames names;
  for (const CellText& cell : cells) {
    const std::string full = pager_of(cell);
    if (std::any_of(names.begin(), names.end(), [&](auto& n) { return n.first == full; })) continue;
    const PagerInfo& info = find_pager(cell.suite[suite_column("pager")]);
    const Settings defaults = settings(Params("", info.params()).canonical());
    std::string name(info.name);
    for (const auto& s : settings(cell.suite[suite_column("pager_params")])) {
      if (std::find(defaults.begin(), defaults.end(), s) != defaults.end()) continue;
      name += fmt::format("{}{}={}", name == info.name ? ':' : ',', s.first, s.second);
    }
    names.emplace_back(full, name);
  }
  return names;
}

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

/// With many pagers: a line for each of them below each workload, all figures side by side.
std::string by_pager(const std::vector<CellText>& cells, const Labels& labels,
                     const PagerNames& pagers) {
  std::vector<Metric> metrics;
  for (const Question& q : kQuestions) {
    metrics.insert(metrics.end(), q.metrics.begin(), q.metrics.end());
  }
  metrics.push_back({"million cycles", "cycles_total", show_millions, ""});
  // A figure that no experiment has is left out.
  const auto nowhere = [&](const Metric& m) {
    return std::all_of(cells.begin(), cells.end(), [&](const CellText& cell) {
      return tells_nothing(cell.suite[suite_column(m.column)]);
    });
  };
  metrics.erase(std::remove_if(metrics.begin(), metrics.end(), nowhere), metrics.end());

  std::vector<CsvRow> rows = {{""}};
  for (const Metric& m : metrics) rows[0].emplace_back(m.title);
  std::string last;
  for (const CellText& cell : cells) {
    const std::string label = labels.of(cell);
    if (label != last) rows.push_back({label});
    last = label;
    const auto is_it = [&](const auto& n) { return n.first == pager_of(cell); };
    CsvRow& row = rows.emplace_back();
    row.push_back("  " + std::find_if(pagers.begin(), pagers.end(), is_it)->second);
    for (const Metric& m : metrics) {
      const std::string& value = cell.suite[suite_column(m.column)];
      row.push_back(value.empty() ? "" : m.show(std::strtod(value.c_str(), nullptr)));
    }
  }
  return aligned(rows, 1);
}

/// What its table shows: the words of the metrics that have a column.
std::string heading(const Question& question, const CsvRow& titles) {
  std::vector<std::string_view> shown;
  for (const Metric& m : question.metrics) {
    if (std::find(titles.begin(), titles.end(), m.title) != titles.end()) shown.push_back(m.words);
  }
  return fmt::format("{}{}", question.about, fmt::join(shown, ", and "));
}

std::string by_question(const std::vector<CellText>& cells, const Labels& labels,
                        const PagerNames& pagers) {
  std::string text;
  for (const Question& question : kQuestions) {
    const std::vector<CsvRow> rows = answer(question, cells, labels, pagers);
    if (rows.empty()) continue;
    text += fmt::format("{}{}\n\n{}", text.empty() ? "" : "\n", heading(question, rows[0]),
                        aligned(rows, 1));
  }
  return text;
}

}  // namespace

std::string suite_summary(const std::vector<CellText>& cells) {
  constexpr std::size_t kSideBySide = 4;
  const Labels labels(cells);
  const PagerNames pagers = pager_names(cells);
  std::string text = pagers.size() <= kSideBySide ? by_question(cells, labels, pagers)
                                                  : by_pager(cells, labels, pagers);
  for (const CellText& cell : cells) {
    const std::string& status = cell.suite[suite_column("status")];
    if (status != "ok") {
      text += fmt::format("{} {}: {}\n", labels.of(cell), pager_of(cell), status);
    }
  }
  return text;
}

}  // namespace mmuscope
