#include <doctest/doctest.h>

#include "core/error.h"
#include "core/native_pager.h"
#include "core/random.h"
#include "results/experiment.h"
#include "tests/workloads/test_folder.h"
#include "tests/workloads/trace_files.h"
#include "workloads/trace/machine_recorder.h"
#include "workloads/trace/machine_replay.h"

namespace mmuscope {
namespace {

Result run(const std::string& workload, const std::string& pager, unsigned vcpus,
           const std::string& record = "") {
  ExperimentText text;
  text.workload = workload;
  text.pager = pager;
  text.vcpus = vcpus;
  text.record = record;
  const Result result = run_experiment(parse_experiment(text));
  REQUIRE(result.status == "ok");
  return result;
}

void check_same(const Result& a, const Result& b) {
  CHECK(a.accesses == b.accesses);
  for (unsigned v = 0; v < a.vcpus.size(); ++v) {
    CAPTURE(v);
    CHECK(a.vcpus[v].accesses == b.vcpus[v].accesses);
    for (unsigned e = 0; e < kEvents; ++e) {
      CAPTURE(e);
      CHECK(a.vcpus[v].counters[static_cast<Event>(e)] ==
            b.vcpus[v].counters[static_cast<Event>(e)]);
    }
  }
  CHECK(a.gauges.table_bytes_peak == b.gauges.table_bytes_peak);
  CHECK(a.gauges.mmu_unsync == b.gauges.mmu_unsync);
  CHECK(a.gauges.pages_4k == b.gauges.pages_4k);
}

const char* const kPagers[] = {"native", "shadow", "shadow-unsync", "nested"};

TEST_CASE(
    "machine trace: a replay counts what the run counted, under each pager, from any recording") {
  const TestFolder folder("machine");
  const std::string file = (folder / "t").string();
  for (const char* workload : {"fork:operations=3,resident=256k", "switch:processes=3",
                               "ptemod:operations=200", "database:bytes=1m,accesses=5000,threads=3",
                               "churn:bytes=1m", "balloon:bytes=1m,rounds=2"}) {
    for (const unsigned vcpus : {1u, 3u}) {
      for (const char* recorded : {"native", "shadow-unsync"}) {
        (void)run(workload, recorded, vcpus, file);
        for (const char* pager : kPagers) {
          CAPTURE(workload);
          CAPTURE(vcpus);
          CAPTURE(recorded);
          CAPTURE(pager);
          check_same(run("trace:file=" + file, pager, vcpus), run(workload, pager, vcpus));
        }
      }
    }
  }
}

TEST_CASE("machine trace: recording changes no counter") {
  const TestFolder folder("machine-same");
  for (const char* pager : kPagers) {
    check_same(run("fork:operations=3", pager, 2, (folder / "t").string()),
               run("fork:operations=3", pager, 2));
  }
}

/// Replays under a pager; the message of the error that ended it.
std::string replay(const std::filesystem::path& path, const std::string& pager = "native") {
  try {
    ExperimentText text;
    text.workload = "trace:file=" + path.string();
    text.pager = pager;
    const Result result = run_experiment(parse_experiment(text));
    return result.ok() ? "" : result.status;
  } catch (const InputError& e) {
    return e.what();
  }
}

/// A machine with 1 MiB whose tables at 1000h map the first 2 MiB at 0 and nothing else.
class Trace {
 public:
  explicit Trace(const std::filesystem::path& path) : writer(path, info(), 1) {
    const u64 tables[][2] = {{0x1000, 0x2007}, {0x2000, 0x3007}, {0x3000, 0x87}};
    for (const auto& [where, value] : tables) {
      put({MachineOp::Kind::HostWrite, false, 0, where, value, 0});
    }
    put({MachineOp::Kind::Start, false, 0, 0, 0x1000, pack_controls(Controls{})});
  }
  void put(const MachineOp& op) { writer.put(op); }
  MachineTraceWriter writer;

