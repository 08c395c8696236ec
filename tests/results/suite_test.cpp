#include "results/suite/suite.h"

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "core/error.h"
#include "results/suite/engine.h"
#include "results/suite/summary.h"

using namespace mmuscope;
namespace fs = std::filesystem;

namespace {

std::string message(const std::string& text) {
  try {
    (void)parse_suite(text, "a.suite");
  } catch (const InputError& e) {
    return e.what();
  }
  return "accepted";
}

/// Small enough that the whole file runs in a moment.
const std::string kSmall =
    "name = small\n"
    "workload = churn:bytes=64k,block=16k\n"
    "workload = fork:operations=2,resident=32k\n"
    "pager = native\n"
    "pager = shadow\n"
    "pager = nested\n"
    "vcpus = 1,2\n";

/// A folder of its own that is gone afterwards.
struct Folder {
  fs::path path;
  explicit Folder(const char* name)
      : path(fs::temp_directory_path() / fmt::format("mmuscope_{}_{}", name, getpid())) {
    fs::remove_all(path);
  }
  ~Folder() { fs::remove_all(path); }
};

SuiteOptions options(const fs::path& out, unsigned jobs, bool resume = false) {
  SuiteOptions o;
  o.out = out;
  o.jobs = jobs;
  o.resume = resume;
  return o;
}

/// The three files, one after the other.
std::string files(const fs::path& folder) {
  std::string text;
  for (const char* name : {"suite.csv", "processes.csv", "vcpus.csv"}) {
    text += read_file(folder / name, 1 << 24);
  }
  return text;
}

}  // namespace

TEST_CASE("suite: the product, the pager changing fastest") {
  const Suite suite = parse_suite(
      "# three axes\n"
      "\n"
      "workload = fork   # and its defaults\n"
      "workload=touch:bytes=1m\n"
      "  pager = native\n"
      "pager = nested:page=2m\n"
      "set = backing=4k\n"
      "set = walk-caches=off\n"
      "set = backing=2m\n"
      "vcpus = 1, 2\n"
      "seed = 5\r\n",
      "dir/a.suite");
  CHECK(suite.name == "a");
  CHECK(suite.cells.size() == 2 * 2 * 2 * 2);
  const Experiment& second = suite.cells[1];
  CHECK(second.workload->name == "fork");
  CHECK(second.pager->name == "nested");
  CHECK(second.pager_params.text("page") == "2m");
  CHECK(second.machine.text("walk-caches") == "off");
  CHECK(second.seed == 5);
  CHECK(suite.cells[2].vcpus == 2);
  CHECK(suite.cells[4].machine.text("backing") == "2m");
  CHECK(suite.cells[8].workload->name == "touch");
  std::set<std::string> identities;
  for (const Experiment& e : suite.cells) identities.insert(identity(e));
  CHECK(identities.size() == suite.cells.size());
}

