#include <doctest/doctest.h>

#include "core/error.h"
#include "core/random.h"
#include "tests/workloads/test_folder.h"
#include "tests/workloads/trace_files.h"
#include "workloads/trace/lackey.h"
#include "workloads/trace/lackey_image.h"
#include "workloads/trace/lackey_log.h"
#include "workloads/trace/text.h"
#include "workloads/trace/tools.h"

namespace mmuscope {
namespace {

LackeyOptions fast() {
  LackeyOptions options;
  options.compression = 1;
  return options;
}

const LackeyOptions kFast = fast();

using Paths = std::vector<std::filesystem::path>;

std::string header(u32 pid, u32 parent, const std::string& command) {
  const std::string mark = "==" + std::to_string(pid) + "== ";
  return mark + "Lackey, an example Valgrind tool\n" + mark +
         "Copyright (C) 2002-2017, and GNU GPL'd, by Nicholas Nethercote.\n" + mark +
         "Using Valgrind-3.19.0 and LibVEX; rerun with -h for copyright info\n" + mark +
         "Command: " + command + "\n" + mark + "Parent PID: " + std::to_string(parent) + "\n" +
         mark + "\n";
}

std::string syscall(u32 pid, const std::string& rest) {
  return "SYSCALL[" + std::to_string(pid) + ",1]" + rest + "\n";
}

std::string import_message(const Paths& logs, const std::filesystem::path& out) {
  try {
    import_lackey(logs, out, kFast);
  } catch (const InputError& e) {
    CHECK(!std::filesystem::exists(out));
    return e.what();
  }
  return "";
}

std::string imported(const TestFolder& folder, const Paths& logs,
                     const LackeyOptions& options = kFast) {
  import_lackey(logs, folder / "t", options);
  return dump_records(folder, folder / "t");
}

/// A log with one access and one call, as a starting point for what is wrong.
std::string small_log(u32 pid, const std::string& more = "") {
  return header(pid, 1, "prog") + "I  00401000,4\n" +
         syscall(pid, "(12) sys_brk ( 0x0 ) --> [pre-success] Success(0x4035000) ") + more;
}

TEST_CASE("lackey: every style of line") {
  const TestFolder folder("styles");
  const Paths logs = {folder.write(
      "t.7.lk",
      header(7, 1, "prog arg") +
          "I  0401ab70,3\n"
          " S 1fff000608,8\n"
          " M 04033e06,1\n"
          " L 04032e40,8\n" +
          syscall(7, "(12) sys_brk ( 0x0 ) --> [pre-success] Success(0x4035000) ") +
          syscall(7,
                  "(257) sys_openat ( 4294967196, 0x4834bb0(/a --> b), 524288 ) --> [async] ... ") +
          syscall(7, "(257) ... [async] --> Success(0x4) ") +
          syscall(7, "(257) sys_openat ( 4294967196, 0x4834bb0(/two\nlines) ) --> [async] ... ") +
          syscall(7, "(257) ... [async] --> Failure(0x2) ") +
          syscall(7,
                  "(9) sys_mmap ( 0x0, 8192, 3, 34, 4294967295, 0 ) --> [pre-success] "
                  "Success(0x4835000) ") +
          syscall(7,
                  "(9) sys_mmap ( 0x1, 4096, 3, 50, 4294967295, 0 ) --> [pre-fail] "
                  "Failure(0x16) ") +
          syscall(7, "(10) sys_mprotect ( 0x4835000, 4096, 1 )[sync] --> Success(0x0) ") +
          syscall(7, "(10) sys_mprotect ( 0x4835000, 0, 1 )[sync] --> Success(0x0) ") +
          syscall(7, "(334) unimplemented (by the kernel) syscall: 334! (ni_syscall)") +
          " --> [pre-fail] Failure(0x26) \n" +
          syscall(7, "(15) sys_rt_sigreturn ( ) --> [pre-success] NoWriteResult ") +
          // A new thread's first access follows its clone in the same line.
          syscall(7,
                  "(56) sys_clone ( 3d0f00, 0x522bf70, 0x522c990 ) --> [pre-success] "
                  "Success(0x24ec) I  0494fb42,3") +
          syscall(7,
                  "(25) sys_mremap ( 0x4835000, 8192, 1048576, 0x1 ) --> [pre-success] "
                  "Success(0x522d000) ") +
          syscall(7, "(12) sys_brk ( 0x4056000 ) --> [pre-success] Success(0x4056000) ") +
          syscall(7, "(11) sys_munmap ( 0x522d000, 1048576 )[sync] --> Success(0x0) ") +
          syscall(7, "(60) exit( 0 ) --> [pre-success] Success(0x0) ") +
          "\n--7-- a warning\n**7** a message\n==7==    at 0x48D1EEC: raise (raise.c:26)\n"
          " L 0522d000,8\n" +
          syscall(7, "(231) exit_group( 5 ) --> [pre-success] Success(0x0) ") +
          "==7== \n==7== Counted 0 calls to main()\n")};
  CHECK(imported(folder, logs) ==
        "0 - synthesized spawn task 0 = 0x7 prog arg\n"
        "1 - switch 0\n"
        "2 0 synthesized exec = 0x0 prog arg\n"
        "3 0 synthesized mmap 0x401a000 0x1000 0x5 0x12 0x0 0x401a000 = 0x401a000 dynamic linker\n"
        "4 0 synthesized mmap 0x4032000 0x1000 0x1 0x12 0x0 0x4032000 = 0x4032000 dynamic linker\n"
        "5 0 synthesized mmap 0x4033000 0x1000 0x3 0x32 0xffffffffffffffff 0x0 = 0x4033000\n"
        "6 0 synthesized mmap 0x494f000 0x1000 0x5 0x12 0x0 0x494f000 = 0x494f000 prog\n"
        "7 0 synthesized mmap 0x522d000 0x1000 0x1 0x12 0x0 0x522d000 = 0x522d000 prog\n"
        "8 0 synthesized mmap 0x1fff000000 0x1000 0x3 0x32 0xffffffffffffffff 0x0 = 0x1fff000000\n"
        "9 0 instruction 0x401ab70 3\n"
        "10 0 store 0x1fff000608 8\n"
        "11 0 modify 0x4033e06 1\n"
        "12 0 load 0x4032e40 8\n"
        "13 0 brk 0x0 = 0x4035000\n"
        "14 0 mmap 0x0 0x2000 0x3 0x22 0xffffffff 0x0 = 0x4835000\n"
        "15 0 mprotect 0x4835000 0x1000 0x1 = 0x0\n"
        "16 0 instruction 0x494fb42 3\n"
        "17 0 mremap 0x4835000 0x2000 0x100000 0x1 0x0 = 0x522d000\n"
        "18 0 brk 0x4056000 = 0x4056000\n"
        "19 0 munmap 0x522d000 0x100000 = 0x0\n"
        "20 0 load 0x522d000 8\n"
        "21 0 exit 0x5 = 0x0\n");
}

/// A shell that forks a child that execs, one that goes on, and one by vfork, and waits.
Paths family(const TestFolder& folder) {
  return {folder.write("t.30.lk", header(30, 10, "vforked") + "I  00401000,4\n" +
                                      syscall(30, "(231) exit_group( 0 ) --> Success(0x0) ")),
          folder.write(
              "t.10.lk",
              header(10, 1, "shell") + "I  00400ff0,4\n S 1fff000600,8\n" +
                  syscall(10,
                          "(56) sys_clone ( 1200011, 0x0, 0x0, 0x4a29a10, 0x0 )   clone(fork): "
                          "process 10 created child 9") +
                  " --> [pre-success] Success(0x9) \n S 1fff000610,8\n" +
                  syscall(10, "(57) sys_fork ( )   fork: process 10 created child 20") +
                  " --> [pre-success] Success(0x14) \n" +
                  syscall(10,
                          "(56) sys_clone ( 4111, 0x4844ff0, 0x0, 0x0, 0x0 )   clone(fork): "
                          "process 10 created child 30") +
                  " --> [pre-success] Success(0x1e) \n" +
                  syscall(10, "(58) sys_vfork ( )   fork: process 10 created child 77") +
                  " --> [pre-success] Success(0x4d) \n" +
                  syscall(10, "(61) sys_wait4 ( 4294967295, 0x0, 0, 0x0 ) --> [async] ... ") +
                  " L 00402000,8\n" +
                  syscall(10, "(61) sys_wait4 ( 4294967295, 0x0, 0, 0x0 ) --> [async] ... ") +
                  " L 00402008,8\n" +
                  syscall(10, "(61) sys_wait4 ( 4294967295, 0x0, 1, 0x0 ) --> [async] ... ") +
                  " L 00402010,8\n" + syscall(10, "(231) exit_group( 0 ) --> Success(0x0) ")),
          folder.write("t.20.lk", header(20, 10, "shell") + " --> [pre-success] Success(0x0) \n" +
                                      "I  00400ff4,4\n S 00403000,8\n"),
          folder.write("t.9.lk", header(9, 10, "execed") + "I  00401000,4\nI  00401004,4\n" +
                                     syscall(9, "(231) exit_group( 1 ) --> Success(0x0) "))};
}

TEST_CASE("lackey: processes are linked, ordered, and made to exec by the documented rules") {
  const TestFolder folder("family");
  const Paths logs = family(folder);
  const std::string zeros = " 0x32 0xffffffffffffffff 0x0 = ";
  const std::string file = " 0x12 0x0 ";
  const std::string text = imported(folder, logs);
  CHECK(text ==
        "0 - synthesized spawn task 0 = 0xa shell\n"
        "1 - switch 0\n"
        "2 0 synthesized exec = 0x0 shell\n"
        "3 0 synthesized mmap 0x400000 0x1000 0x5" +
            file + "0x400000 = 0x400000 shell\n" + "4 0 synthesized mmap 0x402000 0x1000 0x1" +
            file + "0x402000 = 0x402000 shell\n" +
            // What only the child that goes on uses belongs to the program that both run.
            "5 0 synthesized mmap 0x403000 0x1000 0x3" + zeros + "0x403000\n" +
            "6 0 synthesized mmap 0x1fff000000 0x1000 0x3" + zeros + "0x1fff000000\n" +
            "7 0 instruction 0x400ff0 4\n"
            "8 0 store 0x1fff000600 8\n"
            "9 0 fork task 1 0x1200011 = 0x9\n"
            "10 0 store 0x1fff000610 8\n"
            "11 0 fork task 2 0x0 = 0x14\n"
            "12 0 vfork task 3 0x4111 = 0x1e\n"
            "13 - switch 3\n"
            "14 3 synthesized exec = 0x0 vforked\n"
            "15 3 synthesized mmap 0x401000 0x1000 0x5" +
            file + "0x401000 = 0x401000 vforked\n" +
            "16 3 switch 0\n"
            "17 0 fork task 4 0x0 = 0x4d\n"  // its log is missing: it ends at once
            "18 0 switch 4\n"
            "19 4 synthesized exit 0x0 = 0x0\n"
            "20 - switch 0\n"
            "21 0 load 0x402000 8\n"  // the first wait found the ended child, the second one rests
            "22 0 switch 1\n"
            "23 1 store 0x1fff000600 8\n"
            "24 1 synthesized exec = 0x0 execed\n"
            "25 1 synthesized mmap 0x401000 0x1000 0x5" +
            file + "0x401000 = 0x401000 execed\n" +
            "26 1 instruction 0x401000 4\n"
            "27 1 instruction 0x401004 4\n"
            "28 1 exit 0x1 = 0x0\n"
            "29 - switch 2\n"
            "30 2 instruction 0x400ff4 4\n"
            "31 2 store 0x403000 8\n"
            "32 2 synthesized exit 0x0 = 0x0\n"
            "33 - switch 3\n"
            "34 3 instruction 0x401000 4\n"
            "35 3 exit 0x0 = 0x0\n"
            "36 - switch 0\n"
            "37 0 load 0x402008 8\n"
            "38 0 load 0x402010 8\n"
            "39 0 exit 0x0 = 0x0\n");
  const TraceSummary summary = trace_info(folder / "t");
  CHECK(summary.info.program == "shell");
  CHECK(summary.info.recorder == "lackey of Valgrind-3.19.0");
  CHECK(summary.info.cut == "nothing");
  const std::string told = describe(summary);
  CHECK(
      contains(told, "1 children store 8 bytes where their parent stored last, and exec; 1 child"));
  CHECK(contains(told, "images: 6 mappings"));
  CHECK(contains(told, "start: 1 processes"));
  CHECK(contains(told, "1 processes without exit_group end with their log; 1 children without a"));
  // The order in which the logs are named does not matter.
  const std::string bytes = file_bytes(folder / "t");
  imported(folder, Paths(logs.rbegin(), logs.rend()));
  CHECK(file_bytes(folder / "t") == bytes);
}

TEST_CASE("lackey: turns end after the quantum, and a limit keeps the calls") {
  const TestFolder folder("turns");
  const auto log = [&](u32 pid) {
    std::string text = small_log(pid);
    for (int i = 0; i < 10; ++i) text += " L 0040200" + std::to_string(i) + ",1\n";
    return folder.write("t." + std::to_string(pid) + ".lk",
                        text + syscall(pid, "(231) exit_group( 0 ) --> Success(0x0) "));
  };
  const Paths logs = {log(5), log(6)};
  LackeyOptions options = kFast;
  options.quantum = 4;
  const std::string text = imported(folder, logs, options);
  CHECK(trace_info(folder / "t").totals.of(RecordKind::Switch) == 6);
  CHECK(contains(text, " switch 1\n"));
  CHECK(contains(describe(trace_info(folder / "t")), "start: 2 processes"));
  options.limit = 3;
  imported(folder, logs, options);
  const TraceSummary cut = trace_info(folder / "t");
  CHECK(cut.totals.of(RecordKind::Instruction) == 2);
  CHECK(cut.totals.of(RecordKind::Load) == 4);
  CHECK(cut.calls[static_cast<unsigned>(CallKind::Break)] == 2);
  CHECK(cut.info.cut == "16 accesses after the first 3 of their process (calls are all there)");
}

TEST_CASE("lackey: a log that ends anywhere is imported or refused with its line") {
  const TestFolder folder("truncated");
  const std::string whole = file_bytes(family(folder)[1]);
  const std::size_t whole_call = whole.find('\n', whole.find(" --> ")) + 1;
  for (std::size_t length = 0; length <= whole.size(); ++length) {
    CAPTURE(length);
    const std::string message =
        import_message({folder.write("cut.lk", whole.substr(0, length))}, folder / "out");
    if (length >= whole_call) {
      // A record is in it; a last line without its end is dropped, and said so.
      CHECK(message.empty());
      const bool partial = length < whole.size() && whole[length - 1] != '\n';
      CHECK(contains(trace_info(folder / "out").info.cut, "without their end") == partial);
      std::filesystem::remove(folder / "out");
    } else if (!message.empty()) {
      CHECK(contains(message, "cut.lk"));
      CHECK(contains(message, "; valid: "));
    }
  }
}

TEST_CASE("lackey: what is no log is refused with file and line") {
  const TestFolder folder("bad-logs");
  const auto message = [&](std::string_view text) {
    return import_message({folder.write("bad.lk", text)}, folder / "out");
  };
  CHECK(contains(message(""), "bad.lk:1: "));
  CHECK(contains(message("\n"), "bad.lk:1: "));
  CHECK(
      contains(message("==5== Memcheck, a memory error detector\n"), "bad.lk:1: '==5== Memcheck"));
  CHECK(contains(message(std::string(300000, '\0')), "bad.lk:1: "));
  const std::string start = small_log(5);  // 8 lines
  CHECK(message(start).empty());
  std::filesystem::remove(folder / "out");
  for (const char* line : {"I  xyz,3", "I  1000", "I  1000,", "I  1000,0", "I  1000,99999",
                           " L 10000000000000000,8", " S 1000,8 ", "garbage", "\x01\x02\xff",
                           "SYSCALL[5,1]", "SYSCALL[5,1](", "SYSCALL[x,1](9) sys_mmap ( ) --> x"}) {
    CAPTURE(line);
    const std::string text = message(start + line + "\n");
    CHECK(contains(text, "bad.lk:9: "));
    CHECK(contains(text, "; valid: "));
    CHECK(text.find('\n') == std::string::npos);
  }
  for (const char* call :
       {"(9) sys_mmap ( 0x0, 4096 ) --> [pre-success] Success(0x1000) ",
        "(9) sys_mmap ( 0x0, 0, 3, 34, 1, 0 ) --> [pre-success] Success(0x1000) ",
        "(9) sys_mmap ( 0x0, 1, 3, 34, 1, 0 ) --> [pre-success] Success(0x1001) ",
        "(11) sys_munmap ( 0x1000, 18446744073709551615 ) --> Success(0x0) ",
        "(25) sys_mremap ( 0x1000, 4096, 0, 1 ) --> Success(0x2000) ",
        "(12) sys_brk ( 0x1 ) --> Success(0xffffffffffffffff) "}) {
    CAPTURE(call);
    CHECK(contains(message(start + syscall(5, call)), "bad.lk:9: a memory call"));
  }
  CHECK(contains(message(header(5, 1, "x") + syscall(5, "(39) sys_getpid () --> Success(0x5) ")),
                 "no accesses"));
  CHECK(contains(message(header(5, 1, "x") + "I  1000,4\n"), "no system calls"));
}

TEST_CASE("lackey: logs that do not belong together are refused") {
  const TestFolder folder("mixed");
  const auto first = folder.write("a.lk", small_log(5));
  CHECK(contains(import_message({first, folder.write("b.lk", small_log(5))}, folder / "out"),
                 "b.lk: a second log of process 5"));
  const std::string made =
      syscall(6, "(57) sys_fork ( )   fork: process 6 created child 5") + " --> Success(0x5) \n";
  CHECK(contains(
      import_message({first, folder.write("c.lk", small_log(6, made + made))}, folder / "out"),
      "c.lk: makes process 5 a second time"));
  CHECK(contains(import_message({}, folder / "out"), "no logs"));
  CHECK(contains(import_message({folder / "missing.lk"}, folder / "out"), "missing.lk: cannot be"));
  CHECK(contains(import_message({folder.path()}, folder / "out"), "cannot be read"));
}

TEST_CASE("lackey: a long line is cut, and its memory is bounded") {
  const TestFolder folder("long-lines");
  std::string text =
      header(5, 1, std::string(3'000'000, 'c')) + "I  00401000,4\n" +
      syscall(5, "(1) sys_write ( 1, 0x1(" + std::string(2'000'000, 'w') + ") ) -->") +
      syscall(5, "(39) sys_getpid () --> Success(0x5) ") + " L 00402000,8\n";
  const LackeySummary summary = import_lackey(Paths{folder.write("t.lk", text)}, folder / "t");
  CHECK(summary.totals.of(RecordKind::Instruction) == 1);
  CHECK(summary.totals.of(RecordKind::Load) == 1);
  CHECK(contains(import_message({folder.write("u.lk", small_log(5) + "I  " +
                                                          std::string(200'000, '0') + "\n")},
                                folder / "out"),
                 "u.lk:9: "));
}

TEST_CASE("lackey: random damage is refused or imported, never more") {
  const TestFolder folder("garbled");
  const Paths logs = family(folder);
  const std::string whole = file_bytes(logs[1]);
  u64 refused = 0;
  for (u64 seed = 1; seed <= 1500; ++seed) {
    CAPTURE(seed);
    Random random(seed);
    std::string text = whole;
    for (u64 i = 1 + random.below(4); i > 0; --i) {
      static constexpr char kBytes[] = "0123456789abcdefx,()[] \n-=>ILSM\0\xff";
      text[random.below(text.size())] = kBytes[random.below(sizeof(kBytes) - 1)];
    }
    const std::string message =
        import_message({logs[0], logs[2], logs[3], folder.write("bad.lk", text)}, folder / "out");
    CHECK((message.empty() || contains(message, "valid: ")));
    refused += !message.empty();
    if (message.empty()) trace_info(folder / "out");  // and what was written can be read
    std::filesystem::remove(folder / "out");
  }
  CHECK(refused > 300);
}

TEST_CASE("lackey: mappings follow the calls") {
  Mappings mappings;
  const auto call = [&](u32 number, std::array<u64, 6> args, u64 result) {
    mappings.apply({number, 6, args, true, result, 0, ""});
  };
  call(linux_call::kMmap, {0, 0x3000}, 0x10000);
  CHECK(mappings.contains(0x10000));
  CHECK(mappings.contains(0x12fff));
  CHECK(!mappings.contains(0x13000));
  CHECK(!mappings.contains(0xffff));
  call(linux_call::kMunmap, {0x11000, 1}, 0);
  CHECK(mappings.contains(0x10fff));
  CHECK(!mappings.contains(0x11000));
  CHECK(mappings.contains(0x12000));
  call(linux_call::kMremap, {0x12000, 0x1000, 0x2000}, 0x20000);
  CHECK(!mappings.contains(0x12000));
  CHECK(mappings.contains(0x21fff));
  call(linux_call::kBrk, {0}, 0x30000);
  CHECK(!mappings.contains(0x30000));
  call(linux_call::kBrk, {0x32000}, 0x32000);
  CHECK(mappings.contains(0x31fff));
  call(linux_call::kBrk, {0x31000}, 0x31000);
  CHECK(mappings.contains(0x30fff));
  CHECK(!mappings.contains(0x31000));
  call(linux_call::kMmap, {0, 0x100000}, 0x8000);  // over everything
  CHECK(mappings.contains(0x11000));
}

TEST_CASE("lackey: pages become regions by rights, over small gaps") {
  using linux_prot::kExec;
  using linux_prot::kRead;
  using linux_prot::kWrite;
  const u8 text = kRead | kExec;
  const u8 data = kRead | kWrite;
  const ImagePages pages = {{0x100, text}, {0x101, text}, {0x103, text},        {0x104, kRead},
                            {0x105, data}, {0x206, data}, {0x307 + 0x100, data}};
  const std::vector<ImageRegion> regions = image_regions(pages);
  REQUIRE(regions.size() == 4);
  CHECK(regions[0].start == 0x100000);
  CHECK(regions[0].end == 0x104000);
  CHECK(regions[1].prot == kRead);
  CHECK(regions[2].start == 0x105000);
  CHECK(regions[2].end == 0x207000);  // 256 pages between
  CHECK(regions[3].start == 0x407000);
}

}  // namespace
}  // namespace mmuscope
