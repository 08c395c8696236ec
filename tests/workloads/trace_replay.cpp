#include <doctest/doctest.h>

#include <map>

#include "core/error.h"
#include "core/native_pager.h"
#include "tests/support/paths.h"
#include "tests/workloads/test_folder.h"
#include "tests/workloads/trace_files.h"
#include "workloads/guest/vma.h"
#include "workloads/trace/reader.h"
#include "workloads/trace/replay.h"
#include "workloads/trace/tools.h"
#include "workloads/trace/writer.h"

namespace mmuscope {
namespace {

constexpr u64 kMemory = u64{64} << 20;

/// What user mode did, as text: "L1000=2a" is a load of 2ah at 1000h.
class UserAccesses final : public AccessObserver {
 public:
  void on_access(Vcpu& vcpu, const Seen& seen) override {
    if (!seen.access.is_user() || !seen.done) return;
    ++count;
    if (!keep) return;
    const bool fetch = seen.access.is_fetch();
    const u64 value = fetch ? 0 : seen.access.is_write() ? seen.op.value : seen.loaded;
    char line[48];
    std::snprintf(
        line, sizeof line, " %c%llx=%llx", fetch ? 'F' : (seen.access.is_write() ? 'S' : 'L'),
        static_cast<unsigned long long>(seen.va.raw()), static_cast<unsigned long long>(value));
    text[vcpu.index()] += line;
  }
  bool keep = true;
  u64 count = 0;
  std::map<unsigned, std::string> text;  ///< by vCPU
};

struct Run {
  UserAccesses user;
  Counters counters;
  std::string error;
};

void replay(const std::filesystem::path& path, Run& run, unsigned vcpus = 1,
            HugePages thp = HugePages::Never) {
  MachineConfig config;
  config.thp = thp;
  config.memory_bytes = kMemory;
  config.virtualized = false;
  config.vcpus = vcpus;
  Machine machine(config, make_native_pager);
  for (unsigned i = 0; i < vcpus; ++i) machine.vcpu(i).set_observer(&run.user);
  try {
    TraceReplay(path, {kMemory, 0, Placement::RoundRobin}).run(machine, nullptr);
  } catch (const RunError& e) {
    run.error = e.what();
  }
  run.counters = machine.counters();
}

Call map(u64 start, u64 bytes, u64 rights, const std::string& file = "", u64 offset = 0) {
  return {CallKind::Map, false, 0, {start, bytes, rights, file.empty() ? 0x32u : 0x12u, 0, offset},
          start,         file};
}

Call simple(CallKind kind, std::array<u64, 6> args = {}, u64 result = 0, u32 process = 0) {
  return {kind, false, process, args, result, kind == CallKind::Exec ? "/bin/prog -x" : ""};
}

/// A writer with process 0 running.
class Trace {
 public:
  explicit Trace(const std::filesystem::path& path) : writer(path, {"p", "r", "nothing", {}}, 1) {
    writer.call(simple(CallKind::Spawn));
    writer.switch_to(0);
  }
  TraceWriter writer;
  void load(u64 address, u32 size = 1) { writer.access(RecordKind::Load, address, size); }
  void store(u64 address, u32 size = 1) { writer.access(RecordKind::Store, address, size); }
};

constexpr u64 kReadWrite = prot::kRead | prot::kWrite;

TEST_CASE("replay: each kind of record is the accesses that it says") {
  const TestFolder folder("kinds");
  {
    Trace t(folder / "t");
    t.writer.call(map(0x10000, 0x3000, kReadWrite | prot::kExec));  // record 2
    t.writer.access(RecordKind::Instruction, 0x10ffe, 2);           // 3: up to the end
    t.writer.access(RecordKind::Instruction, 0x10fff, 2);           // 4: crosses
    t.writer.access(RecordKind::Load, 0x10008, 8);                  // 5
    t.writer.access(RecordKind::Store, 0x10ffc, 8);                 // 6: crosses
    t.writer.access(RecordKind::Load, 0x10ffc, 4);                  // 7: what 6 wrote
    t.writer.access(RecordKind::Modify, 0x11ff0, 32);               // 8: crosses
    t.writer.access(RecordKind::Load, 0x11800, 2049);               // 9: crosses
    t.writer.call(simple(CallKind::Exit));
    t.writer.finish();
  }
  Run run;
  replay(folder / "t", run);
  CHECK(run.error.empty());
  CHECK(run.user.text[0] ==
        " F10ffe=0 F10fff=0 F11000=0 L10008=0 S10ffc=6 S11000=6 L10ffc=6 L11ff0=0 L12000=0 "
        "S11ff0=8 S12000=8 L11800=0 L12000=8");
}

TEST_CASE("replay: calls act on memory as they did") {
  const TestFolder folder("calls");
  {
    Trace t(folder / "t");
    t.writer.call(map(0x10000, 0x2001, kReadWrite));  // 2: three pages
    t.store(0x10000);                                 // 3
    t.store(0x12000);                                 // 4
    t.writer.call(simple(CallKind::Remap, {0x12000, 0x1000, 0x2000, 1}, 0x40000));
    t.load(0x40000);
    t.load(0x41000);
    t.writer.call(simple(CallKind::Remap, {0x40000, 0x2000, 0x3000, 1}, 0x40000));
    t.load(0x42000);
    t.writer.call(simple(CallKind::Break, {0}, 0x80000));
    t.writer.call(simple(CallKind::Break, {0x81000}, 0x81000));
    t.store(0x80008);
    t.writer.call(simple(CallKind::Protect, {0x10000, 1, prot::kRead}));
    t.load(0x10000);
    t.writer.call(simple(CallKind::Unmap, {0x10000, 0x1000}));
    t.writer.call(map(0x10000, 0x1000, prot::kRead));
    t.load(0x10000);
    t.writer.call(simple(CallKind::Exec));
    t.writer.call(map(0x10000, 0x1000, kReadWrite));
    t.load(0x10000);
    t.writer.call(simple(CallKind::Exit));
    t.writer.finish();
  }
  Run run;
  replay(folder / "t", run);
  CHECK(run.error.empty());
  CHECK(run.user.text[0] ==
        " S10000=3 S12000=4 L40000=4 L41000=0 L42000=0 S80008=c L10000=3 L10000=0 L10000=0");
}

TEST_CASE("replay: huge pages come where the program asked for them") {
  const TestFolder folder("huge");
  constexpr u64 kAt = u64{1} << 30, kHuge = page_bytes(PageSize::k2M);
  {
    Trace t(folder / "t");
    t.writer.call(map(kAt, 3 * kHuge, kReadWrite));
    t.writer.call(simple(CallKind::Advise, {kAt, kHuge, 14}));
    t.writer.call(simple(CallKind::Advise, {kAt + kHuge, kHuge, 15}));
    for (u64 i = 0; i < 3 * 8; ++i) t.store(kAt + i / 8 * kHuge + i % 8 * kPageBytes);
    t.writer.call(simple(CallKind::Exit));
    t.writer.finish();
  }
  // A fault a huge page, else one a page.
  const std::pair<HugePages, u64> faults[] = {
      {HugePages::Never, 24}, {HugePages::Madvise, 1 + 16}, {HugePages::Always, 2 + 8}};
  for (const auto& [policy, due] : faults) {
    Run run;
    replay(folder / "t", run, 1, policy);
    CHECK(run.error.empty());
    CHECK(run.counters[Event::GuestPageFault] == due);
  }
}

TEST_CASE("replay: a child of vfork lives in its parent's memory until it executes or exits") {
  const TestFolder folder("vfork");
  {
    Trace t(folder / "t");
    t.writer.call(map(0x10000, 0x2000, kReadWrite));
    t.store(0x10000);  // record 3
    t.writer.call(simple(CallKind::Vfork, {0x4111}, 99, 1));
    t.writer.switch_to(1);
    t.load(0x10000);
    t.store(0x11000);  // 7
    t.writer.call(simple(CallKind::Exec));
    t.writer.call(map(0x10000, 0x1000, kReadWrite));
    t.load(0x10000);
    t.writer.switch_to(0);
    t.load(0x11000);
    t.writer.call(simple(CallKind::Unmap, {0x10000, 0x1000}));
    t.writer.call(simple(CallKind::Vfork, {}, 98, 2));
    t.writer.switch_to(2);
    t.load(0x11000);
    t.writer.call(simple(CallKind::Exit));
    t.writer.switch_to(0);
    t.load(0x11001);
    t.writer.switch_to(1);
    t.store(0x10001);
    t.writer.finish();
  }
  const char* const whole = " S10000=3 L10000=3 S11000=7 L10000=0 L11000=7 L11000=7 L11001=0";
  for (unsigned vcpus = 1; vcpus <= 4; ++vcpus) {
    CAPTURE(vcpus);
    Run run;
    replay(folder / "t", run, vcpus);
    CHECK(run.error.empty());
    CHECK(run.counters[Event::GuestTask] == 2);
    if (vcpus == 1) CHECK(run.user.text[0] == std::string(whole) + " S10001=15");
    if (vcpus == 4) {
      CHECK(run.user.text[0] == " S10000=3 L11000=7 L11001=0");
      CHECK(run.user.text[1] == " L10000=3 S11000=7 L10000=0 S10001=15");
      CHECK(run.user.text[2] == " L11000=7");
    }
  }
}

TEST_CASE("replay: a fork copies, files are shared, a spawned process has nothing") {
  const TestFolder folder("fork");
  {
    Trace t(folder / "t");
    t.writer.call(map(0x10000, 0x1000, kReadWrite));
    t.writer.call(map(0x20000, 0x1000, prot::kRead, "lib", 0x3000));
    t.store(0x10000);  // record 4
    t.load(0x20000);
    t.writer.call(simple(CallKind::Fork, {17}, 99, 1));
    t.writer.switch_to(1);
    t.load(0x10000);
    t.store(0x10001);  // 9
    t.writer.switch_to(0);
    t.load(0x10001);
    t.store(0x10002);  // 12
    t.writer.call(simple(CallKind::Spawn, {}, 98, 2));
    t.writer.switch_to(2);
    t.writer.call(map(0x10000, 0x1000, kReadWrite));
    t.load(0x10000);
    t.writer.call(simple(CallKind::Exit));
    t.writer.switch_to(1);
    t.load(0x10001);
    t.load(0x10002);
    t.writer.call(simple(CallKind::Exit));
    t.writer.finish();  // process 0 lives to the end
  }
  Run run;
  replay(folder / "t", run);
  CHECK(run.error.empty());
  CHECK(run.user.text[0] ==
        " S10000=4 L20000=0 L10000=4 S10001=9 L10001=0 S10002=c L10000=0 L10001=9 L10002=0");
  // On two vCPUs each process's own accesses are the same.
  Run two;
  replay(folder / "t", two, 2);
  CHECK(two.error.empty());
  CHECK(two.user.text[1] == " L10000=4 S10001=9 L10001=9 L10002=0");
  CHECK(two.user.text[0] == " S10000=4 L20000=0 L10001=0 S10002=c L10000=0");
}

TEST_CASE("replay: what does not fit together ends the run and names the record") {
  const TestFolder folder("misfit");
  const auto error = [&](const std::function<void(Trace&)>& fill, unsigned vcpus) {
    {
      Trace t(folder / "t");
      t.writer.call(map(0x10000, 0x1000, prot::kRead));
      fill(t);
      t.writer.finish();
    }
    Run run;
    replay(folder / "t", run, vcpus);
    return run.error;
  };
  for (const unsigned vcpus : {1u, 3u}) {
    CHECK(error([](Trace& t) { t.load(0x10000); }, vcpus).empty());
    CHECK(contains(error([](Trace& t) { t.load(0x11000); }, vcpus),
                   "t: record 4: before it, process 0"));
    CHECK(contains(error([](Trace& t) { t.store(0x10000); }, vcpus), "no mapping permits"));
    CHECK(contains(
        error([](Trace& t) { t.writer.access(RecordKind::Instruction, 0x10000, 1); }, vcpus),
        "no mapping permits"));
    CHECK(contains(error(
                       [](Trace& t) {
                         t.writer.call(simple(CallKind::Protect, {0x10000, 0x2000, 3}));
                       },
                       vcpus),
                   "t: record 3: the guest kernel refuses mprotect of process 0"));
    CHECK(contains(
        error(
            [](Trace& t) {
              t.writer.call(simple(CallKind::Remap, {0x50000, 0x1000, 0x2000, 1}, 0x60000));
            },
            vcpus),
        "refuses mremap"));
    // A dead process's fork never happens, and nobody waits for it.
    CHECK(contains(error(
                       [](Trace& t) {
                         t.load(0x11000);
                         t.writer.call(simple(CallKind::Fork, {17}, 99, 1));
                         t.writer.switch_to(1);
                         t.load(0x10000);
                       },
                       vcpus),
                   "before it, process 0"));
  }
}

TEST_CASE("replay: a trace that is damaged ends the run, one that is none is refused at once") {
  const TestFolder folder("damaged");
  { Trace(folder / "t").writer.finish(); }
  std::string bytes = file_bytes(folder / "t");
  bytes[bytes.size() - 20] ^= 1;
  Run run;
  CHECK_THROWS_AS(replay(folder.write("bad", bytes), run), InputError);
  CHECK_THROWS_AS(TraceReplay(folder.write("none", "x"), {}), InputError);
  Params params("workload trace", trace_params());
  CHECK_THROWS_AS(make_trace_workload(params, 1), InputError);
  params.set("file", (folder / "t").string());
  CHECK(make_trace_workload(params, 1)->memory_bytes() == u64{1} << 30);
}

const std::filesystem::path kShipped =
    std::filesystem::path(source_dir()) / "workloads/trace/recorded/shell-pipeline.mmt";

TEST_CASE("replay: the shipped trace holds what its README says") {
  const TraceSummary summary = trace_info(kShipped);
  CHECK(summary.file_bytes <= 3'000'000);
  CHECK(summary.info.cut == "nothing");
  CHECK(summary.totals.records ==
        std::array<u64, kRecordKinds>{7470184, 1895452, 982424, 33302, 130, 189});
  CHECK(summary.calls == std::array<u64, kCallKinds>{1, 3, 4, 4, 85, 5, 16, 12, 0, 0, 0, 0, 0});
  REQUIRE(summary.processes.size() == 4);
  CHECK(summary.processes[0].name == "sh -c sort\\ words\\ |\\ uniq\\ -c\\ |\\ head\\ -n\\ 5");
  CHECK(summary.processes[1].name == "/usr/bin/sort words");
  CHECK(summary.processes[1].accesses == 8215997);
}

TEST_CASE("replay: all accesses of the shipped trace are made, on one vCPU and on four") {
  u64 expected = 0;
  TraceReader reader(kShipped);
  TraceBlock block;
  while (reader.next(block)) {
    for (const Record& r : block.records) {
      if (r.kind >= RecordKind::Call) continue;
      const u64 pages = ((r.address + r.size - 1) >> kPageShift) - (r.address >> kPageShift) + 1;
      expected += pages * (r.kind == RecordKind::Modify ? 2 : 1);
    }
  }
  for (const unsigned vcpus : {1u, 4u}) {
    Run run;
    run.user.keep = false;
    replay(kShipped, run, vcpus);
    CHECK(run.error.empty());
    CHECK(run.user.count == expected);
  }
}

}  // namespace
}  // namespace mmuscope
