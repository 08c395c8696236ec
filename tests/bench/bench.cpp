// Emulated accesses a second, by what they exercise, under each pager; and the Limit/ loops, which
// are the same work on bare arrays, so that the emulator's cost is a ratio measured in one run.
//
// Loads read guest memory that nobody has written: what is measured is translation, not the
// cache misses of this host on the data.
//   Walk        the paging-structure caches are off: every walk reads every level.
//   TraceDecode, TraceWrite  records a second; Limit/TraceCopy is a plain copy of the decoded ones.
//   WalkCached  the machine as it is by default.

#include <benchmark/benchmark.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "core/random.h"
#include "results/data_file.h"
#include "results/experiment.h"
#include "tests/bench/limit.h"
#include "tests/support/guest_tables.h"
#include "workloads/trace/reader.h"
#include "workloads/trace/writer.h"

namespace mmuscope {
namespace {

constexpr u64 kMiB = u64{1} << 20;
constexpr Gva kData(u64{1} << 39);      // where the guest's data begins
constexpr Gva kTables(u64{255} << 39);  // its page tables, mapped for it to edit
constexpr Gpa kTablesAt(u64{1} << 20);  // where they stand in its memory

struct PagerUnderTest {
  std::string name;
  bool virtualized;
  Machine::MakePager make;
};

/// Every pager of the catalogue, as it is by default.
std::vector<PagerUnderTest> pagers() {
  std::vector<PagerUnderTest> all;
  for (const PagerInfo& info : pager_catalog()) {
    const Params params("pager " + std::string(info.name), info.params());
    all.push_back({std::string(info.name), info.virtualized,
                   [&info, params](Machine& machine) { return info.make(machine, params); }});
  }
  return all;
}

struct GuestShape {
  u64 data_bytes = kMiB;
  bool walk_caches = true;
  unsigned vcpus = 1;
  unsigned processes = 1;  ///< all map the same data
};

/// A machine whose guest maps its data in 4K pages, and nothing ran yet.
class BenchGuest {
 public:
  BenchGuest(const PagerUnderTest& pager, const GuestShape& shape)
      : machine_(config(pager, shape), pager.make), tables_(machine_, kTablesAt) {
    const Gpa data(table_bytes(shape));
    for (unsigned p = 0; p < shape.processes; ++p) {
      roots_.push_back(tables_.new_table());
      tables_.map_range(roots_[p], kData, data, shape.data_bytes, GuestTables::kUserRw);
      tables_.map_range(roots_[p], kTables, Gpa(0), table_bytes(shape), GuestTables::kSupRw,
                        PageSize::k2M);
    }
    for (unsigned i = 0; i < shape.vcpus; ++i) machine_.vcpu(i).set_cr3(roots_[0].raw());
  }

  Machine& machine() { return machine_; }
  Vcpu& vcpu(unsigned i = 0) { return machine_.vcpu(i); }
  Gpa root(unsigned process) const { return roots_[process]; }
  /// Where the guest itself can edit the leaf entry that maps va.
  Gva leaf_entry(Gva va) { return kTables + tables_.entry(roots_[0], va, 1).raw(); }
  void touch_all(u64 bytes) {
    for (u64 at = 0; at < bytes; at += kPageBytes) vcpu().load(kData + at);
  }

 private:
  static u64 table_bytes(const GuestShape& shape) {
    const u64 bytes =
        kTablesAt.raw() + shape.processes * (shape.data_bytes / 512 + 16 * kPageBytes);
    return (bytes + 2 * kMiB - 1) / (2 * kMiB) * (2 * kMiB);
  }
  static MachineConfig config(const PagerUnderTest& pager, const GuestShape& shape) {
    MachineConfig c;
    c.memory_bytes = table_bytes(shape) + shape.data_bytes;
    c.virtualized = pager.virtualized;
    c.walk_caches = shape.walk_caches ? WalkCaches::OneD : WalkCaches::Off;
    c.vcpus = shape.vcpus;
    return c;
  }

