#include <doctest/doctest.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "results/cost_model.h"
#include "results/csv.h"
#include "tests/support/shell.h"

// These run the real program, build/mmuscope, as users do.

using namespace mmuscope;
namespace fs = std::filesystem;

namespace {

Ran run(const std::string& arguments) { return shell("\"$mmuscope\" " + arguments); }

fs::path scratch() {
  const fs::path path = fs::temp_directory_path() / fmt::format("mmuscope_scratch_{}", getpid());
  fs::create_directories(path);
  return path;
}

std::string file(const char* name, const std::string& text) {
  const std::string path = (scratch() / name).string();
  write_file(path, text);
  return path;
}

}  // namespace

TEST_CASE("command: bad input is one line, exit 2, and nothing written") {
  const std::string suite = file("bad.suite", "workload = fork\npager = native\nvcpus = 0\n");
  const std::string junk = file("junk", "this is none of the formats\n");
  const std::string out = (scratch() / "out").string();
  struct Row {
    std::string arguments, says;
  };
  const Row rows[] = {
      {"frobnicate", "unknown command 'frobnicate'; valid: list, run"},
      {"comparee", "did you mean 'compare'?"},
      {"run", "one --pager is needed"},
      {"run --workload fork", "--pager"},
      {"run --workload fork --pager native --pager shadow", "compare"},
      {"run --workload frok --pager native",
       "unknown workload 'frok'; did you mean 'fork'? valid: touch"},
      {"run --workload fork --pager shadoww",
       "unknown pager 'shadoww'; did you mean 'shadow'? valid: native"},
      {"run --workload fork:operation=2 --pager native",
       "unknown key 'operation'; did you mean 'operations'? valid: "},
      {"run --workload fork:operations=0 --pager native",
       "operations=0 is not valid; valid: an integer from 1"},
      {"run --workload fork:operations --pager native", "is not key=value"},
      {"run --workload fork --pager native:x=1", "unknown key 'x'; valid: none"},
      {"run --workload fork --pager nested:page=8k", "page=8k is not valid; valid: 4k|2m|1g"},
      {"run --workload fork --pager native --cpu pentium", "valid"},
      {"run --workload fork --pager native --set backing=3k", "valid: 4k|2m|1g|mixed"},
      {"run --workload fork --pager native --set bakcing=4k", "did you mean 'backing'?"},
      {"run --workload fork --pager native --vcpus 65", "from 1 to 64"},
      {"run --workload fork --pager native --vcpus=-1", "from 1 to 64"},
      {"run --workload fork --pager native --seed 1x", "an integer"},
      {"run --workload fork --pager native --seed 1 --seed 2", "--seed"},
      {"run --workload fork --pager native --seed", "--seed"},
      {"run --work fork --pager native", "unknown option"},
      {"run --workload fork --pager native --workloads 2", "did you mean '--workload'?"},
      {"run --workload fork --pager native extra", "'extra' stands without an option's name; us"},
      {"run --workload fork --pager native backing=2m", "option's name (--set backing=2m?); usage"},
      {"run --workload fork --pager native --csv /nonexistent/a.csv",
       "/nonexistent/a.csv: cannot be written"},
      {"run --workload trace:file=/nonexistent --pager native", "/nonexistent"},
      {"run --workload trace:file=" + junk + " --pager native", "junk"},
      {"run --workload trace --pager native", "file"},
      {"compare --workload fork --pager native", "two or more --pager"},
      {"list", "one catalogue"},
      {"list pager", "did you mean 'pagers'?"},
      {"suite", "FILE or NAME"},
      {"suite default", "--out is missing"},
      {"suite defualt --out " + out, "unknown suite 'defualt'; did you mean 'default'?"},
      {"suite " + suite + " --out " + out, "bad.suite:3: vcpus=0 is not valid"},
      {"suite " + junk + " --out " + out, "junk:1: "},
      {"suite default --out " + out + " --jobs 0", "from 1 to 1024"},
      {"suite default --out /dev/null/x", "/dev/null/x"},
      {"suite default --out " + out + " --shard 5/4", "valid: I/N with 1 <= I <= N"},
      {"merge --out " + out, "no DIR"},
      {"merge /nonexistent", "--out is missing"},
      {"merge /nonexistent --out " + out, "/nonexistent: holds no results of a suite"},
      {"cases", "no FILE"},
      {"cases /nonexistent", "/nonexistent"},
      {"cases " + junk, "junk"},
      {"trace", "trace import"},
      {"trace imprt", "did you mean 'import'?"},
      {"trace info", "one FILE"},
      {"trace info " + junk, "junk"},
      {"trace dump /nonexistent", "/nonexistent"},
      {"trace import lackey", "no LOG"},
      {"trace import pref " + junk, "did you mean 'perf'?"},
      {"trace import perf " + junk + " -o " + out, "line 1"},
      {"trace import strace " + junk + " -o " + out, "line 1"},
      {"trace import text " + junk + " -o " + out, "line 1"},
      {"trace import qemu " + junk + " -o " + out, "no logs"},
      {"trace merge " + junk, "two or more"},
      {"trace import lackey " + junk, "--output is missing"},
      {"trace import lackey " + junk + " -o " + out, "junk"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.arguments);
    const Ran ran = run(row.arguments);
    CAPTURE(ran.err);
    CHECK(ran.status == 2);
    CHECK(ran.out.empty());
    CHECK(ran.err.find(row.says) != std::string::npos);
    CHECK(ran.err.substr(0, 10) == "mmuscope: ");
    CHECK(std::count(ran.err.begin(), ran.err.end(), '\n') == 1);
    CHECK(!fs::exists(out));
  }
  fs::remove_all(scratch());
}

