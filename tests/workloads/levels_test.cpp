#include <doctest/doctest.h>

#include "results/experiment.h"

using namespace mmuscope;

namespace {

Result run(const char* workload, const std::string& pager, const char* levels) {
  ExperimentText text;
  text.workload = workload;
  text.pager = pager;
  text.set = {std::string("guest-levels=") + levels};
  return run_experiment(parse_experiment(text));
}

}  // namespace

TEST_CASE("a guest of five levels runs as one of four, with one table more a process") {
  for (const PagerInfo& pager : pager_catalog()) {
    CAPTURE(pager.name);
    const std::string name(pager.name);
    const char* const workload = "fork:operations=3,resident=256k";
    const Result four = run(workload, name, "4"), five = run(workload, name, "5");
    REQUIRE(four.status == "ok");
    REQUIRE(five.status == "ok");
    CHECK(five.counters[Event::GuestPageFault] == four.counters[Event::GuestPageFault]);
    CHECK(five.accesses > four.accesses);  // a level more of tables to edit
    CHECK(five.processes_peak == four.processes_peak);
    CHECK(five.guest_table_bytes_peak >
          four.guest_table_bytes_peak + (five.processes_peak - 1) * kPageBytes);
  }
}
