#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "results/columns.h"

namespace mmuscope {

/// Finished cells of a suite as text, by identity: what suite.csv, processes.csv, vcpus.csv,
/// series.csv and the journal of an unfinished run hold.
using Records = std::map<std::string, CellText>;

/// The identity of a row of suite.csv, the same text as identity(Experiment) gives.
std::string identity(const CsvRow& suite_row);

/// The text of each file, in the order given.
std::string suite_csv(const std::vector<CellText>& cells);
std::string processes_csv(const std::vector<CellText>& cells);
std::string vcpus_csv(const std::vector<CellText>& cells);
std::string series_csv(const std::vector<CellText>& cells);

/// Writes the three files into the folder, in the order given, summary.csv where experiments
/// were repeated with other seeds, and series.csv where experiments ask for it (an old one is
/// removed where they do not).
void write_records(const std::filesystem::path& folder, const std::vector<CellText>& cells);

/// What the folder holds: its CSV files and, over them, its journal. Rows of files with other
/// columns than this program's are left out, and so is a last line of the journal that was not
/// written to its end.
Records read_records(const std::filesystem::path& folder);

/// Fills in slowdown_vs_native of every row that has a native row of the same identity but the
/// pager.
void fill_slowdown(std::vector<CellText>& cells);

/// Keeps each finished cell on disk at once, so that no interruption loses it.
class Journal {
 public:
  /// Begins a new one in the folder with the cells given. Throws InputError if it cannot.
  Journal(const std::filesystem::path& folder, const std::vector<const CellText*>& cells);
  ~Journal();
  Journal(const Journal&) = delete;
  Journal& operator=(const Journal&) = delete;
  void add(const CellText& cell);
  /// Removes it: everything is in the CSV files.
  void finish();

 private:
  std::filesystem::path path_;
  std::FILE* file_;
};

}  // namespace mmuscope
