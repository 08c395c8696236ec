#include "results/tables.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <map>
#include <set>

namespace mmuscope {
namespace {

/// For people: integers with separators, ratios with four digits, nothing for nothing.
std::string readable(const Value& value) {
  if (const u64* integer = std::get_if<u64>(&value)) return thousands(*integer);
  if (const double* ratio = std::get_if<double>(&value)) {
    if (*ratio >= 1'000) return thousands(static_cast<u64>(*ratio + 0.5));
    return fmt::format("{:.4g}", *ratio);
  }
  return "";
}

double number(const Value& value) {
  if (const u64* integer = std::get_if<u64>(&value)) return static_cast<double>(*integer);
  if (const double* ratio = std::get_if<double>(&value)) return *ratio;
  return 0;
}

std::string ratio_to(const Value& value, const Value& first) {
  if (value.index() == 0 || number(first) == 0) return "";
  return fmt::format("{:.2f}x", number(value) / number(first));
}

std::string what_ran(const SuiteRow& row) {
  const Experiment& e = *row.experiment;
  return fmt::format("workload  {} {}\nmachine   {} {} vcpus={}\nseed      {}\n", e.workload->name,
                     e.workload_params.canonical(), e.cpu, e.machine.canonical(), e.vcpus, e.seed);
}

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

/// A column of the short table, of one pager.
struct Metric {
  std::string_view title;
  std::string_view column;
  std::string (*show)(double value);
};
constexpr std::array<Metric, 5> kMetrics = {{
    {"exits", "exits", [](double v) { return thousands(static_cast<u64>(v)); }},
    {"pager KiB", "pager_bytes_peak",
     [](double v) { return thousands(static_cast<u64>(v / 1024 + 0.5)); }},
    {"KiB/process", "pager_bytes_per_process_mean",
     [](double v) { return thousands(static_cast<u64>(v / 1024 + 0.5)); }},
    {"IPIs", "ipis", [](double v) { return thousands(static_cast<u64>(v)); }},
    {"slowdown", "slowdown_vs_native", [](double v) { return fmt::format("{:.2f}", v); }},
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

/// Puts the cell's metrics into the columns of its pager.
void add_metrics(CsvRow& row, const CellText& cell,
                 const std::vector<std::pair<std::string, std::string>>& pagers) {
  std::size_t column = 1;
  for (const Metric& metric : kMetrics) {
    for (const auto& [full, name] : pagers) {
      const std::string& value = cell.suite[suite_column(metric.column)];
      if (full == pager_of(cell) && !value.empty()) {
        row[column] = metric.show(std::strtod(value.c_str(), nullptr));
      }
      ++column;
    }
  }
}

/// True if the column tells nothing: empty or the same trivial value everywhere.
bool trivial(const std::vector<CsvRow>& rows, std::size_t column) {
  return std::all_of(rows.begin(), rows.end(), [&](const CsvRow& row) {
    return row[column].empty() || row[column] == "0" || row[column] == "1.00";
  });
}

/// The table without the columns that tell nothing; a metric's title moves to its first column
/// that stays.
std::vector<CsvRow> without_trivial(const CsvRow& titles, const CsvRow& names,
                                    const std::vector<CsvRow>& rows) {
  std::vector<CsvRow> shown(rows.size() + 2);
  std::string title;
  for (std::size_t c = 0; c < titles.size(); ++c) {
    if (!titles[c].empty()) title = titles[c];
    if (c > 0 && trivial(rows, c)) continue;
    shown[0].push_back(std::exchange(title, ""));
    shown[1].push_back(names[c]);
    for (std::size_t r = 0; r < rows.size(); ++r) shown[r + 2].push_back(rows[r][c]);
  }
  return shown;
}

}  // namespace

std::string thousands(u64 value) {
  std::string digits = std::to_string(value);
  for (std::size_t at = digits.size(); at > 3;) digits.insert(at -= 3, ",");
  return digits;
}

std::string aligned(const std::vector<CsvRow>& rows, std::size_t left) {
  std::vector<std::size_t> widths;
  for (const CsvRow& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    // A line of one field is a heading; it widens nothing.
    for (std::size_t i = 0; i < row.size() && row.size() > 1; ++i) {
      widths[i] = std::max(widths[i], row[i].size());
    }
  }
  std::string text;
  for (const CsvRow& row : rows) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) {
      if (i > 0) line += "  ";
      line += i < left ? fmt::format("{:<{}}", row[i], widths[i])
                       : fmt::format("{:>{}}", row[i], widths[i]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

std::string comparison_table(const std::vector<Compared>& runs) {
  std::string text = what_ran(runs.front().row);
  CsvRow head = {""};
  for (const Compared& run : runs) {
    head.push_back(run.label);
    if (&run != &runs.front()) head.push_back("");
    if (!run.row.result->ok()) text += fmt::format("{}: {}\n", run.label, run.row.result->status);
  }
  std::vector<CsvRow> rows = {std::move(head)};
  std::string_view group;
  for (const Column<SuiteRow>& column : suite_columns()) {
    if (column.kind == ColumnKind::Identity) continue;
    std::vector<Value> values;
    for (const Compared& run : runs) {
      values.push_back(run.row.result->ok() ? column.value(run.row) : Value());
    }
    if (std::all_of(values.begin(), values.end(), [](auto& v) { return number(v) == 0; })) continue;
    if (column.group != group) {
      group = column.group;
      rows.push_back({std::string(group)});
    }
    CsvRow& row = rows.emplace_back(CsvRow{fmt::format("  {}", column.name)});
    for (const Value& value : values) {
      row.push_back(readable(value));
      if (&value != &values.front()) row.push_back(ratio_to(value, values.front()));
    }
  }
  return text + "\n" + aligned(rows, 1);
}

std::string process_table(const Result& result, std::size_t limit) {
  std::vector<const ProcessRow*> order;
  for (const ProcessRow& p : result.processes) order.push_back(&p);
  std::stable_sort(order.begin(), order.end(), [](const ProcessRow* a, const ProcessRow* b) {
    return a->pager_bytes.value_or(0) > b->pager_bytes.value_or(0);
  });
  const auto field = [](const std::optional<u64>& value) {
    return value ? thousands(*value) : std::string();
  };
  std::vector<CsvRow> rows = {{"process", "pid", "guest table pages", "pager pages, private",
                               "shared", "pager bytes", "exits", "guest page faults"}};
  for (const ProcessRow* p : order) {
    if (rows.size() > limit) break;
    rows.push_back({p->name, p->pid ? std::to_string(*p->pid) : "", field(p->guest_table_pages),
                    field(p->table_pages_private), field(p->table_pages_shared),
                    field(p->pager_bytes), field(p->exits), field(p->guest_page_faults)});
  }
  std::string text = aligned(rows, 1);
  if (order.size() > limit) {
    text += fmt::format("and {} more: --processes-csv has them\n", order.size() - limit);
  }
  return text;
}

std::string suite_table(const std::vector<CellText>& cells) {
  const Labels labels(cells);
  const auto pagers = short_pager_names(cells);
  CsvRow titles = {""}, names = {""};
  for (const Metric& metric : kMetrics) {
    for (const auto& [full, name] : pagers) {
      titles.push_back(full == pagers.front().first ? std::string(metric.title) : "");
      names.push_back(name);
    }
  }
  std::vector<CsvRow> rows;
  std::map<std::string, std::size_t> row_of;
  std::string failures;
  for (const CellText& cell : cells) {
    const std::string label = labels.of(cell);
    const auto [at, fresh] = row_of.emplace(label, rows.size());
    if (fresh) rows.emplace_back(CsvRow(titles.size())).front() = label;
    add_metrics(rows[at->second], cell, pagers);
    const std::string& status = cell.suite[suite_column("status")];
    if (status != "ok") failures += fmt::format("{} {}: {}\n", label, pager_of(cell), status);
  }
  return aligned(without_trivial(titles, names, rows), 1) + failures;
}

}  // namespace mmuscope