  Machine machine_;
  GuestTables tables_;
  std::vector<Gpa> roots_;
};

/// Offsets of 8-byte words in [0, bytes), generated beforehand: in random pages, or in order. A
/// page is always read at the same word: the limit loops read no data at all, and what is compared
/// with them is translation, not this host's cache misses on the pages' contents.
std::vector<u64> random_offsets(u64 count, u64 bytes) {
  Random random(42);
  std::vector<u64> offsets(count);
  for (u64& o : offsets) {
    const u64 page = random.below(bytes / kPageBytes);
    o = page * kPageBytes + page % 64 * 64;
  }
  return offsets;
}
std::vector<u64> sequential_offsets(u64 bytes) {
  std::vector<u64> offsets(bytes / 8);
  for (u64 i = 0; i < offsets.size(); ++i) offsets[i] = i * 8;
  return offsets;
}

/// One access pattern: offsets that are read again and again, each time `advance` further on,
/// within `bytes` of data.
struct Pattern {
  const char* name;
  u64 bytes;
  u64 advance;
  std::vector<u64> offsets;
  bool walk_caches;
};

Pattern sequential() {
  const u64 stretch = 16 * kMiB;
  return {"Sequential", 1024 * kMiB, stretch, sequential_offsets(stretch), true};
}
Pattern hit() {
  const u64 bytes = 48 * kPageBytes;
  return {"Hit", bytes, bytes, random_offsets(1 << 14, bytes), true};
}
Pattern stlb_hit() {
  const u64 bytes = 1000 * kPageBytes;
  return {"StlbHit", bytes, bytes, random_offsets(1 << 16, bytes), true};
}
Pattern random_walk(const char* name, bool walk_caches) {
  const u64 bytes = 1024 * kMiB;
  return {name, bytes, bytes, random_offsets(1 << 20, bytes), walk_caches};
}

/// Calls access(address) for the whole pattern, an iteration a pass over the offsets.
template <class Access>
void replay(benchmark::State& state, const Pattern& p, u64 first, Access&& access) {
  u64 base = 0;
  for (auto _ : state) {
    u64 sum = 0;
    const u64 from = first + base;
    for (const u64 offset : p.offsets) sum += access(from + offset);
    benchmark::DoNotOptimize(sum);
    base = (base + p.advance) % p.bytes;
  }
  state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(p.offsets.size()));
}

void run_loads(benchmark::State& state, const PagerUnderTest& pager, Pattern (*make)()) {
  const Pattern p = make();
  BenchGuest guest(pager, {p.bytes, p.walk_caches});
  guest.touch_all(p.bytes);
  Vcpu& vcpu = guest.vcpu();
  replay(state, p, kData.raw(), [&vcpu](u64 address) { return vcpu.load(Gva(address)); });
}

/// Hit on several vCPUs by turns of the default quantum, each on pages of its own, and in those at
/// lines of its own: the same line of every page would be few sets of this host's caches.
void run_hits(benchmark::State& state, const PagerUnderTest& pager, unsigned vcpus) {
  const Pattern p = hit();
  BenchGuest guest(pager, {vcpus * p.bytes, p.walk_caches, vcpus});
  guest.touch_all(vcpus * p.bytes);
  for (auto _ : state) {
    guest.machine().run([&](Vcpu& vcpu) {
      const u64 first = kData.raw() + vcpu.index() * p.bytes;
      u64 sum = 0;
      const u64 line = vcpu.index() % 64 * 64;
      for (const u64 offset : p.offsets) sum += vcpu.load(Gva(first + (offset ^ line)));
      benchmark::DoNotOptimize(sum);
    });
  }
  state.SetItemsProcessed(state.iterations() * vcpus * static_cast<int64_t>(p.offsets.size()));
}

void run_limit(benchmark::State& state, Pattern (*make)()) {
  const Pattern p = make();
  Limit limit;
  replay(state, p, kData.raw(), [&limit](u64 address) { return limit.access(address); });
}

constexpr Pattern (*kPatterns[])() = {sequential, hit, stlb_hit,
                                      [] { return random_walk("Walk", false); },
                                      [] { return random_walk("WalkCached", true); }};

/// The first touch of each page: on a fresh machine again when all have been touched.
void run_fill(benchmark::State& state, const PagerUnderTest& pager) {
  const u64 bytes = 64 * kMiB;
  auto guest = std::make_unique<BenchGuest>(pager, GuestShape{bytes});
  u64 at = 0;
  for (auto _ : state) {
    if (at == bytes) {
      state.PauseTiming();
      guest = std::make_unique<BenchGuest>(pager, GuestShape{bytes});
      at = 0;
      state.ResumeTiming();
    }
    guest->vcpu().store(kData + at, u64{1});
    at += kPageBytes;
  }
  state.SetItemsProcessed(state.iterations());
}

/// One edit of a leaf entry in use, the INVLPG it requires, and one load through it.
void run_pte_write(benchmark::State& state, const PagerUnderTest& pager) {
  const u64 bytes = 2 * kMiB;
  BenchGuest guest(pager, {bytes});
  guest.touch_all(bytes);
  Vcpu& vcpu = guest.vcpu();
  u64 page = 0;
  for (auto _ : state) {
    const Gva va = kData + page * kPageBytes;
    const Gva entry = guest.leaf_entry(va);
    vcpu.store(entry, vcpu.load(entry) ^ x86::kWrite);
    vcpu.invlpg(va);
    benchmark::DoNotOptimize(vcpu.load(va));
    page = (page + 1) % (bytes / kPageBytes);
  }
  state.SetItemsProcessed(state.iterations());
}

/// MOV to CR3 and one load in each of 16 pages of the process switched to.
void run_context_switch(benchmark::State& state, const PagerUnderTest& pager) {
  const unsigned processes = 8;
  BenchGuest guest(pager, {kMiB, true, 1, processes});
  Vcpu& vcpu = guest.vcpu();
  unsigned next = 0;
  for (auto _ : state) {
    next = (next + 1) % processes;
    vcpu.write_cr3(guest.root(next).raw());
    for (u64 page = 0; page < 16; ++page) {
      benchmark::DoNotOptimize(vcpu.load(kData + page * kPageBytes));
    }
  }
  state.SetItemsProcessed(state.iterations());
}

/// Random loads over 16 MiB by every vCPU in turn, a quantum each.
void run_vcpus(benchmark::State& state, const PagerUnderTest& pager, unsigned vcpus) {
  const u64 bytes = 16 * kMiB;
  const std::vector<u64> offsets = random_offsets(1 << 16, bytes);
  BenchGuest guest(pager, {bytes, true, vcpus});
  for (auto _ : state) {
    guest.machine().run([&offsets](Vcpu& vcpu) {
      u64 sum = 0;
      for (const u64 offset : offsets) sum += vcpu.load(kData + offset);
      benchmark::DoNotOptimize(sum);
    });
  }
  state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(offsets.size() * vcpus));
}

