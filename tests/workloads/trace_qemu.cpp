#include <doctest/doctest.h>

#include <cstring>

#include "core/error.h"
#include "core/random.h"
#include "tests/workloads/test_folder.h"
#include "tests/workloads/trace_files.h"
#include "workloads/trace/qemu.h"
#include "workloads/trace/qemu_log.h"
#include "workloads/trace/text.h"
#include "workloads/trace/tools.h"

namespace mmuscope {
namespace {

using namespace qemu_log;

/// A file as the plugin writes it.
class Words {
 public:
  Words& put(u64 word) {
    words.push_back(word);
    return *this;
  }
  Words& text(const std::string& s) {
    const std::size_t at = words.size();
    words.resize(at + words_of(s.size()));
    if (!s.empty()) std::memcpy(&words[at], s.data(), s.size());
    return *this;
  }
  Words& header(u64 pid, u64 tid, Start start, u64 code, u64 time, const std::string& command) {
    put(kLogMagic).put(pid | tid << 32).put(static_cast<u64>(start)).put(code).put(time).put(0);
    return put(command.size()).text(command);
  }
  Words& execute(u64 block) { return put(u64{1} << kWordShift | block); }
  Words& load(u64 insn, u64 address) { return access(2, insn, address); }
  Words& store(u64 insn, u64 address) { return access(3, insn, address); }
  Words& stamp(u64 time, u64 cpu = 0) {
    return put(static_cast<u64>(Other::Stamp) | cpu << 8).put(time);
  }
  Words& call(u64 number, u64 time, u64 result, std::array<u64, 6> args = {},
              const std::string& name = "", Other kind = Other::Call) {
    put(static_cast<u64>(kind) | u64{name.size()} << 16 | number << 32).put(time).put(result);
    for (const u64 a : args) put(a);
    return text(name);
  }
  std::string bytes() const {
    return {reinterpret_cast<const char*>(words.data()), words.size() * 8};
  }
  std::vector<u64> words;