TEST_CASE("command: every command has help with a usage line and two examples") {
  const Ran all = run("--help");
  CHECK(all.status == 0);
  for (const char* command : {"list", "run", "compare", "suite", "merge", "cases", "trace"}) {
    CAPTURE(command);
    CHECK(all.out.find(fmt::format("\n  {} ", command)) != std::string::npos);
    const Ran help = run(fmt::format("{} --help", command));
    CHECK(help.status == 0);
    CHECK(help.err.empty());
    CHECK(help.out.substr(0, 16) == "usage: mmuscope ");
    const std::size_t examples = help.out.find("\nexamples:\n");
    REQUIRE(examples != std::string::npos);
    CHECK(std::count(help.out.begin() + static_cast<std::ptrdiff_t>(examples) + 11, help.out.end(),
                     '\n') == 2);
  }
  CHECK(run("--version").out.substr(0, 9) == "mmuscope ");
  CHECK(run("").status == 2);
}

TEST_CASE("command: list cpus has every price, its source and how sure it is") {
  const std::vector<CsvRow> rows = parse_csv(run("list cpus --csv").out, "cpus");
  const auto has = [&](std::string_view cpu, std::string_view name, u64 cycles) {
    return std::any_of(rows.begin(), rows.end(), [&](const CsvRow& row) {
      return row[0] == cpu && row[2] == fmt::format("price {}", name) && row[6] != "" &&
             row[7] == std::to_string(cycles) && row[9] != "";
    });
  };
  for (const Cost& c : costs()) CHECK(has("every", c.name, c.cycles));
  for (const OtherCost& c : other_costs()) CHECK(has("every", c.name, c.cycles));
  for (const ExitCost& c : exit_costs()) CHECK(has(c.cpu, "exit", c.cycles));
  for (const RefCost& c : ref_costs()) CHECK(has(c.cpu, "table_ref_memory", c.memory));
}

TEST_CASE("command: lists, for people and as CSV") {
  for (const char* what : {"pagers", "workloads", "cpus", "columns", "suites", "costs"}) {
    CAPTURE(what);
    const Ran text = run(fmt::format("list {}", what));
    CHECK(text.status == 0);
    CHECK(!text.out.empty());
    const std::vector<CsvRow> rows = parse_csv(run(fmt::format("list {} --csv", what)).out, what);
    REQUIRE(rows.size() > 1);
    for (const CsvRow& row : rows) CHECK(row.size() == rows[0].size());
  }
}