/// A workload of the catalogue as a whole, the making of its machine included.
void run_workload(benchmark::State& state, const PagerUnderTest& pager, const char* workload) {
  ExperimentText text;
  text.workload = workload;
  text.pager = pager.name;
  const Experiment experiment = parse_experiment(text);
  u64 accesses = 0;
  for (auto _ : state) {
    const Result result = run_experiment(experiment);
    if (!result.ok()) return state.SkipWithError(result.status.c_str());
    accesses += result.accesses;
  }
  state.SetItemsProcessed(static_cast<int64_t>(accesses));
}
constexpr const char* kFork = "fork";
constexpr const char* kTrace = "trace:file=workloads/trace/recorded/shell-pipeline.mmt";

constexpr const char* kTraceFile = "workloads/trace/recorded/shell-pipeline.mmt";

/// All records of the recorded trace, decoded and checked.
void run_trace_decode(benchmark::State& state) {
  const std::string file = find_data_file(kTraceFile);
  u64 records = 0;
  for (auto _ : state) {
    TraceReader reader(file);
    TraceBlock block;
    while (reader.next(block)) benchmark::DoNotOptimize(block.records.data());
    records += reader.totals().all();
  }
  state.SetItemsProcessed(static_cast<int64_t>(records));
}

/// The same number of decoded records copied in memory, from one array to another.
void run_trace_copy(benchmark::State& state) {
  TraceReader reader(find_data_file(kTraceFile));
  std::vector<Record> from;
  TraceBlock block;
  while (reader.next(block)) from.insert(from.end(), block.records.begin(), block.records.end());
  std::vector<Record> to(from.size());
  for (auto _ : state) {
    std::memcpy(static_cast<void*>(to.data()), from.data(), from.size() * sizeof(Record));
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(from.size()));
}

/// The same records encoded and written.
void run_trace_write(benchmark::State& state) {
  TraceReader reader(find_data_file(kTraceFile));
  std::vector<Record> records;
  TraceBlock block;
  while (reader.next(block)) {
    for (const Record& r : block.records) {
      if (r.kind < RecordKind::Call) records.push_back(r);
    }
  }
  const std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("mmuscope-bench-" + std::to_string(getpid()));
  for (auto _ : state) {
    TraceWriter writer(path, {}, 1);
    for (const Record& r : records) writer.access(r.kind, r.address, r.size);
    (void)writer.finish();
  }
  std::filesystem::remove(path);
  state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(records.size()));
}

template <class... Args>
void add(const std::string& name, Args&&... args) {
  benchmark::RegisterBenchmark(name.c_str(), std::forward<Args>(args)...)
      ->Unit(benchmark::kMillisecond);
}

void register_all() {
  add("TraceDecode", run_trace_decode);
  add("TraceWrite", run_trace_write);
  add("Limit/TraceCopy", run_trace_copy);
  for (const auto make : kPatterns) {
    const std::string name = make().name;
    if (name != "WalkCached") add("Limit/" + name, run_limit, make);
    for (const PagerUnderTest& pager : pagers())
      add(name + "/" + pager.name, run_loads, pager, make);
  }
  for (const PagerUnderTest& pager : pagers()) {
    add("Fill/" + pager.name, run_fill, pager);
    add("PteWrite/" + pager.name, run_pte_write, pager);
    add("ContextSwitch/" + pager.name, run_context_switch, pager);
    add("Fork/" + pager.name, run_workload, pager, kFork);
    add("TraceReplay/" + pager.name, run_workload, pager, kTrace);
    for (const unsigned n : {1u, 64u}) {
      add("Hit/" + pager.name + "/" + std::to_string(n), run_hits, pager, n);
    }
    for (const unsigned n : {1u, 2u, 4u, 8u}) {
      add("VcpuScaling/" + pager.name + "/" + std::to_string(n), run_vcpus, pager, n);
    }
  }
}

}  // namespace
}  // namespace mmuscope

int main(int argc, char** argv) {
  mmuscope::register_all();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
