#include "results/scenario.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "tests/support/paths.h"
#include "tests/support/setups.h"

namespace mmuscope {
namespace {

std::vector<std::filesystem::path> files_of(const std::string& folder) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(source_dir() + "/tests/" + folder)) {
    if (entry.path().extension() == ".json") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

ScenarioResult run_under(const Scenario& scenario, const std::string& pager) {
  MachineConfig config;
  const Machine::MakePager make = pager_maker(pager, config.virtualized);
  return run_scenario(scenario, config, make, pager);
}

/// The failures of a check, as one text.
std::string failures(const ScenarioCheck& check) {
  std::string text;
  for (const std::string& line : check.failures) text += line + "\n";
  return text;
}

TEST_CASE("the scenarios counted by hand hold under their own pager") {
  const auto files = files_of("scenarios");
  CHECK(files.size() >= 9);
  for (const auto& file : files) {
    const Scenario scenario = load_scenario(file);
    const ScenarioCheck check = check_scenario(scenario, run_under(scenario, scenario.pager));
    INFO(file.filename().string());
    CHECK(failures(check) == "");
    CHECK(check.figures_compared);
    CHECK(check.passed > 0);
  }
}

TEST_CASE("what the guest sees in a scenario holds under every pager") {
  for (const auto& file : files_of("scenarios")) {
    const Scenario scenario = load_scenario(file);
    for (const Setup& setup : all_setups()) {
      const ScenarioCheck check = check_scenario(scenario, run_under(scenario, setup.pager));
      const std::string where = file.filename().string() + " under " + setup.pager;
      INFO(where);
      CHECK(failures(check) == "");
    }
  }
}

constexpr std::string_view kSmall = R"({
 "vcpus": 1, "cr3": 4096, "memory_bytes": 65536, "pager": "native",
 "memory": [[4096, 8199, 1, 0], [8192, 12295, 1, 0], [12288, 16391, 1, 0], [16384, 20487, 2, 4096],
            [20480, 11, 2, 1]],
 "steps": [{"label": "one", "ops": [["r", 0, 0, {"value": 11}], ["w", 0, 8, 5]],
            "expect": {"walks": 2, "table_refs": 5}},
           {"ops": [["r", 0, 8192, {"fault": "pf", "error_code": 4}], ["peek", 20480]]}],
 "final_memory": [[20488, 5], [16384, 20583]]})";

