// The blocks of results/README.md that load the CSV files into other tools, run by those tools.

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>

#include "results/columns.h"
#include "tests/support/paths.h"
#include "tests/support/shell.h"

using namespace mmuscope;
namespace fs = std::filesystem;

namespace {

/// The README's block in that language.
std::string block(const std::string& language) {
  const std::string text = read_file(source_dir() + "/results/README.md", 1 << 20);
  const std::size_t fence = text.find("```" + language + "\n");
  REQUIRE(fence != std::string::npos);
  const std::size_t begin = text.find('\n', fence) + 1;
  return text.substr(begin, text.find("```", begin) - begin);
}

/// A folder with the results of a small suite in out/.
class Results {
 public:
  Results() : folder_(fs::temp_directory_path() / fmt::format("mmuscope_load_{}", getpid())) {
    fs::create_directories(folder_);
    write_file((folder_ / "s.suite").string(),
               "workload = churn:bytes=256k,block=64k\nworkload = fork:operations=2\n"
               "pager = native\npager = shadow\npager = nested\n");
    const Ran ran =
        shell(fmt::format("cd {} && \"$mmuscope\" suite s.suite --out out", folder_.string()));
    REQUIRE(ran.status == 0);
  }
  ~Results() { fs::remove_all(folder_); }

  /// Runs the block as a file; what it prints must hold the exits of every experiment, which are
  /// all different.
  void check(const std::string& command, const std::string& language) const {
    write_file((folder_ / "block").string(), block(language));
    const Ran ran = shell(fmt::format("cd {} && {}", folder_.string(), command));
    CAPTURE(ran.err);
    CAPTURE(ran.out);
    CHECK(ran.status == 0);
    const auto rows = parse_csv(read_file(folder_ / "out/suite.csv", 1 << 20), "suite.csv");
    for (std::size_t i = 1; i < rows.size(); ++i) {
      CHECK(ran.out.find(rows[i][suite_column("exits")]) != std::string::npos);
      CHECK(ran.out.find(rows[i][suite_column("workload")]) != std::string::npos);
    }
  }

 private:
  fs::path folder_;
};

bool works(const std::string& command) {
  return shell(command + " >/dev/null 2>/dev/null").status == 0;
}

}  // namespace

TEST_CASE("load: pandas") {
  for (const char* python : {"python3", "/usr/bin/python3"}) {
    if (!works(fmt::format("{} -c 'import pandas'", python))) continue;
    Results().check(fmt::format("{} block", python), "python");
    return;
  }
  MESSAGE("skipped, no pandas here: apt-get install python3-pandas");
}

TEST_CASE("load: R") {
  if (!works("Rscript --version")) {
    MESSAGE("skipped, no R here: apt-get install r-base-core");
    return;
  }
  Results().check("Rscript block", "r");
}

TEST_CASE("load: DuckDB") {
  if (!works("duckdb --version")) {
    MESSAGE("skipped, no duckdb here (Debian 12 has no package of it)");
    return;
  }
  Results().check("duckdb < block", "sql");
}

TEST_CASE("load: the data dictionary has a row for every column of every file") {
  const Results results;
  const auto dictionary =
      parse_csv(shell("\"$mmuscope\" list columns --csv").out, "list columns --csv");
  CHECK(dictionary[0] == CsvRow{"table", "name", "kind", "unit", "meaning"});
  const auto names = [&](const std::string& table) {
    CsvRow all;
    for (const CsvRow& row : dictionary) {
      if (row[0] != table) continue;
      all.push_back(row[1]);
      CHECK(!row[4].empty());
      // What counts or measures has a unit, but for shares and ratios of like to like.
      CHECK(
          (row[2] == "identity" || row[2] == "ratio" || row[2] == "parameter" || !row[3].empty()));
    }
    return all;
  };
  const fs::path out =
      fs::temp_directory_path() / fmt::format("mmuscope_load_{}", getpid()) / "out";
  for (const char* table : {"suite.csv", "processes.csv", "vcpus.csv"}) {
    CAPTURE(table);
    CHECK(parse_csv(read_file(out / table, 1 << 20), table)[0] == names(table));
  }
  CHECK(names("summary.csv").size() > 10);
}
