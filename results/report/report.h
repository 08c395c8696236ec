#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "results/narration.h"

namespace mmuscope {

/// The page for a folder that a suite wrote: one HTML file that needs nothing else. Throws
/// InputError: no suite.csv there, or one that is not a suite's.
std::string report_page(const std::filesystem::path& folder);

/// Writes the page to report.html in the folder; its path.
std::filesystem::path write_report(const std::filesystem::path& folder);

/// What becomes of a store to a page-table entry: the ops that follow one another, narrated under
/// a pager. The guest has used the page before and its table too, so nothing is new but the store.
struct LifeOfWrite {
  std::string pager;
  std::vector<std::string> titles;  ///< of each op, in words
  std::vector<Narration> ops;
};
std::vector<LifeOfWrite> lives_of_a_write();

}  // namespace mmuscope