std::string edited(std::string_view from, std::string_view to) {
  std::string text(kSmall);
  const std::size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

TEST_CASE("a scenario's check says which expectation fails") {
  const auto check_of = [](const std::string& text) {
    const Scenario s = parse_scenario(text, "s.json");
    return failures(check_scenario(s, run_under(s, "native")));
  };
  CHECK(check_of(std::string(kSmall)) == "");
  CHECK(check_of(edited("\"walks\": 2", "\"walks\": 3")) ==
        "step 1 (one): walks is 2, expected 3\n");
  CHECK(check_of(edited("\"value\": 11", "\"value\": 12")) ==
        "step 1 (one), op 1: the access read 11, not 12\n");
  CHECK(check_of(edited("\"error_code\": 4", "\"error_code\": 6")) ==
        "step 2 (), op 1: the access gave #PF with error code 0x4, #PF announced with error code "
        "0x6\n");
  CHECK(check_of(edited(", {\"fault\": \"pf\", \"error_code\": 4}", "")) ==
        "step 2 (), op 1: the access gave #PF with error code 0x4, nothing announced\n");
  CHECK(check_of(edited("[20488, 5]", "[20488, 6]")) ==
        "final_memory: the word at 20488 is 5, expected 6\n");
  CHECK(check_of(edited("{\"value\": 11}", "{\"fault\": \"gp\"}")) ==
        "step 1 (one), op 1: the access was done, #GP announced\n");
}

TEST_CASE("figures are compared under the scenario's own pager only") {
  Scenario s = parse_scenario(edited("\"walks\": 2", "\"walks\": 99"), "s.json");
  const ScenarioCheck other = check_scenario(s, run_under(s, "nested"));
  CHECK_FALSE(other.figures_compared);
  CHECK(failures(other) == "");
  CHECK(check_text(s, run_under(s, "nested"), other) ==
        "s.json: 2 steps under nested: 5 passed, 0 failed (counters not compared: they are "
        "native's)\n");
  s.pager = "nested";
  CHECK(check_scenario(s, run_under(s, "nested:format=npt")).figures_compared);
  s.pager = "nested:format=ept";
  CHECK_FALSE(check_scenario(s, run_under(s, "nested:format=npt")).figures_compared);
}

TEST_CASE("a scenario's CSV holds what is expected or not zero") {
  const Scenario s = parse_scenario(std::string(kSmall), "dir/s.json");
  const std::vector<CsvRow> rows = scenario_csv_rows(s, run_under(s, "native"));
  const auto has = [&](const CsvRow& row) {
    return std::count(rows.begin(), rows.end(), row) == 1;
  };
  CHECK(scenario_csv_header() ==
        CsvRow{"scenario", "step", "label", "counter", "expected", "actual"});
  CHECK(has({"s", "1", "one", "table_refs", "5", "5"}));
  CHECK(has({"s", "1", "one", "stores", "", "1"}));
  CHECK(has({"s", "2", "", "guest_page_faults", "", "1"}));
}

/// The message for a text that is no scenario.
std::string error_of(const std::string& text) {
  try {
    run_under(parse_scenario(text, "s.json"), "native");
  } catch (const InputError& e) {
    return e.what();
  }
  return "no error";
}

TEST_CASE("a bad scenario is refused with file, place and what would be valid") {
  const auto says = [](const std::string& text, const std::string& part) {
    INFO(error_of(text));
    CHECK(error_of(text).substr(0, 8) == "s.json: ");
    CHECK(error_of(text).find(part) != std::string::npos);
    CHECK(error_of(text).find('\n') == std::string::npos);
  };
  says("", "not JSON: at line 1");
  says("{\"vcpus\": 1,\n]", "not JSON: at line 2");
  says("{\"vcpus\": 2E999}", "not JSON: number overflow parsing '2E999'");
  says("[]", "expected an object");
  says("{}", "\"cr3\" is missing");
  says(edited("\"vcpus\": 1", "\"vcpus\": 0"), "at least one vCPU");
  says(edited("\"vcpus\": 1", "\"vcpus\": 65"), "65 is out of range 0..64");
  says(edited("\"vcpus\": 1", "\"vcpu\": 1"), "did you mean \"vcpus\"?");
  says(edited("\"cr3\": 4096", "\"cr3\": 65536"), "65536 is beyond the memory of 65536 bytes");
  says(edited("\"cr3\": 4096", "\"cr3\": -1"), "expected an unsigned 64-bit integer, not -1");
  says(edited("\"cr3\": 4096", "\"cr3\": \"0x10g0\""), "integer, not \"0x10g0\"");
  says(edited("\"cr3\": 4096", "\"cr3\": \"4096\""), "integer, not \"4096\"");
  CHECK(parse_scenario(edited("\"cr3\": 4096", "\"cr3\": \"0x1000\""), "text").cr3 == 4096);
  says(edited("\"cr3\": 4096", "\"cr3\": 18446744073709551616"), "not 1.8446744073709552e+19");
  says(edited("\"native\"", "7"), "\"pager\": expected a string");
  says(edited("65536", "65537"), "expected a multiple of 4096");
  says(edited("65536", "2199023255552"), "out of range");
  says(edited("[4096, 8199, 1, 0]", "[4096, 8199, 1]"), "entry 1: expected [gpa, value, count");
  says(edited("[4096, 8199, 1, 0]", "[4096, 8199, 18446744073709551615, 0]"),
       "words at 4096 go beyond the memory");
  says(edited("[4096, 8199, 1, 0]", "[4097, 8199, 1, 0]"), "4097 is not a multiple of 8");
  says(edited("[\"w\", 0, 8, 5]", "[\"w\", 0, 8]"),
       "step 1 (one): op 2: expected [\"w\", vcpu, gva, value]");
  says(edited("[\"w\", 0, 8, 5]", "[\"q\", 0, 8]"), "unknown op \"q\"; valid: r, w, x, R, W, X");
  says(edited("[\"w\", 0, 8, 5]", "[\"w\", 1, 8, 5]"), "vcpu: 1 is out of range 0..0");
  says(edited("[\"w\", 0, 8, 5]", "[\"w\", 0, 4090, 5]"),
       "an 8-byte access at 4090 crosses a page");
  says(edited("[\"w\", 0, 8, 5]", "[\"peek\", 65536]"), "gpa: 65536 is out of range");
  says(edited("[\"w\", 0, 8, 5]", "[\"invpcid\", 0, 4, 0, 0]"), "type: 4 is out of range 0..3");
  says(edited("[\"w\", 0, 8, 5]", "[\"cr3\", 0, 65536]"),
       "step 1 (one), op 2: the root 65536 is beyond the memory");
  says(edited("[\"w\", 0, 8, 5]", "[\"cr3\", 0, 9223372036854779904]"), "only with cr4_pcide");
  says(edited("[\"w\", 0, 8, 5]", "[\"cr0\", 0, 1]"), "cr0 must keep PE (bit 0) and PG (bit 31)");
  says(edited("[\"w\", 0, 8, 5]", "[\"cr4\", 0, 0]"), "cr4 must keep PAE");
  says(edited("{\"value\": 11}", "{\"error_code\": 4}"), "\"error_code\" needs a \"fault\"");
  says(edited("{\"value\": 11}", "{\"fault\": \"ud\"}"),
       "\"fault\" is \"pf\" or \"gp\", not \"ud\"");
  says(edited("\"walks\": 2", "\"walk\": 2"), "did you mean \"walks\"?");
  says(edited("[20488, 5]", "[65536, 5]"), "\"final_memory\": entry 1: 65536 is out of range");
  // A leaf that leads beyond memory is found out when it is used.
  says(edited("[16384, 20487, 2, 4096]", "[16384, 1048583, 2, 4096]"),
       "step 1 (one), op 1: the guest");
  std::string deep(100000, '[');
  says(edited("\"cr3\": 4096", "\"cr3\": " + deep), "not JSON");
  says(edited("\"cr3\": 4096", "\"cr3\": " + deep + std::string(deep.size(), ']')), "not a list");
}

}  // namespace
}  // namespace mmuscope
