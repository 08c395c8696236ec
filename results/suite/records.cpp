#include "results/suite/records.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "core/error.h"
#include "results/suite/statistics.h"

namespace mmuscope {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxFile = std::size_t{1} << 30;

fs::path journal_of(const fs::path& folder) { return folder / "journal"; }

// The journal is a CSV file whose first field says what a row is: first the headers of the four
// files, then for each cell its rows and a row that ends it.
constexpr std::string_view kSuite = "suite", kProcess = "process", kVcpu = "vcpu",
                           kSeries = "series", kEnd = "end";

std::string tagged(std::string_view tag, CsvRow row) {
  row.insert(row.begin(), std::string(tag));
  return csv_line(row);
}

std::string journal_text(const CellText& cell) {
  std::string text = tagged(kSuite, cell.suite);
  for (const CsvRow& row : cell.processes) text += tagged(kProcess, row);
  for (const CsvRow& row : cell.vcpus) text += tagged(kVcpu, row);
  for (const CsvRow& row : cell.series) text += tagged(kSeries, row);
  return text.append(kEnd).append("\n");
}

std::string journal_head() {
  return journal_text({csv_header(suite_columns()),
                       {csv_header(process_columns())},
                       {csv_header(vcpu_columns())},
                       {csv_header(series_columns())}});
}

template <class Row>
std::string csv_text(std::span<const Column<Row>> columns, const std::vector<CellText>& cells,
                     std::vector<CsvRow> CellText::*rows) {
  std::string text = csv_line(csv_header(columns));
  for (const CellText& cell : cells) {
    for (const CsvRow& row : cell.*rows) text += csv_line(row);
  }
  return text;
}

/// The rows below the header; none if there is no such file or its header is another.
template <class Row>
std::vector<CsvRow> read_rows(const fs::path& path, std::span<const Column<Row>> columns) {
  if (!fs::exists(path)) return {};
  std::vector<CsvRow> rows = parse_csv(read_file(path, kMaxFile), path.string());
  const CsvRow header = csv_header(columns);
  if (rows.empty() || rows[0] != header) return {};
  rows.erase(rows.begin());
  const auto torn = [&](const CsvRow& row) { return row.size() != header.size(); };
  rows.erase(std::remove_if(rows.begin(), rows.end(), torn), rows.end());
  return rows;
}

void read_files(const fs::path& folder, Records& records) {
  std::map<std::string, CellText*> by_cell;
  const std::size_t cell_column = suite_column("cell");
  for (CsvRow& row : read_rows(folder / "suite.csv", suite_columns())) {
    CellText& cell = records[identity(row)];
    by_cell[row[cell_column]] = &cell;
    cell.suite = std::move(row);
  }
  const auto hand_out = [&](std::vector<CsvRow> rows, std::vector<CsvRow> CellText::*to) {
    for (CsvRow& row : rows) {
      const auto cell = by_cell.find(row[0]);
      if (cell != by_cell.end()) (cell->second->*to).push_back(std::move(row));
    }
  };
  hand_out(read_rows(folder / "processes.csv", process_columns()), &CellText::processes);
  hand_out(read_rows(folder / "vcpus.csv", vcpu_columns()), &CellText::vcpus);
  hand_out(read_rows(folder / "series.csv", series_columns()), &CellText::series);
}

void read_journal(const fs::path& folder, Records& records) {
  const fs::path path = journal_of(folder);
  if (!fs::exists(path)) return;
  std::string text = read_file(path, kMaxFile);
  const std::string head = journal_head();
  if (text.compare(0, head.size(), head) != 0) return;
  // What follows the last end was being written when the program was killed.
  text.erase(text.rfind("\nend\n") + 5);
  CellText cell;
  for (CsvRow& row : parse_csv(std::string_view(text).substr(head.size()), path.string())) {
    const std::string tag = std::move(row[0]);
    row.erase(row.begin());
    if (tag == kSuite) {
      cell = {std::move(row), {}, {}, {}};
    } else if (tag == kProcess) {
      cell.processes.push_back(std::move(row));
    } else if (tag == kVcpu) {
      cell.vcpus.push_back(std::move(row));
    } else if (tag == kSeries) {
      cell.series.push_back(std::move(row));
    } else if (tag == kEnd && cell.suite.size() == suite_columns().size()) {
      const std::string key = identity(cell.suite);
      records[key] = std::move(cell);
    }
  }
}

}  // namespace

