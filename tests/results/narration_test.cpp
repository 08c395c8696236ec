#include "results/narration.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "results/catalog.h"
#include "results/experiment.h"
#include "tests/support/paths.h"

using namespace mmuscope;
namespace fs = std::filesystem;

namespace {

constexpr u64 kVa = 0x40'0000'0000;

std::vector<fs::path> scenario_files() {
  std::vector<fs::path> files;
  for (const char* folder : {"tests/truth/kvm", "tests/scenarios"}) {
    for (const auto& f : fs::directory_iterator(fs::path(source_dir()) / folder)) {
      if (f.path().extension() == ".json") files.push_back(f.path());
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

ScenarioMachine machine_of(const Scenario& scenario, const PagerInfo& pager, WalkCaches caches,
                           WalkCacheKind kind) {
  MachineConfig config;
  config.virtualized = pager.virtualized;
  config.walk_caches = caches;
  config.walk_cache_kind = kind;
  return {scenario, config,
          [&](Machine& m) { return pager.make(m, Params("pager", pager.params())); }};
}

/// Runs it with every op narrated: what is told must be what was counted, op by op, and listening
/// must change no count.
void check_sums(const Scenario& scenario, const PagerInfo& pager, WalkCaches caches,
                WalkCacheKind kind = WalkCacheKind::Prefix) {
  ScenarioMachine told = machine_of(scenario, pager, caches, kind);
  ScenarioMachine quiet = machine_of(scenario, pager, caches, kind);
  for (const ScenarioStep& step : scenario.steps) {
    for (const ScenarioOp& op : step.ops) {
      const Narration n = narrate(told, op, std::string(pager.name));
      quiet.run(op);
      REQUIRE_MESSAGE(n.narrated() == n.counters, n.what);
    }
  }
  CHECK(told.machine().counters() == quiet.machine().counters());
}

Narration narrated(const char* pager, Before before, WalkCaches caches,
                   AccessKind kind = AccessKind::Read) {
  MachineConfig config;
  config.walk_caches = caches;
  return narrate_access({Gva(kVa), {kind, Privilege::User}, PageSize::k4K, before}, pager, config);
}

/// "e4" for the EPT entry of level 4, "g1", "s2": the order of a walk.
std::string order(const Narration& n) {
  std::string text;
  for (const Told& t : n.told) {
    if (t.kind != Told::Kind::Entry) continue;
    text.append(text.empty() ? "" : " ").append(1, "gsen"[static_cast<unsigned>(t.entry.table)]);
    text.append(std::to_string(t.entry.level));
  }
  return text;
}

std::vector<Told::Kind> kinds(const Narration& n) {
  std::vector<Told::Kind> all;
  for (const Told& t : n.told) {
    if (t.kind != Told::Kind::Tlb && t.kind != Told::Kind::Entry) all.push_back(t.kind);
  }
  return all;
}

}  // namespace

TEST_CASE("narration: the events told are the events counted, op by op, under every pager") {
  std::size_t files = 0;
  for (const fs::path& file : scenario_files()) {
    const Scenario scenario = load_scenario(file);
    if (scenario.steps.empty()) continue;
    std::size_t ops = 0;
    for (const ScenarioStep& step : scenario.steps) ops += step.ops.size();
    if (ops > 300) continue;  // the long random ones tell nothing that the short ones do not
    ++files;
    CAPTURE(file.filename().string());
    for (const PagerInfo& pager : pager_catalog()) {
      CAPTURE(pager.name);
      check_sums(scenario, pager, WalkCaches::OneD);
    }
    check_sums(scenario, find_pager("nested"), WalkCaches::TwoDTlb);
    check_sums(scenario, find_pager("nested"), WalkCaches::TwoDTlb, WalkCacheKind::Entry);
  }
  CHECK(files > 20);
}

TEST_CASE("narration: a cold nested walk is 24 references, in the order of the architecture") {
  const Narration n = narrated("nested", Before::Cold, WalkCaches::Off);
  CHECK(order(n) == "e4 e3 e2 e1 g4 e4 e3 e2 e1 g3 e4 e3 e2 e1 g2 e4 e3 e2 e1 g1 e4 e3 e2 e1");
  CHECK(n.references() == 24);
  CHECK(n.counters[Event::TableRefNested] == 20);
  const Narration npt = narrated("nested:format=npt", Before::Cold, WalkCaches::Off);
  CHECK(order(npt).substr(0, 14) == "n4 n3 n2 n1 g4");
  CHECK(order(narrated("native", Before::Cold, WalkCaches::Off)) == "g4 g3 g2 g1");
  CHECK(order(narrated("shadow", Before::Cold, WalkCaches::Off)) == "s4 s3 s2 s1");
}

TEST_CASE("narration: caches are told, and what they save is not read") {
  CHECK(order(narrated("nested", Before::Near, WalkCaches::OneD)) == "g1 e4 e3 e2 e1");
  CHECK(narrated("nested", Before::Again, WalkCaches::OneD).references() == 0);
  const Narration n = narrated("nested", Before::Near, WalkCaches::TwoDTlb);
  u64 cached = 0;
  for (const Told& t : n.told) cached += t.kind == Told::Kind::Cached;
  CHECK(cached == n.counters[Event::WalkCacheHit] + n.counters[Event::NestedCacheHit] +
                      n.counters[Event::NestedTlbHit]);
  CHECK(cached > 0);
}

TEST_CASE("narration: what the hypervisor does at a first touch") {
  using Kind = Told::Kind;
  const Narration n = narrated("shadow", Before::Nothing, WalkCaches::Off, AccessKind::Write);
  // The hypervisor makes a root as the guest is entered; the write then exits once.
  CHECK(kinds(n) == std::vector{Kind::Hypervisor, Kind::Walk, Kind::Exit, Kind::Hypervisor,
                                Kind::Resumed, Kind::Walk, Kind::Translated});
  const Narration nested = narrated("nested", Before::Nothing, WalkCaches::Off);
  // Four tables and the page are backed, one violation each.
  CHECK(nested.counters[Event::ExitEptViolation] == 5);
  CHECK(nested.narrated() == nested.counters);
  const auto says = [](const Narration& one, const char* words) {
    return narration_text(one, false).find(words) != std::string::npos &&
           narration_json(one).find(words) != std::string::npos;
  };
  CHECK(says(nested, "VM exit: EPT violation for guest-physical 0x100000, qualification 0x"));
  const Narration npt = narrated("nested:format=npt", Before::Nothing, WalkCaches::Off);
  CHECK(says(npt, "VM exit: nested page fault (#NPF) for guest-physical 0x100000, EXITINFO1 0x2"));
  CHECK(!says(npt, "EPT"));
  const Narration native = narrated("native", Before::Nothing, WalkCaches::Off, AccessKind::Write);
  const std::vector<Kind> of_native = kinds(native);
  CHECK(std::count(of_native.begin(), of_native.end(), Kind::Exit) == 0);
  CHECK(std::count(of_native.begin(), of_native.end(), Kind::Flags) == 4);
}

TEST_CASE("narration: the first store to a page that was only read") {
  const auto store = [](const char* pager) {
    return narrated(pager, Before::Read, WalkCaches::Off, AccessKind::Write);
  };
  // The hardware sets one flag; only a shadow pager must be asked first.
  CHECK(order(store("native")) == "g4 g3 g2 g1");
  CHECK(total_exits(store("native").counters) == 0);
  CHECK(total_exits(store("nested").counters) == 0);
  CHECK(total_exits(store("shadow").counters) == 1);
  CHECK(order(narrated("native", Before::Read, WalkCaches::Off)) == "g4 g3 g2 g1");
}

TEST_CASE("narration: JSON says the same, and colours only when asked") {
  const Narration n = narrated("nested", Before::Cold, WalkCaches::Off);
  const auto j = nlohmann::json::parse(narration_json(n));
  u64 entries = 0;
  for (const auto& t : j.at("told")) entries += t.at("kind") == "entry";
  CHECK(entries == 24);
  CHECK(j.at("references") == 24);
  CHECK(j.at("counters").at("table_refs_nested") == 20);
  CHECK(narration_text(n, false).find('\033') == std::string::npos);
  CHECK(narration_text(n, true).find('\033') != std::string::npos);
}

TEST_CASE("narration: an op that a scenario does not have is bad input") {
  Scenario s;
  s.file = "none.json";
  s.steps = {{"one", {ScenarioOp{}}, {}}};
  CHECK_THROWS_AS(narrate_scenario(s, 2, "native", {}), InputError);
  CHECK_THROWS_AS(narrate_scenario(s, 1, "natve", {}), InputError);
}