TEST_CASE("suite: what is wrong is named with file and line") {
  const std::string good = "workload = fork\npager = native\n";
  CHECK(message(good) == "accepted");
  CHECK(
      message(good + "pagger = shadow\n") ==
      "a.suite:3: unknown suite key 'pagger'; did you mean 'pager'? valid: name, workload, pager, "
      "cpu, set, vcpus, seed");
  // No name is guessed from a prefix.
  CHECK(message(good + "work = touch\n").substr(0, 37) == "a.suite:3: unknown suite key 'work'; ");
  CHECK(message(good + "workload = frok\n").substr(0, 34) == "a.suite:3: unknown workload 'frok'");
  CHECK(message(good + "\npager = nested:pages=4k\n") ==
        "a.suite:4: pager nested: unknown key 'pages'; did you mean 'page'? valid: format, page, "
        "ad, levels, pml");
  CHECK(message(good + "cpu = pentium\n").substr(0, 11) == "a.suite:3: ");
  CHECK(message(good + "vcpus = 1,x\n") ==
        "a.suite:3: vcpus = 1,x is not a list of numbers: write N,N,...");
  CHECK(message(good + "vcpus = 1,,2\n").substr(0, 11) == "a.suite:3: ");
  CHECK(message(good + "seed = -1\n").substr(0, 11) == "a.suite:3: ");
  CHECK(message(good + "vcpus = 4,65\n") ==
        "a.suite:3: vcpus=65 is not valid; valid: an integer from 1 to 64");
  CHECK(message(good + "set = backing=8k\n") ==
        "a.suite:3: machine: backing=8k is not valid; valid: 4k|2m|1g|mixed");
  CHECK(message(good + "set = backing=4k,quantum=2\n").substr(0, 11) == "a.suite:3: ");
  CHECK(message(good + "set = backing\n").substr(0, 11) == "a.suite:3: ");
  CHECK(message(good + "fork\n") == "a.suite:3: 'fork' is not key = value");
  CHECK(message(good + "= fork\n").substr(0, 11) == "a.suite:3: ");
  CHECK(message(good + "[axes]\n") == "a.suite:3: a suite has no sections: write key = value");
  CHECK(message(good + "workload =\n") == "a.suite:3: workload has no value");
  CHECK(message(good + "name = " + std::string(70'000, 'x')) ==
        "a.suite:3: the line is longer than 64 KiB");
  CHECK(message(good + std::string("\0\0\0\n", 4)) == "a.suite:3: not a text file");
  CHECK(message("pager = native\n") == "a.suite:1: no workload = SPEC");
  CHECK(message("workload = fork\n") == "a.suite:1: no pager = SPEC");
  CHECK(message("").substr(0, 8) == "a.suite:");
  std::string many = good + "vcpus = 1";
  for (int i = 0; i < 999; ++i) many += ",1";
  std::string seeds = "\nseed = 0";
  for (int i = 1; i < 1000; ++i) seeds += fmt::format(",{}", i);
  CHECK(message(many + seeds) == "a.suite: the product has more than 100000 experiments");
  CHECK(message(good + "seed = 0,0" + seeds.substr(8)) == "a.suite:3: more than 1,000 numbers");
}

TEST_CASE("suite: the named ones are valid and have no experiment twice") {
  std::set<std::string> workloads, pagers;
  for (const NamedSuite& named : named_suites()) {
    const Suite suite = expand(named);
    std::set<std::string> identities;
    for (const Experiment& e : suite.cells) {
      identities.insert(identity(e));
      workloads.emplace(e.workload->name);
      pagers.emplace(e.pager->name);
    }
    CHECK(identities.size() == suite.cells.size());
  }
  CHECK(workloads.size() == workload_catalog().size());
  CHECK(pagers.size() == pager_catalog().size());
}

TEST_CASE("suite: the summary shows each experiment once, side by side or below each other") {
  const Folder folder("summary");
  const Suite few = parse_suite(kSmall, "small.suite");
  const std::string side_by_side = suite_summary(run_suite(few, options(folder.path, 2)).cells);
  CHECK(side_by_side.find("VM exits") != std::string::npos);
  CHECK(side_by_side.find("Synchronisation") != std::string::npos);
  // Native has no exits and is its own base: neither column is there.
  CHECK(side_by_side.substr(0, side_by_side.find("Memory")).find("native ") == std::string::npos);

  const Suite many = parse_suite(
      "workload = churn:bytes=64k,block=16k\npager = native\npager = shadow\npager = nested\n"
      "pager = nested:page=4k\npager = nested:page=2m,ad=off\n",
      "many.suite");
  const std::string below = suite_summary(run_suite(many, options(folder.path, 2)).cells);
  CHECK(below.find("\n  nested:page=2m,ad=off ") != std::string::npos);
  CHECK(below.find("\n  nested:page=4k ") != std::string::npos);
  CHECK(std::count(below.begin(), below.end(), '\n') == 1 + 1 + 5);
}

TEST_CASE("engine: the same bytes whatever the number of jobs, and again") {
  const Folder one("jobs1"), two("jobs2");
  const Suite suite = parse_suite(kSmall, "small.suite");
  const SuiteOutcome outcome = run_suite(suite, options(one.path, 1));
  CHECK(!outcome.interrupted);
  CHECK(outcome.cells.size() == 12);
  (void)run_suite(suite, options(two.path, 2));
  CHECK(files(one.path) == files(two.path));
  (void)run_suite(suite, options(two.path, 3));
  CHECK(files(one.path) == files(two.path));
  CHECK(!fs::exists(one.path / "journal"));
  for (std::size_t i = 0; i < outcome.cells.size(); ++i) {
    const CsvRow& row = outcome.cells[i].suite;
    CHECK(row[suite_column("cell")] == std::to_string(i + 1));
    CHECK(row[suite_column("status")] == "ok");
    const bool native = row[suite_column("pager")] == "native";
    CHECK((row[suite_column("slowdown_vs_native")] == "1.00000") == native);
    CHECK((row[suite_column("exits")] == "0") == native);
  }
}

TEST_CASE("engine: --resume takes over what is finished, from the files and from the journal") {
  const Folder whole("whole"), part("part");
  const Suite suite = parse_suite(kSmall, "small.suite");
  const SuiteOutcome outcome = run_suite(suite, options(whole.path, 1));

  // As after an interruption: some cells in the files, with numbers of another suite, others in the
  // journal, whose last cell was being written. A mark shows which rows were not made anew.
  fs::create_directories(part.path);
  const std::size_t seed = suite_column("accesses");
  std::vector<CellText> kept(outcome.cells.begin() + 2, outcome.cells.begin() + 5);
  for (CellText& cell : kept) cell.suite[seed] = "4444";
  for (CellText& cell : kept) {
    cell.suite[suite_column("cell")] = "9";
    for (CsvRow& row : cell.processes) row[0] = "9";
    for (CsvRow& row : cell.vcpus) row[0] = "9";
  }
  write_records(part.path, {kept[0]});
  {
    Journal journal(part.path, {&kept[1]});
    journal.add(kept[2]);
  }
  const std::string text = read_file(part.path / "journal", 1 << 20);
  write_file((part.path / "journal").string(), text.substr(0, text.size() - 10));

  const SuiteOutcome resumed = run_suite(suite, options(part.path, 2, true));
  REQUIRE(resumed.cells.size() == outcome.cells.size());
  for (std::size_t i = 0; i < resumed.cells.size(); ++i) {
    CAPTURE(i);
    const bool taken_over = i == 2 || i == 3;
    CellText cell = resumed.cells[i];
    CHECK((cell.suite[seed] == "4444") == taken_over);
    cell.suite[seed] = outcome.cells[i].suite[seed];
    CHECK(cell.suite == outcome.cells[i].suite);
    CHECK(cell.processes == outcome.cells[i].processes);
    CHECK(cell.vcpus == outcome.cells[i].vcpus);
  }
  CHECK(!fs::exists(part.path / "journal"));

  // Without --resume everything is made anew.
  (void)run_suite(suite, options(part.path, 2));
  CHECK(files(part.path) == files(whole.path));
}

TEST_CASE("engine: files of another program's columns are not taken over") {
  const Folder folder("columns");
  const Suite suite = parse_suite(kSmall, "small.suite");
  (void)run_suite(suite, options(folder.path, 2));
  const std::string whole = files(folder.path);
  std::string text = read_file(folder.path / "suite.csv", 1 << 24);
  text.replace(text.find("exits_cr3"), 9, "exits_cr9");
  write_file((folder.path / "suite.csv").string(), text);
  CHECK(read_records(folder.path).empty());
  (void)run_suite(suite, options(folder.path, 2, true));
  CHECK(files(folder.path) == whole);
}

TEST_CASE("engine: when stopped, what is finished is written and the rest left") {
  const Folder folder("stopped");
  const Suite suite = parse_suite(kSmall, "small.suite");
  const std::atomic<bool> stop{true};
  SuiteOptions o = options(folder.path, 1);
  o.stop = &stop;
  const SuiteOutcome outcome = run_suite(suite, o);
  CHECK(outcome.interrupted);
  CHECK(outcome.cells.size() < suite.cells.size());
  CHECK(fs::exists(folder.path / "suite.csv"));
  const SuiteOutcome resumed = run_suite(suite, options(folder.path, 1, true));
  CHECK(!resumed.interrupted);
  CHECK(resumed.cells.size() == suite.cells.size());
}

TEST_CASE("engine: a run that cannot go on has its reason in status, and the others go on") {
  const Folder folder("failing");
  const Suite suite = parse_suite(
      "workload = churn:bytes=64m,block=64m,memory=16m\n"
      "workload = churn:bytes=64k,block=16k\n"
      "pager = native\n"
      "pager = nested\n",
      "failing.suite");
  const SuiteOutcome outcome = run_suite(suite, options(folder.path, 2));
  REQUIRE(outcome.cells.size() == 4);
  for (std::size_t i = 0; i < 4; ++i) {
    const CsvRow& row = outcome.cells[i].suite;
    const bool ok = i >= 2;
    CHECK((row[suite_column("status")] == "ok") == ok);
    CHECK(row[suite_column("accesses")].empty() == !ok);
    CHECK(row[suite_column("slowdown_vs_native")].empty() == !ok);
    CHECK(outcome.cells[i].processes.empty() == !ok);
  }
}

TEST_CASE("experiment: rows of processes sum up to the whole") {
  ExperimentText text;
  text.workload = "fork:operations=3,resident=64k,processes=3";
  for (const char* pager : {"native", "shadow", "nested"}) {
    text.pager = pager;
    const Experiment e = parse_experiment(text);
    const Result r = run_experiment(e);
    REQUIRE(r.ok());
    CAPTURE(pager);
    u64 exits = 0, faults = 0;
    for (const ProcessRow& p : r.processes) {
      exits += p.exits.value_or(0);
      faults += p.guest_page_faults.value_or(0);
      const bool by_process = e.pager->tables == TableOwner::Process;
      if (p.pid) CHECK(p.pager_bytes.has_value() == by_process);
    }
    CHECK(exits == total_exits(r.counters));
    CHECK(faults == r.counters[Event::GuestPageFault]);
    const ProcessRow& vm = r.processes.back();
    CHECK(vm.name == "vm");
    CHECK(vm.pager_bytes.has_value() == (e.pager->tables == TableOwner::Vm));
    // Three parents, each with three children one after the other.
    CHECK(r.processes.size() == 3 + 9 + 2 + (e.pager->tables == TableOwner::Process ? 1 : 0));
  }
}
