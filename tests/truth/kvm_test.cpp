#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <vector>

#include "results/scenario.h"
#include "tests/support/paths.h"
#include "tests/support/setups.h"

using namespace mmuscope;

namespace {

std::vector<std::filesystem::path> recorded() {
  std::vector<std::filesystem::path> files;
  const auto folder = std::filesystem::path(source_dir()) / "tests/truth/kvm";
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() == ".json") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

ScenarioCheck check(const Scenario& scenario, const std::string& pager) {
  MachineConfig config;
  const Machine::MakePager make = pager_maker(pager, config.virtualized);
  return check_scenario(scenario, run_scenario(scenario, config, make, pager));
}

/// Scenarios in which some figure is not what the kernel counted.
std::size_t wrong_under(const std::string& pager) {
  std::size_t wrong = 0;
  for (const auto& file : recorded()) {
    const Scenario scenario = load_scenario(file);
    const ScenarioCheck c = check(scenario, pager);
    CHECK(c.figures_compared);
    wrong += !c.failures.empty();
  }
  return wrong;
}

}  // namespace

TEST_CASE("every figure that a Linux 6.18 kernel counted comes out under shadow-unsync") {
  REQUIRE(recorded().size() == 34);
  for (const auto& file : recorded()) {
    INFO(file.filename().string());
    const ScenarioCheck c = check(load_scenario(file), "shadow-unsync");
    CHECK(c.figures_compared);
    CHECK(c.passed > 0);
    CHECK(c.failures == std::vector<std::string>{});
  }
}

TEST_CASE("a figure that is one off fails, and so does a word of memory") {
  Scenario scenario = load_scenario(recorded().front());
  ++scenario.steps.front().expect.front().second;
  CHECK(check(scenario, "shadow-unsync").failures.size() == 1);
  for (const auto& file : recorded()) {
    scenario = load_scenario(file);
    if (scenario.final_memory.empty()) continue;
    ++scenario.final_memory.front().second;
    CHECK(check(scenario, "shadow-unsync").failures.size() == 1);
    return;
  }
  FAIL("no scenario records memory");
}

TEST_CASE("each of KVM's decisions shows in some recorded figure") {
  // The same kernel with one decision taken otherwise would have counted something else.
  for (const char* keys : {"unsync=off", "prefetch=off", "prefetch=forward", "flood=4", "flood=2",
                           "roots=2", "unsync-pages=3", "zap-unsync-children=on", "policy=xen"}) {
    INFO(keys);
    CHECK(wrong_under(std::string("shadow-unsync:") + keys) > 0);
  }
}

TEST_CASE("the recorded guests see the same under every pager") {
  for (const auto& file : recorded()) {
    const Scenario scenario = load_scenario(file);
    for (const std::string pager : {"native", "shadow", "nested:format=ept", "nested:format=npt"}) {
      INFO(file.filename().string(), " under ", pager);
      const ScenarioCheck c = check(scenario, pager);
      CHECK_FALSE(c.figures_compared);
      CHECK(c.failures == std::vector<std::string>{});
    }
  }
}