std::string identity(const CsvRow& row) {
  std::string text;
  for (const std::string_view name : {"workload", "workload_params", "pager", "pager_params", "cpu",
                                      "machine_params", "vcpus", "vms", "seed"}) {
    text.append(row[suite_column(name)]).append("\n");
  }
  return text;
}

void fill_slowdown(std::vector<CellText>& cells) {
  const std::size_t pager = suite_column("pager"), params = suite_column("pager_params"),
                    cycles = suite_column("cycles_total"),
                    slowdown = suite_column("slowdown_vs_native");
  const auto native_identity = [&](CsvRow row) {
    row[pager] = "native";
    row[params] = "";
    return identity(row);
  };
  std::map<std::string, double> native;
  for (const CellText& cell : cells) {
    const double value = std::strtod(cell.suite[cycles].c_str(), nullptr);
    if (cell.suite[pager] == "native" && value > 0) native[native_identity(cell.suite)] = value;
  }
  for (CellText& cell : cells) {
    const auto base = native.find(native_identity(cell.suite));
    const std::string& own = cell.suite[cycles];
    cell.suite[slowdown] = base == native.end() || own.empty()
                               ? ""
                               : csv_field(Value(std::strtod(own.c_str(), nullptr) / base->second));
  }
}

std::string suite_csv(const std::vector<CellText>& cells) {
  std::string text = csv_line(csv_header(suite_columns()));
  for (const CellText& cell : cells) text += csv_line(cell.suite);
  return text;
}

std::string processes_csv(const std::vector<CellText>& cells) {
  return csv_text(process_columns(), cells, &CellText::processes);
}

std::string vcpus_csv(const std::vector<CellText>& cells) {
  return csv_text(vcpu_columns(), cells, &CellText::vcpus);
}

std::string series_csv(const std::vector<CellText>& cells) {
  return csv_text(series_columns(), cells, &CellText::series);
}

namespace {

/// Writes the file, or removes an old one where this run has none.
void write_optional(const fs::path& path, bool has, const std::string& text) {
  if (has) {
    write_file(path.string(), text);
  } else {
    fs::remove(path);
  }
}

}  // namespace

void write_records(const fs::path& folder, const std::vector<CellText>& cells) {
  write_file((folder / "suite.csv").string(), suite_csv(cells));
  write_file((folder / "processes.csv").string(), processes_csv(cells));
  write_file((folder / "vcpus.csv").string(), vcpus_csv(cells));
  const std::string summary = summary_csv(cells);
  write_optional(folder / "summary.csv", !summary.empty(), summary);
  const bool series = std::any_of(cells.begin(), cells.end(),
                                  [](const CellText& cell) { return !cell.series.empty(); });
  write_optional(folder / "series.csv", series, series ? series_csv(cells) : "");
}

Records read_records(const fs::path& folder) {
  Records records;
  read_files(folder, records);
  read_journal(folder, records);
  return records;
}

Journal::Journal(const fs::path& folder, const std::vector<const CellText*>& cells)
    : path_(journal_of(folder)), file_(nullptr) {
  // The cells of an older journal are among those given: it goes when the new one holds them.
  const fs::path beside = path_.string() + ".new";
  file_ = std::fopen(beside.c_str(), "wb");
  if (file_ == nullptr) {
    throw InputError(path_.string() + ": cannot be written: " + std::strerror(errno));
  }
  fmt::print(file_, "{}", journal_head());
  for (const CellText* cell : cells) add(*cell);
  if (std::fflush(file_) != 0 || std::rename(beside.c_str(), path_.c_str()) != 0) {
    throw InputError(path_.string() + ": cannot be written: " + std::strerror(errno));
  }
}

Journal::~Journal() {
  if (file_ != nullptr) std::fclose(file_);
}

void Journal::add(const CellText& cell) {
  fmt::print(file_, "{}", journal_text(cell));
  if (std::fflush(file_) != 0) {
    throw InputError(path_.string() + ": cannot be written: " + std::strerror(errno));
  }
}

void Journal::finish() {
  std::fclose(file_);
  file_ = nullptr;
  std::remove(path_.c_str());
}

}  // namespace mmuscope
