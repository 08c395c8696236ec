#include <doctest/doctest.h>

#include <functional>

#include "core/error.h"
#include "core/random.h"
#include "results/experiment.h"
#include "tests/workloads/test_folder.h"
#include "tests/workloads/trace_files.h"
#include "workloads/trace/coarse.h"
#include "workloads/trace/text.h"
#include "workloads/trace/tools.h"
#include "workloads/trace/writer.h"

namespace mmuscope {
namespace {

/// The message with which something is refused; empty if it is not.
std::string refusal(const std::function<void()>& action) {
  try {
    action();
  } catch (const InputError& e) {
    CHECK(std::string(e.what()).find('\n') == std::string::npos);
    return e.what();
  }
  return "";
}

/// Two processes and a thread, with every kind of call and of record.
void write_program(const std::filesystem::path& path) {
  TraceWriter w(path, {"p -x", "r", "nothing", {"rule 1", "rule 2"}}, 1);
  w.call({CallKind::Spawn, false, 0, {}, 77, "/bin/p (synthesized)"});
  w.switch_to(0);
  w.call({CallKind::Cpu, false, 0, {3}, 0, ""});
  w.call({CallKind::Map, true, 0, {0x10000, 0x3000, 7, 0x32, 0, 0}, 0x10000, ""});
  w.call({CallKind::Map, false, 0, {0, 0x1000, 1, 2, 3, 0x5000}, 0x40000, "/lib/two  words"});
  w.access(RecordKind::Instruction, 0x10000, 7);
  w.access(RecordKind::Store, 0x10ff8, 32);
  w.call({CallKind::Fork, false, 1, {17}, 78, ""});
  w.switch_to(1);
  w.access(RecordKind::Load, 0x10010, 4096);
  w.call({CallKind::Vfork, false, 2, {0x4111}, 80, ""});
  w.switch_to(2);
  w.access(RecordKind::Store, 0x10030, 8);
  w.call({CallKind::Exit, false, 0, {1}, 0, ""});
  w.switch_to(1);
  w.call({CallKind::Thread, false, 3, {0x10f00}, 79, ""});
  w.switch_to(3);
  w.access(RecordKind::Modify, 0x10020, 8);
  w.call({CallKind::Advise, false, 0, {0x10000, 0x1000, 4}, 0, ""});
  w.call({CallKind::Exit, false, 0, {0}, 0, ""});
  w.switch_to(1);
  w.call({CallKind::Exit, true, 0, {9}, 0, ""});
  w.switch_to(0);
  w.call({CallKind::Break, false, 0, {0}, 0x80000, ""});
  w.call({CallKind::Protect, false, 0, {0x10000, 0x1000, 1}, 0, ""});
  w.call({CallKind::Remap, false, 0, {0x12000, 0x1000, 0x2000, 1}, 0x50000, ""});
  w.call({CallKind::Unmap, false, 0, {0x40000, 0x1000}, 0, ""});
  w.call({CallKind::Exec, false, 0, {}, 0, "next"});
  w.finish();
}

TEST_CASE("trace text: a program's trace comes back as it was") {
  const TestFolder folder("text");
  write_program(folder / "t");
  const std::string text = dump(folder, folder / "t");
  import_text(folder.write("text", text), folder / "again", 1);
  CHECK(file_bytes(folder / "again") == file_bytes(folder / "t"));
  CHECK(dump(folder, folder / "again") == text);
  // For people: numbers, tasks and what is known of the trace may be left out.
  import_text(folder.write("short",
                           "spawn task 0 = 1 a\nswitch 0\nmmap 0 4096 3 34 0 0 = 65536\n"
                           "store 65536 8\n"),
              folder / "short.mmt");
  CHECK(contains(dump(folder, folder / "short.mmt"), "3 0 store 0x10000 8\n"));
}

TEST_CASE("trace text: a machine's trace comes back as it was") {
  const TestFolder folder("text-machine");
  ExperimentText text;
  text.workload = "fork:operations=1,resident=64k";
  text.pager = "shadow";
  text.vcpus = 2;
  text.record = (folder / "t").string();
  REQUIRE(run_experiment(parse_experiment(text)).ok());
  const std::string dumped = dump(folder, folder / "t");
  import_text(folder.write("text", dumped), folder / "again");
  CHECK(file_bytes(folder / "again") == file_bytes(folder / "t"));
  // The beginning of a machine's trace is one, too; a later part is none.
  trace_cut(folder / "t", folder / "cut", 0, 100);
  const std::string cut = dump(folder, folder / "cut");
  CHECK(dumped.find(cut.substr(cut.find("\n0 "))) != std::string::npos);
  CHECK(contains(refusal([&] { trace_cut(folder / "t", folder / "cut", 5, 9); }), "valid: 0"));
}

TEST_CASE("trace text: what is wrong is refused with its line") {
  const TestFolder folder("text-bad");
  const auto error = [&](const std::string& text) {
    return refusal([&] { import_text(folder.write("x", text), folder / "t"); });
  };
  const std::string begin = "program: p\nspawn task 0 = 1 p\nswitch 0\n";
  CHECK(error(begin).empty());
  CHECK(contains(error(""), "x: line 0: it is empty"));
  CHECK(contains(error(begin + "load 0x1000\n"), "x: line 4: no number: ''"));
  CHECK(contains(error(begin + "load 0x1000 0\n"), "an access of so many bytes"));
  CHECK(contains(error(begin + "load 0x1000 8 8\n"), "too many words"));
  CHECK(contains(error(begin + "load 0x800000000000 8\n"), "outside the user half"));
  CHECK(contains(error(begin + "2 1 load 0x1000 8\n"), "record 2 of task 0 was due"));
  CHECK(contains(error(begin + "jump 0x1000 8\n"), "no record: 'jump'"));
  CHECK(contains(error(begin + "switch 1\n"), "no living process"));
  CHECK(contains(error(begin + "fork task 2 17 = 1\n"), "task 1 was due"));
  CHECK(contains(error(begin + "vfork task 1 0 = 1\nswitch 0\n"), "line 5: a switch to no"));
  CHECK(contains(error(begin + "munmap 0x1001 0x1000 = 0\n"), "no program can have"));
  CHECK(contains(error(begin + "exit 0 = 0\nload 0x1000 8\n"), "line 5: an access by no process"));
  CHECK(contains(error("machine: 0 5\n"), "a machine that cannot be"));
  CHECK(contains(error("machine: 1 0x100000\nload 0x1000 8\n"), "was not started"));
  CHECK(contains(error("machine: 1 0x100000\nstart 0x1000 0x91\nuser cr3 0x1000\n"), "line 3"));
  CHECK(contains(refusal([&] { import_text(folder / "none", folder / "t"); }), "cannot be read"));
  // Whatever becomes of a byte, it is refused or read.
  write_program(folder / "p");
  const std::string whole = dump(folder, folder / "p");
  Random random(6);
  for (int i = 0; i < 500; ++i) {
    std::string bytes = whole.substr(0, i % 5 == 0 ? random.below(whole.size()) : whole.size());
    if (!bytes.empty()) bytes[random.below(bytes.size())] = static_cast<char>(random.below(256));
    if (error(bytes).empty()) (void)trace_info(folder / "t");
  }
}

TEST_CASE("trace cut: keeps the records asked for and the calls before them") {
  const TestFolder folder("cut");
  write_program(folder / "t");
  trace_cut(folder / "t", folder / "cut", 6, 4);
  const TraceSummary cut = trace_info(folder / "cut");
  CHECK(cut.info.cut == "all but 4 records from record 6 on");
  CHECK(cut.totals.records == std::array<u64, kRecordKinds>{0, 1, 1, 0, 5, 2});
  trace_cut(folder / "t", folder / "all", 0, ~u64{0});
  CHECK(trace_info(folder / "all").totals == trace_info(folder / "t").totals);
}

TEST_CASE("trace merge: programs run side by side, with their tasks numbered anew") {
  const TestFolder folder("merge");
  write_program(folder / "t");
  const std::filesystem::path both[] = {folder / "t", folder / "t"};
  trace_merge(both, folder / "m", 1);
  const TraceSummary one = trace_info(folder / "t");
  const TraceSummary two = trace_info(folder / "m");
  CHECK(two.info.program == "p -x & p -x");
  CHECK(two.totals.processes == 8);
  for (const RecordKind kind : {RecordKind::Instruction, RecordKind::Load, RecordKind::Store,
                                RecordKind::Modify, RecordKind::Call}) {
    CHECK(two.totals.of(kind) == 2 * one.totals.of(kind));
  }
  for (unsigned i = 0; i < 3; ++i) {
    CHECK(two.processes[i].accesses + two.processes[5 - i].accesses > 0);
  }
}

constexpr const char* kStrace =
    "10  execve(\"/bin/sh\", [\"sh\", \"a, b\"], 0x7ffc /* 4 vars */) = 0\n"
    "10  brk(NULL)                         = 0x5000000\n"
    "10  12:30:01.5 mmap(NULL, 8192, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = "
    "0x7f0000000000\n"
    "10  mmap(NULL, 200000, PROT_READ, MAP_PRIVATE, 3</lib/c, d>, 0x1000) = 0x7f0000100000\n"
    "10  mprotect(0x400000, 8192, PROT_READ) = 0\n"
    "10  brk(0x5003000)                     = 0x5003000\n"
    "10  openat(AT_FDCWD, \"x\", O_RDONLY)    = -1 ENOENT (No such file or directory)\n"
    "10  clone(child_stack=NULL, flags=CLONE_CHILD_SETTID|SIGCHLD <unfinished ...>\n"
    "11  munmap(0x7f0000000000, 4096)      = 0\n"
    "10  <... clone resumed>, child_tidptr=0x7f45) = 11\n"
    "11  exit_group(0)                     = ?\n"
    "11  +++ exited with 0 +++\n"
    "10  --- SIGCHLD {si_signo=SIGCHLD} ---\n"
    "10  madvise(0x7f0000000000, 4096 <unfinished ...>\n"
    "10  <... madvise resumed>, MADV_DONTNEED) = 0\n"
    "10  mremap(0x7f0000000000, 8192, 16384, MREMAP_MAYMOVE) = 0x7f0000400000\n"
    "10  +++ killed by SIGKILL +++\n";

TEST_CASE("trace import strace: calls in order, images and touches made up") {
  const TestFolder folder("strace");
  import_strace(folder.write("log", kStrace), folder / "t", 1);
  CHECK(dump_records(folder, folder / "t") ==
        "0 - spawn task 0 = 0xa\n"
        "1 - switch 0\n"
        "2 0 exec = 0x0 \"/bin/sh\"\n"
        "3 0 brk 0x5000000 = 0x5000000\n"
        "4 0 mmap 0x7f0000000000 0x2000 0x3 0x22 0x0 0x0 = 0x7f0000000000\n"
        "5 0 store 0x7f0000000000 1\n"
        "6 0 store 0x7f0000001000 1\n"
        "7 0 mmap 0x7f0000100000 0x31000 0x1 0x2 0x0 0x1000 = 0x7f0000100000 /lib/c, d\n" +
            [] {
              std::string loads;
              for (unsigned i = 0; i < 16; ++i) {
                char line[64];
                std::snprintf(line, sizeof line, "%u 0 load 0x7f00001%02x000 1\n", 8 + i, i);
                loads += line;
              }
              return loads;
            }() +
            "24 0 synthesized mmap 0x400000 0x2000 0x7 0x22 0x0 0x0 = 0x400000\n"
            "25 0 mprotect 0x400000 0x2000 0x1 = 0x0\n"
            "26 0 brk 0x5003000 = 0x5003000\n"
            "27 0 store 0x5000000 1\n"
            "28 0 store 0x5001000 1\n"
            "29 0 store 0x5002000 1\n"
            "30 0 fork task 1 0x0 = 0xb\n"
            "31 0 switch 1\n"
            "32 1 munmap 0x7f0000000000 0x1000 = 0x0\n"
            "33 1 exit 0x0 = 0x0\n"
            "34 - switch 0\n"
            "35 0 madvise 0x7f0000000000 0x1000 0x4 = 0x0\n"
            "36 0 mremap 0x7f0000000000 0x2000 0x4000 0x1 0x0 = 0x7f0000400000\n"
            "37 0 exit 0x0 = 0x0\n");
  ExperimentText run;
  run.workload = "trace:file=" + (folder / "t").string();
  run.pager = "shadow";
  CHECK(run_experiment(parse_experiment(run)).status == "ok");
}

TEST_CASE("trace import strace: a child of vfork lives in its parent's memory, which waits") {
  const TestFolder folder("strace-vfork");
  const auto imported = [&](const std::string& log) {
    import_strace(folder.write("log", log), folder / "t", 1);
    ExperimentText run;
    run.workload = "trace:file=" + (folder / "t").string();
    run.pager = "shadow";
    CHECK(run_experiment(parse_experiment(run)).status == "ok");
    return dump_records(folder, folder / "t");
  };
  constexpr const char* kBegin =
      "10 brk(0x5003000) = 0x5003000\n"
      "10 clone3({flags=CLONE_VM|CLONE_VFORK|CLONE_CLEAR_SIGHAND, exit_signal=SIGCHLD}, 88"
      " <unfinished ...>\n"
      "11 mprotect(0x400000, 4096, PROT_READ) = 0\n";
  constexpr const char* kMade =
      "0 - spawn task 0 = 0xa\n"
      "1 - switch 0\n"
      "2 0 brk 0x5003000 = 0x5003000\n"
      "3 0 vfork task 1 0x4100 = 0xb\n"
      "4 - switch 1\n"
      "5 1 synthesized mmap 0x400000 0x1000 0x7 0x22 0x0 0x0 = 0x400000\n"
      "6 1 mprotect 0x400000 0x1000 0x1 = 0x0\n";
  constexpr const char* kEnd =
      "8 1 switch 0\n"
      "9 0 munmap 0x400000 0x1000 = 0x0\n"
      "10 0 switch 1\n"
      "11 1 brk 0x6000000 = 0x6000000\n";
  // The child executes a program; the same, but its parent is told first; the child is killed.
  CHECK(imported(std::string(kBegin) + "11 execve(\"/bin/a\", [\"a\"], 0x7ffc /* 4 vars */) = 0\n"
                                       "10 <... clone3 resumed>) = 11\n"
                                       "10 munmap(0x400000, 4096) = 0\n"
                                       "11 brk(0x6000000) = 0x6000000\n") ==
        std::string(kMade) + "7 1 exec = 0x0 \"/bin/a\"\n" + kEnd);
  CHECK(imported(std::string(kBegin) +
                 "11 execve(\"/bin/a\", [\"a\"], 0x7ffc /* 4 vars */ <unfinished ...>\n"
                 "10 <... clone3 resumed>) = 11\n"
                 "10 munmap(0x400000, 4096) = 0\n"
                 "11 <... execve resumed>) = 0\n"
                 "11 brk(0x6000000) = 0x6000000\n") ==
        std::string(kMade) + "7 1 exec = 0x0 \"/bin/a\"\n" + kEnd);
  CHECK(imported(std::string(kBegin) + "10 <... clone3 resumed>) = 11\n"
                                       "10 munmap(0x400000, 4096) = 0\n"
                                       "11 +++ killed by SIGKILL +++\n") ==
        std::string(kMade) +
            "7 1 exit 0x0 = 0x0\n"
            "8 - switch 0\n"
            "9 0 munmap 0x400000 0x1000 = 0x0\n");
  // Numbers for names, as -X raw prints them.
  CHECK(imported("10 mmap(NULL, 0x1000, 0x3, 0x22, -1, 0) = 0x7f0000000000\n"
                 "10 clone(child_stack=0x7f0000000800, flags=0x4111) = 11\n"
                 "11 execve(\"/bin/b\", [], 0x7ffc /* 4 vars */) = 0\n") ==
        "0 - spawn task 0 = 0xa\n"
        "1 - switch 0\n"
        "2 0 mmap 0x7f0000000000 0x1000 0x3 0x22 0x0 0x0 = 0x7f0000000000\n"
        "3 0 store 0x7f0000000000 1\n"
        "4 0 vfork task 1 0x4111 = 0xb\n"
        "5 - switch 1\n"
        "6 1 exec = 0x0 \"/bin/b\"\n");
  // Its log has whole lines, as strace-log-merge makes them; it may be a grandchild.
  CHECK(imported("10 vfork() = 11\n"
                 "11 vfork() = 12\n"
                 "12 execve(\"/bin/b\", [], 0x7ffc /* 4 vars */) = 0\n"
                 "11 exit_group(0) = ?\n"
                 "11 +++ exited with 0 +++\n"
                 "10 exit_group(0) = ?\n") ==
        "0 - spawn task 0 = 0xa\n"
        "1 - switch 0\n"
        "2 0 vfork task 1 0x4100 = 0xb\n"
        "3 - switch 1\n"
        "4 1 vfork task 2 0x4100 = 0xc\n"
        "5 - switch 2\n"
        "6 2 exec = 0x0 \"/bin/b\"\n"
        "7 2 switch 1\n"
        "8 1 exit 0x0 = 0x0\n"
        "9 - switch 0\n"
        "10 0 exit 0x0 = 0x0\n");
}

constexpr const char* kPerf =
    "            two words  8505/8506  15559.568568: page-faults:     5568276745c0 ffffffff81\n"
    "              ls  8521 [000] 15561.856083: exceptions:page_fault_user: address=0x7fe55c1aeb70 "
    "ip=0x7fe55c1aeb70 error_code=0x14\n"
    "              ls  8521 [000] 15561.856089: exceptions:page_fault_user: address=0x7fe55c1c7e06 "
    "ip=0x7fe55c1af7ad error_code=0x6\n";

TEST_CASE("trace import perf: each fault is an access to a page that is mapped") {
  const TestFolder folder("perf");
  import_perf(folder.write("list", kPerf), folder / "t", 1);
  CHECK(dump_records(folder, folder / "t") ==
        "0 - synthesized spawn task 0 = 0x2139 two\n"
        "1 - switch 0\n"
        "2 0 synthesized mmap 0x556827670000 0x10000 0x7 0x22 0x0 0x0 = 0x556827670000\n"
        "3 0 store 0x5568276745c0 1\n"
        "4 0 synthesized spawn task 1 = 0x2149 ls\n"
        "5 0 switch 1\n"
        "6 1 synthesized mmap 0x7fe55c1a0000 0x10000 0x7 0x22 0x0 0x0 = 0x7fe55c1a0000\n"
        "7 1 instruction 0x7fe55c1aeb70 1\n"
        "8 1 synthesized mmap 0x7fe55c1c0000 0x10000 0x7 0x22 0x0 0x0 = 0x7fe55c1c0000\n"
        "9 1 store 0x7fe55c1c7e06 1\n");
}

TEST_CASE("trace import: logs that are none are refused with file and line, garbled ones, too") {
  const TestFolder folder("coarse-bad");
  const auto strace = [&](const std::string& text) {
    return refusal([&] {
      import_strace(folder.write("log", text), folder / "t", 1);
      (void)trace_info(folder / "t");
    });
  };
  const auto perf = [&](const std::string& text) {
    return refusal([&] {
      import_perf(folder.write("log", text), folder / "t", 1);
      (void)trace_info(folder / "t");
    });
  };
  CHECK(contains(strace(""), "log: nothing in it"));
  CHECK(contains(strace("hello\n"), "log: line 1: no pid"));
  CHECK(contains(strace("10 brk(NULL) = 0x5000\n10 brk(\n"), "log: line 2: no system call"));
  CHECK(contains(strace("10 munmap(0x1234, 4096) = 0\n"), "line 1: a munmap that no program"));
  CHECK(contains(strace("10 <... brk resumed>) = 0\n"), "did not begin"));
  CHECK(contains(strace("10 [00007f3c9bd52110] brk(NULL) = 0x5000\n"), "line 1: no system call"));
  CHECK(contains(perf(""), "log: nothing in it"));
  CHECK(contains(perf("ls 8521 cycles\n"), "log: line 1: no page fault"));
  CHECK(contains(perf("ls x/8 15.5: page-faults: 10 20\n"), "no pid before the time"));
  CHECK(contains(perf("ls 8 15.5: page-faults: 10 zz\n"), "line 1: no NUMBER"));
  Random random(8);
  for (int i = 0; i < 500; ++i) {
    for (const char* whole : {kStrace, kPerf}) {
      std::string bytes = whole;
      bytes.resize(i % 4 == 0 ? random.below(bytes.size()) + 1 : bytes.size());
      bytes[random.below(bytes.size())] = static_cast<char>(random.below(256));
      (void)(whole == kStrace ? strace(bytes) : perf(bytes));
    }
  }
}

}  // namespace
}  // namespace mmuscope