 private:
  static TraceInfo info() {
    TraceInfo info;
    info.machine = true;
    info.vcpus = 1;
    info.memory_bytes = u64{1} << 20;
    return info;
  }
};

TEST_CASE("machine trace: what ends otherwise than recorded names its record") {
  using Kind = MachineOp::Kind;
  const TestFolder folder("machine-misfit");
  const auto error = [&](const MachineOp& op) {
    {
      Trace t(folder / "t");
      t.put(op);
      t.writer.finish();
    }
    return replay(folder / "t");
  };
  CHECK(error({Kind::Load, true, 8, 0x5000, 0, 0}).empty());
  CHECK(contains(error({Kind::Load, true, 8, 0x200000, 0, 0}), "record 4: a guest fault at"));
  CHECK(contains(error({Kind::Load, true, 2, 0x200000, 0, 0}), "record 4: a guest fault"));
  CHECK(error({Kind::Fault, true, 8, 0x200000, 4, 0}).empty());
  CHECK(contains(error({Kind::Fault, true, 8, 0x200000, 5, 0}), "another guest fault"));
  CHECK(contains(error({Kind::Fault, true, 8, 0x5000, 4, 0}), "no guest fault where one"));
  CHECK(contains(error({Kind::Load, true, 8, 0x5ffc, 0, 0}), "record 4: an access that crosses"));
  CHECK(contains(error({Kind::Zero, true, 5000, 0x5000, 0, 0}), "an access of 5000 bytes"));
  // A fault's access moves no more than an access does, also where it does not fault.
  const u64 string = 4;
  const u64 fetch = 2;
  CHECK(contains(error({Kind::Fault, true, 4096, 0x5000, 4, 0}), "an access of 4096 bytes"));
  CHECK(contains(error({Kind::Fault, true, 8, 0x5ffc, 4, 0}), "record 4: an access that crosses"));
  CHECK(contains(error({Kind::Fault, true, 4096, 0x5000, 4, string}), "no guest fault where one"));
  CHECK(contains(error({Kind::Fault, true, 4096, 0x5000, 6, string | 1}), "no guest fault where"));
  CHECK(contains(error({Kind::Fault, true, 4097, 0x5000, 4, string}), "an access of 4097 bytes"));
  CHECK(error({Kind::Fault, true, 8, 0x200ffc, 0x14, fetch}).empty());
  CHECK(contains(error({Kind::Vcpu, false, 0, 0, 1, 0}), "no such vCPU"));
  CHECK(contains(error({Kind::Cr3, false, 0, 0, 0x200000, 0}), "CR3 names no memory"));
  CHECK(contains(error({Kind::HostWrite, false, 0, 0x100000, 0, 0}), "a write beyond memory"));
  CHECK(contains(error({Kind::SendIpi, false, 0, 0, 7, 0}), "an interrupt for no vCPU"));
}

TEST_CASE("machine trace: truncated and garbled files are refused or replayed, never more") {
  const TestFolder folder("machine-garbled");
  {
    Trace t(folder / "t");
    Random random(3);
    for (int i = 0; i < 300; ++i) {
      const u64 va = random.below(0x80000) & ~u64{7};
      t.put({MachineOp::Kind::Store, false, 8, va, random.below(4) == 0 ? random.next() : va, 0});
      if (i % 10 == 0) t.put({MachineOp::Kind::Invlpg, false, 0, va, 0, 0});
    }
    t.writer.finish();
  }
  const std::string whole = file_bytes(folder / "t");
  for (const char* pager : kPagers) CHECK(replay(folder / "t", pager).empty());
  for (std::size_t length = 0; length < whole.size(); length += 7) {
    CHECK(!replay(folder.write("bad", whole.substr(0, length))).empty());
  }
  Random random(4);
  for (int i = 0; i < 200; ++i) {
    std::string bytes = whole;
    bytes[random.below(bytes.size())] ^= static_cast<char>(1u << random.below(8));
    CHECK(!replay(folder.write("bad", bytes)).empty());
  }
}

}  // namespace
}  // namespace mmuscope