TEST_CASE("command: run writes its CSV files, to standard output alone or as files") {
  const std::string experiment =
      "run --workload fork:operations=2,resident=32k --pager shadow --vcpus 2 ";
  const Ran csv = run(experiment + "--csv -");
  CHECK(csv.status == 0);
  const std::vector<CsvRow> rows = parse_csv(csv.out, "csv");
  REQUIRE(rows.size() == 2);
  CHECK(rows[0].size() == rows[1].size());
  CHECK(rows[1][4] == "shadow");

  const fs::path folder = scratch();
  const Ran files =
      run(fmt::format("{} --csv {}/s.csv --processes-csv {}/p.csv --vcpus-csv {}/v.csv", experiment,
                      folder.string(), folder.string(), folder.string()));
  CHECK(files.status == 0);
  CHECK(files.out.find("exits_page_fault") != std::string::npos);
  CHECK(read_file(folder / "s.csv", 1 << 20) == csv.out);
  CHECK(parse_csv(read_file(folder / "v.csv", 1 << 20), "v").size() == 3);
  CHECK(parse_csv(read_file(folder / "p.csv", 1 << 20), "p").size() > 3);
  CHECK(run(experiment + "--csv - --vcpus-csv -").status == 2);
  fs::remove_all(folder);
}

TEST_CASE("command: a run that cannot go on says why and exits 1") {
  const Ran ran = run("run --workload churn:bytes=64m,block=64m,memory=16m --pager native");
  CHECK(ran.status == 1);
  CHECK(ran.err.find("memory") != std::string::npos);
}

TEST_CASE("command: Ctrl-C keeps finished rows, and --resume goes on from them") {
  const std::string out = (scratch() / "out").string();
  const std::string suite = file(
      "long.suite",
      "workload = fork:operations=2,resident=32k\nworkload = touch:bytes=1m,accesses=3000000000\n"
      "pager = native\n");
  const Ran stopped = shell(fmt::format(
      "{{ \"$mmuscope\" suite {} --out {} --jobs 1 & while ! grep -qs ok,[0-9] {}/journal; do "
      "sleep 0.05; done; kill -INT $!; wait $!; }}",
      suite, out, out));
  CHECK(stopped.status == 3);
  CHECK(parse_csv(read_file(out + "/suite.csv", 1 << 20), "suite.csv").size() == 2);
  CHECK(!fs::exists(out + "/journal"));
  const std::string shorter = file("long.suite",
                                   "workload = fork:operations=2,resident=32k\npager = native\n"
                                   "pager = nested\n");
  const Ran resumed = run(fmt::format("suite {} --out {} --resume", shorter, out));
  CHECK(resumed.status == 0);
  CHECK(resumed.err.find("1 of 2 experiments taken over") != std::string::npos);
  CHECK(parse_csv(read_file(out + "/suite.csv", 1 << 20), "suite.csv").size() == 3);
  fs::remove_all(scratch());
}

TEST_CASE("command: kill -9 in the midst of a suite, then --resume: the same bytes") {
  const fs::path folder = scratch();
  // Some hundred milliseconds of work in sixty cells.
  const std::string suite = file("killed.suite",
                                 "workload = churn:bytes=4m,block=1m\n"
                                 "workload = fork:operations=20\n"
                                 "workload = touch:bytes=4m,accesses=200000\n"
                                 "pager = native\npager = shadow\npager = shadow-unsync\n"
                                 "pager = nested\nseed = 1,2,3,4,5\n");
  CHECK(run(fmt::format("suite {} --out {}/whole --jobs 2", suite, folder.string())).status == 0);
  const Ran killed = shell(
      fmt::format("{{ \"$mmuscope\" suite {} --out {}/part --jobs 2 & while ! grep -qs ok,[0-9] "
                  "{}/part/journal; do sleep 0.01; done; kill -9 $!; wait $!; }}",
                  suite, folder.string(), folder.string()));
  CHECK(killed.status == 128 + 9);
  CHECK(fs::exists(folder / "part/journal"));
  CHECK(!fs::exists(folder / "part/suite.csv"));
  // A kill at another moment leaves part of a line, here with a quote that does not end.
  const std::string journal = read_file(folder / "part/journal", 1 << 24);
  write_file((folder / "part/journal").string(), journal + "suite,killed,9,churn,\"bytes=4m,blo");
  const Ran resumed =
      run(fmt::format("suite {} --out {}/part --jobs 2 --resume", suite, folder.string()));
  CHECK(resumed.status == 0);
  CHECK(resumed.err.find(" of 60 experiments taken over\n") != std::string::npos);
  for (const char* name : {"suite.csv", "processes.csv", "vcpus.csv", "summary.csv"}) {
    CAPTURE(name);
    CHECK(read_file(folder / "part" / name, 1 << 26) ==
          read_file(folder / "whole" / name, 1 << 26));
  }
  fs::remove_all(folder);
}

