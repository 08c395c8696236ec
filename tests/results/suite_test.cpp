#include "results/suite/suite.h"

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <set>

#include "core/error.h"
#include "results/suite/engine.h"
#include "results/suite/manifest.h"
#include "results/suite/merge.h"
#include "results/suite/statistics.h"
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
      "cpu, set, vcpus, vms, seed");
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

  // The machine's slice is not the workload's, and without native no time is over native's.
  const Suite two = parse_suite(
      "workload = touch:bytes=64k,accesses=100\npager = shadow\npager = nested\n"
      "set = backing=4k\nset = backing=2m\n",
      "two.suite");
  const std::string plain = suite_summary(run_suite(two, options(folder.path, 2)).cells);
  CHECK(plain.find("VM exits\n\n") == 0);
  CHECK(plain.find("\ntouch backing=4k ") != std::string::npos);
  CHECK(plain.find("slice=") == std::string::npos);

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
  fs::copy(whole.path / "manifest.json", part.path / "manifest.json");
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

TEST_CASE("engine: --resume refuses what another program made") {
  const Folder folder("other");
  const Suite suite = parse_suite(kSmall, "small.suite");
  (void)run_suite(suite, options(folder.path, 2));
  const std::string manifest = read_file(folder.path / "manifest.json", 1 << 24);
  const std::string csv = files(folder.path);
  const std::size_t digest = manifest.find("\"digest\": \"") + 11;
  std::string other = manifest;
  other[digest] = other[digest] == '0' ? '1' : '0';
  for (const std::string& text : {other, std::string("{}")}) {
    write_file((folder.path / "manifest.json").string(), text);
    CHECK_THROWS_AS(run_suite(suite, options(folder.path, 2, true)), InputError);
    CHECK(files(folder.path) == csv);
  }
  // Anew it may be run, and then be resumed.
  write_file((folder.path / "manifest.json").string(), other);
  (void)run_suite(suite, options(folder.path, 2));
  (void)run_suite(suite, options(folder.path, 2, true));
  CHECK(files(folder.path) == csv);
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

TEST_CASE("shards: every cell in exactly one, and none has all of one pager") {
  CHECK(parse_shard("3/4").text() == "3/4");
  CHECK(parse_shard("1/1").whole());
  for (const char* bad :
       {"", "1", "0/4", "5/4", "1/0", "1/4 ", "a/4", "1/10001", "-1/4", "1/4/2"}) {
    CAPTURE(bad);
    CHECK_THROWS_AS((void)parse_shard(bad), InputError);
  }
  for (const u64 of : {1, 2, 3, 4, 7, 200}) {
    for (u64 cell = 1; cell <= 100; ++cell) {
      u64 in = 0;
      for (u64 index = 1; index <= of; ++index) in += Shard{index, of}.has(cell);
      CHECK(in == 1);
    }
  }
  // Four pagers, the fastest axis: each of four shards has each of them in turn.
  std::set<u64> pagers;
  for (u64 cell = 1; cell <= 16; ++cell) {
    if (Shard{2, 4}.has(cell)) pagers.insert(cell % 4);
  }
  CHECK(pagers.size() == 4);
}

TEST_CASE("shards: four of them merged are the undivided suite, byte for byte") {
  const Folder whole("undivided"), parts("parts"), merged("merged");
  const Suite suite = parse_suite(kSmall + "seed = 1,2\n", "small.suite");
  (void)run_suite(suite, options(whole.path, 2));
  std::vector<fs::path> folders;
  for (u64 index = 1; index <= 4; ++index) {
    SuiteOptions o = options(parts.path / std::to_string(index), 1);
    o.shard = {index, 4};
    o.command = fmt::format("shard {}", index);
    const SuiteOutcome outcome = run_suite(suite, o);
    CHECK(outcome.cells.size() == 6);
    folders.push_back(o.out);
  }
  std::swap(folders[0], folders[2]);
  CHECK(merge_shards(folders, merged.path, "merge").size() == 24);
  CHECK(files(merged.path) == files(whole.path));
  CHECK(read_file(merged.path / "summary.csv", 1 << 24) ==
        read_file(whole.path / "summary.csv", 1 << 24));
  const Manifest m = read_manifest(merged.path);
  CHECK(m.finished);
  CHECK(m.cells == 24);
  CHECK(m.seeds == std::vector<u64>{1, 2});
  CHECK(m.text == kSmall + "seed = 1,2\n");
  CHECK(m.read_from.find("shard 4") != std::string::npos);
  // What was merged may be merged again, and a folder given twice changes nothing.
  folders.push_back(merged.path);
  CHECK(merge_shards(folders, parts.path / "again", "merge").size() == 24);
  CHECK(files(parts.path / "again") == files(whole.path));
}

TEST_CASE("shards: what cannot be merged is named") {
  const Folder folder("refused");
  const Suite suite = parse_suite(kSmall, "small.suite");
  const fs::path one = folder.path / "1", two = folder.path / "2", out = folder.path / "out";
  SuiteOptions o = options(one, 1);
  o.shard = {1, 2};
  (void)run_suite(suite, o);
  o = options(two, 1);
  o.shard = {2, 2};
  (void)run_suite(suite, o);
  const auto says = [&](const std::vector<fs::path>& folders) -> std::string {
    try {
      (void)merge_shards(folders, out, "merge");
    } catch (const InputError& e) {
      return e.what();
    }
    return "merged";
  };
  CHECK(says({two}) == "6 of 12 cells are in none of the folders: those of shard 1/2");
  CHECK(says({folder.path}).find("holds no results of a suite") != std::string::npos);

  const fs::path other = folder.path / "other";
  (void)run_suite(parse_suite(kSmall + "seed = 2\n", "small.suite"), options(other, 1));
  CHECK(says({one, other}).find("other: is of another suite") != std::string::npos);

  const std::string text = read_file(two / "suite.csv", 1 << 24);
  std::string changed = text;
  changed.replace(changed.find("\nsmall,") + 1, 5, "smell");
  write_file((two / "suite.csv").string(), changed);
  CHECK(says({one, two, folder.path / "1"}) == "merged");
  const fs::path copy = folder.path / "copy";
  fs::copy(two, copy);
  write_file((copy / "suite.csv").string(), text);
  CHECK(says({one, two, copy}).find("differs from the same cell of another folder") !=
        std::string::npos);

  std::string manifest = read_file(copy / "manifest.json", 1 << 20);
  const std::size_t finished = manifest.find("\"finished\": true");
  REQUIRE(finished != std::string::npos);
  manifest.replace(finished, 16, "\"finished\": false");
  write_file((copy / "manifest.json").string(), manifest);
  CHECK(says({one, copy}).find("copy: is not finished") != std::string::npos);
  write_file((copy / "manifest.json").string(), "{\"version\": 1}");
  CHECK(says({one, copy}).find("is no manifest") != std::string::npos);
}

TEST_CASE("statistics: mean, range and 95 % interval over seeds, by hand") {
  // churn's counts do not depend on the seed: rows are made here with values that do.
  const Folder folder("statistics");
  const Suite suite = parse_suite(
      "name = s\nworkload = churn:bytes=64k,block=16k\npager = native\nseed = 1,2,3,4\n",
      "s.suite");
  std::vector<CellText> cells = run_suite(suite, options(folder.path, 1)).cells;
  const std::size_t exits = suite_column("exits");
  const char* values[] = {"2", "4", "4", "6"};
  for (std::size_t i = 0; i < 4; ++i) cells[i].suite[exits] = values[i];
  const auto row_of = [](const std::string& text, const std::string& column) {
    const std::vector<CsvRow> rows = parse_csv(text, "summary.csv");
    CHECK(rows[0].size() == summary_columns().size());
    for (const CsvRow& row : rows) {
      if (row[row.size() - 8] == column) return CsvRow(row.end() - 8, row.end());
    }
    return CsvRow{};
  };
  // Standard deviation sqrt(8/3), Student's t of 3 degrees of freedom 3.18245 (any table): the
  // half-width is 3.18245 * 1.63299 / 2 = 2.59846.
  CHECK(row_of(summary_csv(cells), "exits") ==
        CsvRow{"exits", "exits", "4", "4.00000", "2", "6", "1.40154", "6.59846"});
  // One that could not go on counts nowhere; a column without a value has no row.
  cells[0].suite[suite_column("status")] = "memory";
  CHECK(row_of(summary_csv(cells), "exits")[2] == "3");
  CHECK(row_of(summary_csv(cells), "pager_bytes_per_process_mean").empty());
  CHECK(summary_csv({cells[0]}).empty());
  cells.resize(1);
  write_records(folder.path, cells);
  CHECK(!fs::exists(folder.path / "summary.csv"));
}

TEST_CASE("slow: engine: a thousand small cells cost less than 5 ms each beyond their emulation") {
  const Folder folder("thousand");
  std::string text =
      "workload = churn:bytes=64k,block=16k\npager = native\npager = shadow\n"
      "pager = shadow-unsync\npager = nested\nseed = 0";
  for (int i = 1; i < 250; ++i) text += fmt::format(",{}", i);
  // CPU time, not the clock's: other programs may want the processors too.
  const std::clock_t start = std::clock();
  const Suite suite = parse_suite(text, "thousand.suite");
  REQUIRE(suite.cells.size() == 1000);
  CHECK(run_suite(suite, options(folder.path, 2)).cells.size() == 1000);
  const double milliseconds = 1e3 * static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  MESSAGE((milliseconds / 1000) << " ms of CPU time for each cell, its 200 accesses included");
  CHECK(milliseconds < 5 * 1000);
}