 private:
  Words& access(u64 kind, u64 insn, u64 address) {  // of 8 bytes
    return put(kind << kWordShift | insn << kInsnShift | u64{3} << kSizeShift | address);
  }
};

/// Two blocks: 1000h with instructions of 2, 3 and 4 bytes, 2000h with one of 1.
std::string code() {
  return Words()
      .put(kCodeMagic)
      .put(0)
      .put(0)
      .put(0)
      .put(kBlockMark | 3)
      .put(0x1000)
      .put(0x432)
      .put(kBlockMark | 1)
      .put(0x2000)
      .put(0x1)
      .bytes();
}

Words program(u64 pid, u64 code_stamp, u64 time) {
  Words w;
  w.header(pid, pid, Start::Exec, code_stamp, time, "prog -x");
  w.call(9, time, 0x1000, {0x1000, 0x2000, 5, 0x32}, "", Other::Image).stamp(time);
  return w;
}

std::string imported(const TestFolder& folder) {
  (void)import_qemu(folder.path(), folder / "t");
  return dump_records(folder, folder / "t");
}

TEST_CASE("qemu: instructions, accesses and calls stand in the order in which they were done") {
  const TestFolder folder("qemu-one");
  folder.write("7.100.code", code());
  Words log = program(7, 100, 200);
  log.execute(0).load(0, 0x9000).store(0, 0x9000).load(2, 0x9008).execute(1);
  log.stamp(300, 1).store(0, 0x9010);  // of the block before the stamp
  log.call(11, 310, 0, {0x9000, 0x1000}).call(12, 320, 0x8000, {0}).call(231, 330, 0, {3});
  folder.write("7.7.200.log", log.bytes());
  CHECK(imported(folder) ==
        "0 - spawn task 0 = 0x7 prog -x\n"
        "1 - switch 0\n"
        "2 0 cpu 0x0 = 0x0\n"
        "3 0 synthesized mmap 0x1000 0x2000 0x5 0x32 0x0 0x0 = 0x1000\n"
        "4 0 instruction 0x1000 2\n"
        "5 0 modify 0x9000 8\n"
        "6 0 instruction 0x1002 3\n"
        "7 0 instruction 0x1005 4\n"
        "8 0 load 0x9008 8\n"
        "9 0 cpu 0x1 = 0x0\n"
        "10 0 instruction 0x2000 1\n"
        "11 0 store 0x9010 8\n"
        "12 0 munmap 0x9000 0x1000 = 0x0\n"
        "13 0 brk 0x0 = 0x8000\n"
        "14 0 exit 0x3 = 0x0\n");
}

/// A shell that forks (or vforks); the child executes another program, which is killed; and a
/// thread.
void write_family(const TestFolder& folder, u64 flags = 0x1200011) {
  folder.write("7.100.code", code());
  folder.write("8.400.code", Words()
                                 .put(kCodeMagic)
                                 .put(7)
                                 .put(100)
                                 .put(1)
                                 .put(kBlockMark | 1)
                                 .put(0x1100)
                                 .put(0x2)
                                 .bytes());
  folder.write("8.500.code", code());
  Words shell = program(7, 100, 200);
  shell.call(56, 390, 8, {flags}).stamp(395).execute(1);
  shell.call(56, 600, 9, {0x10f00}).stamp(610).call(60, 620, 0, {0}).stamp(700);
  folder.write("7.7.200.log", shell.bytes());
  Words child;  // inherits block 0, its block 1 is its own
  child.header(8, 8, Start::Fork, 400, 401, "prog -x").stamp(401).execute(0).execute(1);
  folder.write("8.8.401.log", child.bytes());
  Words next = program(8, 500, 501);
  next.execute(1).stamp(520).execute(1);
  folder.write("8.8.501.log", next.bytes());
  Words thread;
  thread.header(7, 9, Start::Thread, 100, 630, "prog -x").stamp(630).execute(1);
  thread.call(60, 640, 0, {0});
  folder.write("7.9.630.log", thread.bytes());
}

TEST_CASE("qemu: logs of several tasks are put in the order of their times") {
  const TestFolder folder("qemu-family");
  write_family(folder);
  CHECK(imported(folder) ==
        "0 - spawn task 0 = 0x7 prog -x\n"
        "1 - switch 0\n"
        "2 0 cpu 0x0 = 0x0\n"
        "3 0 synthesized mmap 0x1000 0x2000 0x5 0x32 0x0 0x0 = 0x1000\n"
        "4 0 fork task 1 0x1200011 = 0x8\n"
        "5 0 instruction 0x2000 1\n"
        "6 0 switch 1\n"
        "7 1 cpu 0x0 = 0x0\n"
        "8 1 instruction 0x1000 2\n"
        "9 1 instruction 0x1002 3\n"
        "10 1 instruction 0x1005 4\n"
        "11 1 instruction 0x1100 2\n"
        "12 1 exec = 0x0 prog -x\n"
        "13 1 cpu 0x0 = 0x0\n"
        "14 1 synthesized mmap 0x1000 0x2000 0x5 0x32 0x0 0x0 = 0x1000\n"
        "15 1 instruction 0x2000 1\n"
        "16 1 instruction 0x2000 1\n"
        "17 1 synthesized exit 0x0 = 0x0\n"
        "18 - switch 0\n"
        "19 0 thread task 2 0x10f00 = 0x9\n"
        "20 0 switch 2\n"
        "21 2 cpu 0x0 = 0x0\n"
        "22 2 instruction 0x2000 1\n"
        "23 2 exit 0x0 = 0x0\n"
        "24 - switch 0\n"
        "25 0 exit 0x0 = 0x0\n");
}

TEST_CASE("qemu: who makes a child by vfork goes on when that has executed its program or ended") {
  // QEMU makes a fork of it: in the logs the maker, and a thread of it, go on at once.
  const TestFolder folder("qemu-vfork");
  folder.write("7.100.code", code());
  folder.write("8.400.code", Words().put(kCodeMagic).put(7).put(100).put(2).bytes());
  folder.write("8.500.code", code());
  Words maker = program(7, 100, 200);
  maker.execute(1).call(56, 390, 8, {0x4111}).store(0, 0x9000);
  maker.call(11, 410, 0, {0x9000, 0x1000});
  maker.call(58, 600, 9).execute(1).stamp(610).call(231, 700, 0, {0});
  folder.write("7.7.200.log", maker.bytes());
  Words child;
  child.header(8, 8, Start::Fork, 400, 420, "prog -x").stamp(420).execute(1).store(0, 0x9000);
  folder.write("8.8.420.log", child.bytes());
  Words next = program(8, 500, 501);
  next.execute(1).call(231, 800, 0, {0});
  folder.write("8.8.501.log", next.bytes());
  CHECK(imported(folder) ==
        "0 - spawn task 0 = 0x7 prog -x\n"
        "1 - switch 0\n"
        "2 0 cpu 0x0 = 0x0\n"
        "3 0 synthesized mmap 0x1000 0x2000 0x5 0x32 0x0 0x0 = 0x1000\n"
        "4 0 instruction 0x2000 1\n"
        "5 0 vfork task 1 0x4111 = 0x8\n"
        "6 - switch 1\n"
        "7 1 cpu 0x0 = 0x0\n"
        "8 1 instruction 0x2000 1\n"
        "9 1 store 0x9000 8\n"
        "10 1 exec = 0x0 prog -x\n"
        "11 1 cpu 0x0 = 0x0\n"
        "12 1 switch 0\n"
        "13 0 store 0x9000 8\n"
        "14 0 munmap 0x9000 0x1000 = 0x0\n"
        "15 0 switch 1\n"
        "16 1 synthesized mmap 0x1000 0x2000 0x5 0x32 0x0 0x0 = 0x1000\n"
        "17 1 instruction 0x2000 1\n"
        "18 1 switch 0\n"
        "19 0 vfork task 2 0x4100 = 0x9\n"
        "20 - switch 1\n"
        "21 1 exit 0x0 = 0x0\n"
        "22 - switch 2\n"  // it was killed before it did anything
        "23 2 synthesized exit 0x0 = 0x0\n"
        "24 - switch 0\n"
        "25 0 instruction 0x2000 1\n"
        "26 0 exit 0x0 = 0x0\n");
}

TEST_CASE("qemu: a child whose maker waits for another one begins when it has been made") {
  // Under QEMU the maker went on at once: it made 9, a thread, and 10, by fork, and executed a
  // program itself before 8 had. None of them begins before what it follows.
  const TestFolder folder("qemu-overtaken");
  folder.write("7.100.code", code());
  folder.write("7.560.code", code());
  folder.write("8.400.code", Words().put(kCodeMagic).put(7).put(100).put(2).bytes());
  folder.write("8.600.code", code());
  folder.write("10.440.code", Words().put(kCodeMagic).put(7).put(100).put(2).bytes());
  Words maker = program(7, 100, 200);
  maker.call(58, 390, 8).call(56, 400, 9, {0x10f00}).call(57, 430, 10).execute(1);
  folder.write("7.7.200.log", maker.bytes());
  folder.write(
      "7.9.410.log",
      Words().header(7, 9, Start::Thread, 100, 410, "prog -x").stamp(411).execute(1).bytes());
  folder.write(
      "10.10.440.log",
      Words().header(10, 10, Start::Fork, 440, 440, "prog -x").stamp(441).execute(1).bytes());
  folder.write("7.7.561.log", program(7, 560, 561).execute(1).call(231, 900, 0, {0}).bytes());
  Words child;
  child.header(8, 8, Start::Fork, 400, 420, "prog -x").stamp(420).execute(1);
  folder.write("8.8.420.log", child.bytes());
  folder.write("8.8.601.log", program(8, 600, 601).call(231, 800, 0, {0}).bytes());
  const std::string all = imported(folder);
  CHECK(contains(all, "4 0 vfork task 1 0x4100 = 0x8\n5 - switch 1\n"));
  CHECK(contains(all, " 1 exec = 0x0 prog -x\n"));
  CHECK(all.find(" 1 exec") < all.find(" 0 thread task 2 0x10f00 = 0x9"));
  CHECK(all.find(" 0 thread") < all.find(" 0 fork task 3 0x0 = 0xa"));
  CHECK(all.find(" 0 fork") < all.find(" 0 exec = 0x0 prog -x"));
  CHECK_FALSE(contains(all, "synthesized spawn"));
  CHECK_FALSE(contains(all, "synthesized thread"));
}

std::string refusal(const TestFolder& folder) {
  try {
    (void)import_qemu(folder.path(), folder / "t");
    (void)trace_info(folder / "t");  // whatever is made can be read
  } catch (const InputError& e) {
    return e.what();
  }
  return "";
}

TEST_CASE("qemu: what is no log is refused with its file and word") {
  const TestFolder folder("qemu-bad");
  CHECK(contains(refusal(folder), "no logs"));
  folder.write("7.7.200.log", "");
  CHECK(contains(refusal(folder), "7.7.200.log: word 0: this is no log"));
  Words log = program(7, 100, 200);
  const std::string whole = log.bytes();
  folder.write("7.7.200.log", whole);
  CHECK(contains(refusal(folder), "7.100.code: cannot be read"));
  folder.write("7.100.code", "1234567");
  CHECK(contains(refusal(folder), "the file ends within a word"));
  folder.write("7.100.code", code());
  CHECK(refusal(folder).empty());
  folder.write("7.7.200.log", Words(log).execute(2).bytes());
  CHECK(contains(refusal(folder), "word 19: block 2 is not known"));
  folder.write("7.7.200.log", Words(log).execute(0).load(3, 0x1000).bytes());
  CHECK(contains(refusal(folder), "an access by no instruction of its block"));
  folder.write("7.7.200.log", Words(log).stamp(100).bytes());
  CHECK(contains(refusal(folder), "time goes back"));
  folder.write("7.7.200.log", whole.substr(0, 100));
  CHECK(contains(refusal(folder), "ends within a word"));
}

TEST_CASE("qemu: truncated and garbled logs are refused or read, never more") {
  const char* const files[] = {"7.7.200.log", "8.8.401.log", "7.9.630.log", "8.400.code",
                               "7.100.code"};
  for (unsigned run = 0; run < 2 * std::size(files); ++run) {
    const char* const name = files[run / 2];
    const TestFolder folder("qemu-garbled");
    write_family(folder, run % 2 == 0 ? 0x1200011 : 0x4111);
    const std::string whole = file_bytes(folder / name);
    for (std::size_t length = 0; length < whole.size(); length += 4) {
      folder.write(name, whole.substr(0, length));
      (void)refusal(folder);
    }
    Random random(5);
    for (int i = 0; i < 300; ++i) {
      std::string bytes = whole;
      bytes[random.below(bytes.size())] ^= static_cast<char>(1u << random.below(8));
      folder.write(name, bytes);
      (void)refusal(folder);
    }
  }
}

}  // namespace
}  // namespace mmuscope
