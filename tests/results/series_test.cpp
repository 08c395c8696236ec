// series.csv: memory and exits in the course of a run.

#include "results/series.h"

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "results/csv.h"
#include "results/suite/engine.h"

namespace mmuscope {
namespace {

namespace fs = std::filesystem;

Result run(const std::string& workload, const std::string& pager, u64 every) {
  ExperimentText text;
  text.workload = workload;
  text.pager = pager;
  text.set = {fmt::format("series-every={}", every)};
  return run_experiment(parse_experiment(text));
}

u64 most(const Result& r, u64 SeriesSample::*member) {
  u64 value = 0;
  for (const SeriesSample& s : r.series) value = std::max(value, s.*member);
  return value;
}

TEST_CASE("series: at every step the peaks are the gauges', and the last sample is the end") {
  for (const char* pager : {"native", "shadow", "shadow-unsync", "nested"}) {
    INFO(pager);
    const Result r = run("fork:operations=20,processes=2", pager, 1);
    REQUIRE(r.series.size() > 20);
    CHECK(most(r, &SeriesSample::guest_table_bytes) == r.guest_table_bytes_peak);
    CHECK(most(r, &SeriesSample::processes) == r.processes_peak);
    // Within a step there may be more.
    CHECK(most(r, &SeriesSample::pager_table_bytes) <= r.gauges.table_bytes_peak);
    CHECK(most(r, &SeriesSample::pager_bytes) <= r.gauges.pager_bytes_peak);
    const SeriesSample& last = r.series.back();
    CHECK(last.accesses == r.accesses);
    CHECK(last.exits == total_exits(r.counters));
    CHECK(last.guest_page_faults == r.counters[Event::GuestPageFault]);
    CHECK(last.pager_table_bytes == r.gauges.table_bytes);
    CHECK(last.pager_bytes == r.gauges.pager_bytes);
    CHECK(last.mmu_unsync == r.gauges.mmu_unsync);
  }
}

TEST_CASE("series: tables that only grow peak in the series as in the gauges") {
  for (const char* pager : {"shadow", "shadow-unsync", "nested"}) {
    INFO(pager);
    const Result r = run("touch:bytes=1m", pager, 1);
    CHECK(r.gauges.table_bytes_peak > 0);
    CHECK(most(r, &SeriesSample::pager_table_bytes) == r.gauges.table_bytes_peak);
    CHECK(most(r, &SeriesSample::pager_bytes) == r.gauges.pager_bytes_peak);
  }
}

TEST_CASE("series: a row for each so many accesses, and no event more or less") {
  constexpr u64 kEvery = 5000;
  const Result with = run("fork:operations=20,processes=2", "shadow-unsync", kEvery);
  const Result without = run("fork:operations=20,processes=2", "shadow-unsync", 0);
  CHECK(without.series.empty());
  CHECK(with.counters == without.counters);
  CHECK(with.gauges.pager_bytes_peak == without.gauges.pager_bytes_peak);
  REQUIRE(with.series.size() > 3);
  for (std::size_t i = 1; i + 1 < with.series.size(); ++i) {
    CHECK(with.series[i].accesses - with.series[i - 1].accesses >= kEvery);
    CHECK(with.series[i].exits >= with.series[i - 1].exits);
  }
  CHECK(with.series == run("fork:operations=20,processes=2", "shadow-unsync", kEvery).series);
}

TEST_CASE("series: suites write the file for the cells that ask for it") {
  const fs::path out = fs::temp_directory_path() / fmt::format("mmuscope_series_{}", getpid());
  fs::remove_all(out);
  const auto run_text = [&](const char* settings) {
    const std::string text = std::string("workload = fork:operations=20,processes=2\n") + settings +
                             "pager = nested\npager = shadow\n";
    SuiteOptions options;
    options.out = out;
    return run_suite(parse_suite(text, "series.suite"), options);
  };
  run_text("set = series-every=0\nset = series-every=5000\n");
  const auto rows = parse_csv(read_file(out / "series.csv", 1 << 20), "series.csv");
  REQUIRE(rows.size() > 3);
  CHECK(rows[0] == csv_header(series_columns()));
  for (std::size_t i = 1; i < rows.size(); ++i) CHECK((rows[i][0] == "3" || rows[i][0] == "4"));
  CHECK(rows[1][1] == "1");
  // What is taken over keeps its rows.
  const Records records = read_records(out);
  CHECK(std::count_if(records.begin(), records.end(),
                      [](const auto& r) { return !r.second.series.empty(); }) == 2);
  run_text("");
  CHECK_FALSE(fs::exists(out / "series.csv"));
  fs::remove_all(out);
}

}  // namespace
}  // namespace mmuscope
