#include "results/tables.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

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

/// The machine's keys; `fragmentation` is one of backing=mixed alone.
std::string machine_keys(const Experiment& e) {
  std::string keys = e.machine.canonical();
  const std::size_t at = keys.find("fragmentation=");
  if (at != keys.npos && keys.find("backing=mixed") == keys.npos) {
    keys.erase(at, keys.find(',', at) - at + 1);
  }
  return keys;
}

/// "key=value,..." in lines that fit a terminal, behind and below a heading's first column.
std::string wrapped(std::string line, const std::string& keys) {
  constexpr std::size_t kWidth = 100;
  const std::string below(10, ' ');
  std::string text;
  for (std::size_t at = 0; at < keys.size();) {
    const std::size_t end = std::min(keys.find(',', at), keys.size() - 1) + 1;
    if (line.size() > below.size() && line.size() + (end - at) > kWidth) {
      text += line + "\n";
      line = below;
    }
    line += keys.substr(at, end - at);
    at = end;
  }
  return text + line + "\n";
}

std::string what_ran(const SuiteRow& row) {
  const Experiment& e = *row.experiment;
  return wrapped(fmt::format("workload  {} ", e.workload->name), e.workload_params.canonical()) +
         wrapped(fmt::format("machine   {} vcpus={} vms={} ", e.cpu, e.vcpus, e.vms),
                 machine_keys(e)) +
         fmt::format("seed      {}\n", e.seed);
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
  }
  // A group's columns need not stand together in a CSV file, where new ones come last.
  std::vector<std::pair<std::string_view, std::vector<CsvRow>>> groups;
  for (const Column<SuiteRow>& column : suite_columns()) {
    if (column.kind == ColumnKind::Identity) continue;
    std::vector<Value> values;
    for (const Compared& run : runs) {
      values.push_back(run.row.result->ok() ? column.value(run.row) : Value());
    }
    if (std::all_of(values.begin(), values.end(), [](auto& v) { return number(v) == 0; })) continue;
    auto group = std::find_if(groups.begin(), groups.end(),
                              [&](const auto& g) { return g.first == column.group; });
    if (group == groups.end()) group = groups.insert(group, {column.group, {}});
    CsvRow& row = group->second.emplace_back(CsvRow{fmt::format("  {}", column.name)});
    for (const Value& value : values) {
      row.push_back(readable(value));
      if (&value != &values.front()) row.push_back(ratio_to(value, values.front()));
    }
  }
  std::vector<CsvRow> rows = {std::move(head)};
  for (auto& [group, of_group] : groups) {
    rows.push_back({std::string(group)});
    std::move(of_group.begin(), of_group.end(), std::back_inserter(rows));
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

}  // namespace mmuscope
