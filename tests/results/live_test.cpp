// Scenarios on this host's own KVM. Where it cannot be used these tests say why and check nothing
// but what needs no KVM.

#include "results/live/live.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <optional>

#include "core/error.h"
#include "results/live/random_scenario.h"
#include "tests/support/paths.h"

namespace mmuscope {
namespace {

std::vector<Scenario> recorded(const std::string& folder) {
  std::vector<std::filesystem::path> files;
  const std::string truth = source_dir() + "/tests/truth/" + folder;
  for (const auto& entry : std::filesystem::directory_iterator(truth)) {
    if (entry.path().extension() == ".json") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  std::vector<Scenario> scenarios;
  for (const auto& file : files) scenarios.push_back(load_scenario(file));
  return scenarios;
}

/// A runner, if this host's KVM uses shadow paging as where the truth was recorded.
std::optional<LiveRunner> shadow_runner() {
  try {
    if (read_host(this_host()).tdp()) {
      MESSAGE("skipped: this host's KVM uses two-dimensional paging");
      return std::nullopt;
    }
    return std::optional<LiveRunner>(std::in_place, read_host(this_host()));
  } catch (const InputError& e) {
    MESSAGE("skipped: " << std::string(e.what()));
    return std::nullopt;
  }
}

u64 wrong_figures(const Scenario& counted, const std::string& pager) {
  return check_scenario(counted, run_scenario(counted, pager, std::string(kDefaultCpu)))
      .failures.size();
}

TEST_CASE("a scenario that is written and read is the same") {
  for (const Scenario& s : recorded("kvm")) {
    const std::string text = scenario_json(s);
    CHECK(scenario_json(parse_scenario(text, s.file)) == text);
    CHECK(wrong_figures(parse_scenario(text, s.file), s.pager) == 0);
  }
}

TEST_CASE("what live --random found holds") {
  const auto scenarios = recorded("kvm-live");
  CHECK(scenarios.size() >= 3);
  for (const Scenario& s : scenarios) {
    INFO(s.name);
    CHECK(wrong_figures(s, s.pager) == 0);
  }
}

TEST_CASE("random scenarios depend on their seed alone and run without a fault") {
  CHECK(scenario_json(random_scenario(3)) == scenario_json(random_scenario(3)));
  CHECK(scenario_json(random_scenario(3)) != scenario_json(random_scenario(4)));
}

TEST_CASE("a scenario shrinks to what is needed") {
  const auto has_two_cr3 = [](const Scenario& s) {
    u64 loads = 0;
    for (const ScenarioStep& step : s.steps) {
      for (const ScenarioOp& op : step.ops) loads += op.kind == ScenarioOp::Kind::Cr3;
    }
    return loads >= 2;
  };
  const Scenario whole = random_scenario(5);
  REQUIRE(has_two_cr3(whole));
  CHECK(units(shrink(whole, has_two_cr3)) == 2);
}

// Slow, and so apart: what a busy host does to its own guests is counted too.
TEST_CASE("slow: the recorded scenarios count the same live") {
  auto runner = shadow_runner();
  if (!runner) return;
  std::vector<Scenario> scenarios = recorded("kvm");
  for (Scenario& s : recorded("kvm-live")) scenarios.push_back(std::move(s));
  for (const Scenario& s : scenarios) {
    // A host may do something to the guest's memory meanwhile: twice would be no accident.
    u64 wrong = 0;
    for (int attempt = 0; attempt < 2; ++attempt) {
      const Scenario live = runner->record(s).scenario;
      wrong = 0;
      for (std::size_t i = 0; i < s.steps.size(); ++i) {
        for (const auto& figure : s.steps[i].expect) {
          const auto& now = live.steps[i].expect;
          wrong += std::find(now.begin(), now.end(), figure) == now.end();
        }
      }
      if (wrong == 0) break;
    }
    INFO(s.name);
    CHECK(wrong == 0);
  }
}

TEST_CASE("a vCPU that dies is reported, and the next one lives") {
  auto runner = shadow_runner();
  if (!runner) return;
  Scenario s = recorded("kvm").front();
  Scenario bad = s;
  bad.memory.clear();  // no table at all
  CHECK_THROWS_WITH_AS(runner->record(bad), doctest::Contains("triple fault"), RunError);
  CHECK(wrong_figures(runner->record(s).scenario, runner->host().pager) == 0);
}

TEST_CASE("guest faults are delivered live, and other ends than announced are said") {
  auto runner = shadow_runner();
  if (!runner) return;
  Scenario s = load_scenario(source_dir() + "/tests/truth/kvm-live/guest_faults.json");
  CHECK(runner->record(s).wrong.empty());
  ScenarioOp& op = s.steps.front().ops.at(1);
  REQUIRE(op.announced.error_code == 4u);
  op.announced.error_code = 6;
  const LiveRunner::Record record = runner->record(s);
  REQUIRE(record.wrong.size() == 1);
  CHECK(record.wrong.front() ==
        "step 1 (not present), op 1: on the kernel the access gave #PF with error code 0x4, #PF "
        "announced with error code 0x6");
  CHECK(record.scenario.steps.front().ops.at(1).announced.error_code == 4u);
}

TEST_CASE("what cannot be run live is refused with its op") {
  auto runner = shadow_runner();
  if (!runner) return;
  Scenario s = recorded("kvm").front();
  s.steps.front().ops.erase(s.steps.front().ops.begin());  // an access without its fetch
  CHECK_THROWS_WITH_AS(runner->record(s).scenario,
                       doctest::Contains("op 1: live runs each r and w"), InputError);
}

TEST_CASE("slow: random scenarios count the same live") {
  auto runner = shadow_runner();
  if (!runner) return;
  for (u64 seed = 1; seed <= 20; ++seed) {
    const Scenario s = random_scenario(seed);
    if (wrong_figures(runner->record(s).scenario, runner->host().pager) == 0) continue;
    INFO("seed " << seed);
    CHECK(wrong_figures(runner->record(s).scenario, runner->host().pager) == 0);
  }
}

}  // namespace
}  // namespace mmuscope