TEST_CASE("command: progress is lines in a log, and one line that changes on a terminal") {
  const std::string suite =
      file("p.suite",
           "workload = churn:bytes=64k,block=16k\npager = native\npager = nested:format=npt\n"
           "set = backing=2m\n");
  const std::string out = (scratch() / "out").string();
  const Ran log = run(fmt::format("suite {} --out {} --jobs 1", suite, out));
  CHECK(std::count(log.err.begin(), log.err.end(), '\n') == 2);
  CHECK(log.err.substr(0, 11) == "1/2 cells, ");
  CHECK(log.err.find(" million accesses/s, 0 s left  churn:bytes=64k,block=16k nested:format=npt "
                     "backing=2m\n") != std::string::npos);
  for (std::size_t at = 0, end; (end = log.err.find('\n', at)) != log.err.npos; at = end + 1) {
    CHECK(end - at < 120);
  }
  CHECK(log.err.find('\x1b') == std::string::npos);
  if (shell("script -qec true /dev/null").status != 0) {
    MESSAGE("skipped, no pseudo-terminal to be had here");
    return;
  }
  const Ran terminal = shell(
      fmt::format("script -qec \"$mmuscope suite {} --out {} --jobs 1\" /dev/null", suite, out));
  CHECK(terminal.status == 0);
  CHECK(terminal.out.find("\r\x1b[K2/2 cells, ") != std::string::npos);
  fs::remove_all(scratch());
}

TEST_CASE("command: the command in the manifest makes the same results again") {
  const fs::path folder = scratch() / "a folder";
  const std::string suite =
      file("it's.suite", "workload = churn:bytes=64k,block=16k\npager = native\nseed = 1,2\n");
  CHECK(run(fmt::format("suite \"{}\" --resume --out \"{}\" --shard 1/2", suite, folder.string()))
            .status == 0);
  const std::string first = read_file(folder / "suite.csv", 1 << 20);
  const std::string manifest = read_file(folder / "manifest.json", 1 << 20);
  const std::size_t at = manifest.find("\"command\": \"") + 12;
  const std::string command = manifest.substr(at, manifest.find("\",\n", at) - at);
  CHECK(command.substr(0, 15) == "mmuscope suite ");
  CHECK(command.find("--resume") == std::string::npos);
  std::string unescaped;  // JSON doubles the backslash of a quoted quote
  for (std::size_t i = 0; i < command.size(); ++i) {
    if (command[i] == '\\') ++i;
    unescaped += command[i];
  }
  fs::remove_all(folder);
  CHECK(shell(fmt::format("PATH=\"$(dirname \"$mmuscope\"):$PATH\"; {}", unescaped)).status == 0);
  CHECK(read_file(folder / "suite.csv", 1 << 20) == first);
  fs::remove_all(scratch());
}

TEST_CASE("command: live without /dev/kvm says why in one line") {
  // Namespaces of our own, with an empty /dev; where they are forbidden there is nothing to test.
  const char* inside = "mount -t tmpfs none /dev && ";
  if (shell(std::string("unshare -rm sh -c '") + inside + "true'").status != 0) {
    MESSAGE("skipped: no mount namespace can be made here");
    return;
  }
  const Ran ran = shell(std::string("export mmuscope; unshare -rm sh -c '") + inside +
                        "\"$mmuscope\" live tests/truth/kvm/demand_touch.json'");
  CHECK(ran.status == 2);
  CHECK(ran.out.empty());
  CHECK(ran.err ==
        "mmuscope: /dev/kvm cannot be opened: No such file or directory; run on a host or in a VM "
        "whose kernel has KVM (modules kvm_intel, kvm_amd)\n");
}
