// Did any count move? Exact counters of fixed workloads and scripts under each pager, compared with
// counters.csv beside this file. `cmake --build BUILD --target golden-update` writes the file anew;
// its diff is what a reviewer judges.

#include <doctest/doctest.h>

#include <cstdlib>
#include <map>
#include <string>

#include "results/columns.h"
#include "tests/support/paths.h"
#include "tests/support/random_script.h"
#include "tests/support/setups.h"

namespace mmuscope {
namespace {

const std::string kFile = source_dir() + "/tests/golden/counters.csv";

constexpr GuestSpec kWorkloads[] = {
    {"touch:bytes=2m,accesses=20000", 1},
    {"touch:bytes=8m,accesses=20000,guest-page=2m", 1},
    {"churn:bytes=1m,block=256k,threads=2", 2},
    {"fork:operations=5,resident=128k,writes=4,processes=2", 1},
    {"ptemod:operations=1000,op=protect,pages=64,read=on", 1},
    {"switch:slices=50,pages=8,processes=3", 1},
    {"database:bytes=2m,accesses=10000,threads=2", 2},
};
constexpr u64 kScriptSeeds[] = {1, 2, 3, 4, 5, 6};

/// Name of a run, then counter by counter.
using Golden = std::map<std::string, std::map<std::string, u64>>;

void add_workload(Golden& golden, const GuestSpec& workload, const Setup& setup) {
  ExperimentText text;
  text.workload = workload.workload;
  text.pager = setup.pager;
  text.vcpus = workload.vcpus;
  if (setup.backing == PageSize::k2M) text.set = {"backing=2m"};
  const Experiment experiment = parse_experiment(text);
  const Result result = run_experiment(experiment);
  REQUIRE(result.status == "ok");
  const SuiteRow row = make_suite_row("golden", 1, experiment, result);
  auto& counts = golden[std::string(workload.workload) + " on " + std::to_string(workload.vcpus) +
                        " under " + setup.name()];
  for (const Column<SuiteRow>& c : suite_columns()) {
    if (c.kind == ColumnKind::Identity || c.unit == "cycles") continue;
    const Value value = c.value(row);
    if (const u64* n = std::get_if<u64>(&value); n != nullptr && *n != 0) {
      counts[std::string(c.name)] = *n;
    }
  }
}

void add_script(Golden& golden, u64 seed, const Setup& setup) {
  const RandomScript script = random_script(seed, 200);
  const ScriptEnd end = run_script(setup, script.start, script.script);
  auto& counts = golden["script " + std::to_string(seed) + " under " + setup.name()];
  for (const EventInfo& e : kEventInfo) {
    if (end.counters[e.event] != 0) counts[std::string(e.name)] = end.counters[e.event];
  }
}

Golden count_all() {
  Golden golden;
  for (const Setup& setup : all_setups()) {
    for (const GuestSpec& w : kWorkloads) add_workload(golden, w, setup);
    for (const u64 seed : kScriptSeeds) add_script(golden, seed, setup);
  }
  return golden;
}

std::string as_csv(const Golden& golden) {
  std::string text = csv_line({"run", "counter", "value"});
  for (const auto& [run, counts] : golden) {
    for (const auto& [name, value] : counts) text += csv_line({run, name, std::to_string(value)});
  }
  return text;
}

Golden from_csv(const std::string& file) {
  Golden golden;
  std::vector<CsvRow> rows = parse_csv(read_file(file, std::size_t{1} << 24), file);
  for (std::size_t i = 1; i < rows.size(); ++i) {
    REQUIRE(rows[i].size() == 3);
    golden[rows[i][0]][rows[i][1]] = std::strtoull(rows[i][2].c_str(), nullptr, 10);
  }
  return golden;
}

TEST_CASE("no count of the fixed workloads and scripts has moved") {
  Golden is = count_all();
  if (std::getenv("MMUSCOPE_GOLDEN_UPDATE") != nullptr) write_file(kFile, as_csv(is));
  Golden due = from_csv(kFile);
  CHECK(due.size() == is.size());
  for (auto& entry : is) {
    const std::string& run = entry.first;
    auto& counts = entry.second;
    INFO(run);
    auto& expected = due[run];
    // Both ways: a counter that is gone counts as 0, and so does a new one.
    for (const auto& count : counts) expected.try_emplace(count.first, 0);
    for (const auto& count : expected) {
      const std::string& name = count.first;
      INFO(name);
      CHECK(counts[name] == count.second);
    }
  }
}

}  // namespace
}  // namespace mmuscope
