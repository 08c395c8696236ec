// The grader's program: hands a student's pager to the agreement tests that mmuscope's own pagers
// pass, compares it with them, and prints one line of JSON.

#include <cstdio>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "own_pager.h"
#include "results/comparison.h"
#include "tests/support/agreement.h"

using namespace mmuscope;

namespace {

constexpr const char* kSuite[] = {"churn:bytes=4m", "fork:operations=10",
                                  "switch:processes=4,slices=50", "ptemod:operations=5000",
                                  "database:bytes=16m,accesses=300000"};
constexpr const char* kColumns[] = {"exits", "table_refs", "pager_bytes_peak", "cycles_total"};
const std::vector<std::string> kPagers = {"own", "native", "shadow", "shadow-unsync", "nested"};

/// What went wrong; empty: nothing.
template <class Run>
std::string said(Run&& run) {
  try {
    return run();
  } catch (const std::exception& e) {
    return e.what();
  }
}

u64 count(const SuiteRow& row, const char* column) {
  return std::stoull(cell_text(row).suite[suite_column(column)]);
}

/// A line for each workload of the suite and pager.
std::string score(std::span<const PagerInfo> pagers, std::string& more_exits) {
  std::vector<CsvRow> rows = {{"workload", "pager"}};
  rows[0].insert(rows[0].end(), std::begin(kColumns), std::end(kColumns));
  for (const char* workload : kSuite) {
    ExperimentText text;
    text.workload = workload;
    const Comparison c = compare_pagers("own-pager", text, kPagers, pagers);
    for (std::size_t i = 0; i < c.runs.size(); ++i) {
      if (!c.runs[i].row.result->ok()) throw RunError(c.runs[i].row.result->status);
      CsvRow row = {i == 0 ? workload : "", kPagers[i]};
      for (const char* column : kColumns) row.push_back(thousands(count(c.runs[i].row, column)));
      rows.push_back(row);
    }
    const u64 own = count(c.runs[0].row, "exits"), shadow = count(c.runs[2].row, "exits");
    if (workload == kSuite[0] && own >= shadow) {
      more_exits = "on " + std::string(workload) + " it has " + std::to_string(own) +
                   " exits, shadow has " + std::to_string(shadow);
    }
  }
  return aligned(rows, 2);
}

}  // namespace

int main() {
  const PagerInfo pagers[] = {own_pager(), find_pager("native"), find_pager("shadow"),
                              find_pager("shadow-unsync"), find_pager("nested")};
  const std::span<const PagerInfo> own(pagers, 1);
  nlohmann::json parts = nlohmann::json::array();
  bool holds = true;
  const auto part = [&](const char* name, auto&& run) {
    if (!holds) return;  // what comes later would only say the same again
    const std::string wrong = said(run);
    parts.push_back({name, wrong});
    holds = wrong.empty();
  };
  part("scripts", [&] { return check_scripts(own, 1, 60).disagreement; });
  part("workloads", [&] {
    const Agreement fork = check_workload(own, "fork:operations=3,resident=32k", 1);
    if (!fork.holds()) return fork.disagreement;
    return check_workload(pagers, "churn:bytes=256k,block=64k", 1).disagreement;
  });
  part("vcpus", [&] {
    return check_workload(pagers, "churn:bytes=128k,block=32k,threads=2", 2).disagreement;
  });
  std::string table, more_exits;
  part("fewer-exits", [&] {
    table = score(pagers, more_exits);
    return more_exits;
  });
  const nlohmann::json all = {{"parts", parts}, {"table", table}};
  std::printf("\n%s\n", all.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
  return 0;
}
