#include "workloads/synthetic/synthetic.h"

#include <doctest/doctest.h>

#include <cmath>
#include <fstream>
#include <functional>

#include "core/error.h"
#include "core/native_pager.h"
#include "tests/workloads/guest_audit.h"
#include "workloads/synthetic/patterns.h"

using namespace mmuscope;

namespace {

const WorkloadInfo& info(std::string_view name) {
  for (const WorkloadInfo& w : workload_catalog()) {
    if (w.name == name) return w;
  }
  throw std::logic_error("no such workload");
}

struct Ran {
  Counters counters;
  u64 accesses = 0;
  u64 loads() const { return accesses - counters[Event::Store]; }
  friend bool operator==(const Ran&, const Ran&) = default;
};

Ran run(std::string_view name, std::string_view list, unsigned vcpus = 1, u64 seed = 1,
        ProcessListener* listener = nullptr,
        const std::function<void(MachineConfig&)>& change = nullptr) {
  CAPTURE(name);
  CAPTURE(list);
  Params params("workload " + std::string(name), info(name).params);
  params.set_list(list);
  const auto workload = info(name).make(params, seed);
  MachineConfig config;
  config.memory_bytes = workload->memory_bytes();
  config.virtualized = false;
  config.vcpus = vcpus;
  if (change) change(config);
  Machine machine(config, [](Machine& m) { return make_native_pager(m); });
  workload->run(machine, listener);
  return {machine.counters(), machine.accesses()};
}

/// What `more` adds to what `less` does.
Ran difference(const Ran& more, const Ran& less) {
  return {more.counters - less.counters, more.accesses - less.accesses};
}

/// Of a system call, or of a slice's end: stores to two stacks on entry; on entry two fetches, on
/// exit a load and a fetch.
constexpr u64 kCallStores = 2, kCallReads = 4;

}  // namespace

TEST_CASE("touch makes the accesses and the faults it says") {
  const char* const once = "pattern=sequential,bytes=1m,accesses=131072,stores=0,slice=1000000";
  const char* const twice = "pattern=sequential,bytes=1m,accesses=262144,stores=0,slice=1000000";
  const Ran loads = run("touch", once);
  CHECK(loads.counters[Event::GuestPageFault] == 256);
  CHECK(difference(run("touch", twice), loads).accesses == 131072);
  const Ran half = run("touch", "pattern=sequential,bytes=1m,accesses=131072,stores=0.5");
  // Every page is read first, the zero page, and written next.
  CHECK(half.counters[Event::GuestPageFault] == 512);
  const Ran populated =
      run("touch", "pattern=strided,stride=4k,bytes=1m,accesses=1000,stores=0.25,populate=on");
  CHECK(populated.counters[Event::GuestPageFault] == 256);
  const Ran none = run("touch",
                       "pattern=strided,stride=4k,bytes=1m,accesses=2000,stores=0.25,"
                       "populate=on");
  CHECK(difference(none, populated).accesses == 1000);
  CHECK(difference(none, populated).counters[Event::Store] == 250);
  CHECK(run("touch", "bytes=8m,guest-page=2m,stores=1,populate=on,accesses=100")
            .counters[Event::GuestPageFault] == 4);
}

TEST_CASE("churn faults once a page and flushes once a block") {
  const Ran one = run("churn", "bytes=4m,block=1m"), two = run("churn", "bytes=8m,block=1m");
  const Ran more = difference(two, one);
  CHECK(more.counters[Event::GuestPageFault] == 1024);
  CHECK(more.counters[Event::Walk] == 2 * 1024);  // the fault and the access after it
  // A page: the store that faults and the one that does not, two on the kernel's stacks, the frame
  // zeroed, the entry set and cleared, the page struct written twice. A block, alone in the address
  // space: three tables zeroed, linked and unlinked, their page structs written twice; the kernel
  // entered for two calls and the end of the slice.
  CHECK(more.counters[Event::Store] == 9 * 1024 + 4 * (3 * 5 + 3 * 2));
  const Ran small =
      difference(run("churn", "bytes=256k,block=128k"), run("churn", "bytes=128k,block=128k"));
  CHECK(small.counters[Event::GuestPageFault] == 32);
}

TEST_CASE("fork copies what is written and reuses what is left") {
  const Ran ten = run("fork", "operations=10,resident=256k,writes=3");
  const Ran more = difference(run("fork", "operations=15,resident=256k,writes=3"), ten);
  // Child: 3 pages copied. Parent afterwards: 3 pages reused, but 64 - 3 shared with nobody either.
  CHECK(more.counters[Event::GuestPageFault] == 5 * 6);
  // At the first fork all 64 pages are writable, at the later ones the 3 that were reused.
  const Ran first = difference(run("fork", "operations=2,resident=256k,writes=3"),
                               run("fork", "operations=1,resident=256k,writes=3"));
  CHECK(first.counters[Event::Store] * 5 == more.counters[Event::Store]);
}

TEST_CASE("ptemod changes one entry an operation") {
  const Ran some = run("ptemod", "operations=1000,pages=16,slice=10000");
  const Ran more = difference(run("ptemod", "operations=3000,pages=16,slice=10000"), some);
  CHECK(more.counters[Event::Store] == (1 + kCallStores) * 2000);
  CHECK(more.loads() == (4 + kCallReads) * 2000);
  CHECK(more.counters[Event::Walk] == 0);
  const Ran protect = difference(run("ptemod", "operations=3000,pages=16,op=protect,slice=10000"),
                                 run("ptemod", "operations=1000,pages=16,op=protect,slice=10000"));
  CHECK(protect.counters[Event::Store] == (2 + kCallStores) * 2000);
}

TEST_CASE("switch walks its working set again in every slice, unless tags keep it") {
  for (const bool pcid : {false, true}) {
    CAPTURE(pcid);
    const auto with = [pcid](MachineConfig& c) { c.pcid = pcid; };
    const Ran more =
        difference(run("switch", "slices=60,pages=8,processes=3", 1, 1, nullptr, with),
                   run("switch", "slices=50,pages=8,processes=3", 1, 1, nullptr, with));
    CHECK(more.accesses == 10 * 3 * (8 + kCallStores + kCallReads));
    CHECK(more.counters[Event::Walk] == (pcid ? 0 : 10 * 3 * 8));
    CHECK(more.counters[Event::GuestPageFault] == 0);
  }
  // Six tags: a seventh process takes one away.
  const Ran six = difference(run("switch", "slices=60,pages=8,processes=6"),
                             run("switch", "slices=50,pages=8,processes=6"));
  CHECK(six.counters[Event::Walk] == 0);
  const Ran seven = difference(run("switch", "slices=60,pages=8,processes=7"),
                               run("switch", "slices=50,pages=8,processes=7"));
  CHECK(seven.counters[Event::Walk] == 10 * 7 * 8);
}

TEST_CASE("database loads its tables first and does not fault afterwards") {
  const Ran some = run("database", "bytes=2m,accesses=1000");
  CHECK(some.counters[Event::GuestPageFault] == 512);
  const Ran more = difference(run("database", "bytes=2m,accesses=9000"), some);
  CHECK(more.accesses == 8000);
  CHECK(more.counters[Event::Store] == 400);
  CHECK(more.counters[Event::GuestPageFault] == 0);
}

TEST_CASE("the Zipf ranks are as popular as the law says") {
  constexpr u64 kRanks = 5000, kDraws = 2000000;
  for (const double skew : {0.0, 0.5, 1.0, 1.5}) {
    const ZipfRanks ranks(kRanks, skew);
    Random random(3);
    std::vector<u64> drawn(kRanks);
    for (u64 i = 0; i < kDraws; ++i) {
      const u64 first = random.next(), second = random.next();
      ++drawn.at(ranks.draw(first, second));
    }
    double sum = 0;
    for (u64 r = 1; r <= kRanks; ++r) sum += std::pow(static_cast<double>(r), -skew);
    u64 counted = 0;
    double expected = 0;
    for (u64 r = 1; r <= kRanks; ++r) {
      counted += drawn[r - 1];
      expected += std::pow(static_cast<double>(r), -skew) / sum * kDraws;
      if (r < 40 || r % 500 == 0) {
        const double allowed = 0.01 * expected + 5 * std::sqrt(expected);
        CHECK(std::abs(static_cast<double>(counted) - expected) < allowed);
      }
    }
  }
}

TEST_CASE("the Zipf pattern reaches every page and nothing else") {
  for (const u64 pages : {u64{1}, u64{3}, u64{64}, u64{100}}) {
    ZipfPattern pattern(pages * kPageBytes, 0.5, 1);
    std::vector<bool> seen(pages);
    for (u64 i = 0; i < 20000; ++i) {
      const u64 at = pattern.next();
      CHECK(at % 8 == 0);
      REQUIRE(at / kPageBytes < pages);
      seen[at / kPageBytes] = true;
    }
    for (const bool s : seen) CHECK(s);
  }
}

TEST_CASE("every synthetic workload is the same run for the same seed, on any number of vCPUs") {
  const struct {
    const char* name;
    const char* list;
    bool seeded;
  } cases[] = {
      {"touch", "bytes=256k,accesses=5000,processes=3,slice=700", true},
      {"touch", "bytes=256k,accesses=5000,processes=3,pattern=zipf,slice=700", true},
      {"churn", "bytes=1m,block=256k,processes=2,threads=3", false},
      {"fork", "operations=5,resident=128k,processes=3", false},
      {"ptemod", "operations=500,pages=40,processes=3,op=protect,slice=30", true},
      {"switch", "slices=20,pages=4", false},
      {"database", "bytes=256k,accesses=3000,processes=2,threads=3,slice=500", true},
  };
  for (const auto& c : cases) {
    for (const unsigned vcpus : {1u, 4u}) {
      CAPTURE(c.list);
      const Ran first = run(c.name, c.list, vcpus, 5);
      CHECK(first == run(c.name, c.list, vcpus, 5));
      if (c.seeded) CHECK_FALSE(first == run(c.name, c.list, vcpus, 6));
    }
  }
}

TEST_CASE("threads on other vCPUs are interrupted for flushes") {
  CHECK(run("churn", "bytes=1m,block=256k,threads=1", 4).counters[Event::Ipi] == 0);
  const Ran ran = run("churn", "bytes=1m,block=256k,threads=4", 4);
  CHECK(ran.counters[Event::GuestPageFault] == 4 * 256);
  // Each of 16 munmaps interrupts the others that still run, at most 3; thread starts add 3.
  CHECK(ran.counters[Event::Ipi] > 16);
  CHECK(ran.counters[Event::Ipi] <= 16 * 3 + 2 * 3);
}

namespace {

struct Recorder final : ProcessListener {
  void on_sample(Machine&, std::span<const ProcessView> alive, const ProcessView* leaving,
                 u64 tables) override {
    most_alive = std::max(most_alive, alive.size());
    u64 own = 0;
    for (const ProcessView& p : alive) own += p.guest_table_pages;
    CHECK(tables > own);
    if (leaving == nullptr) {
      ++others;
      return;
    }
    CHECK(leaving >= &alive.front());
    CHECK(leaving <= &alive.back());
    REQUIRE(leaving->roots.size() == 1);
    ++exits;
    faults += leaving->counters[Event::GuestPageFault];
  }
  std::size_t most_alive = 0;
  u64 exits = 0, others = 0, faults = 0;
};

}  // namespace

TEST_CASE("the listener hears of every exit, and what happened is given to someone") {
  for (const unsigned vcpus : {1u, 3u}) {
    Recorder heard;
    const Ran ran = run("fork", "operations=4,resident=64k,processes=2", vcpus, 1, &heard);
    CHECK(heard.exits == 2 + 2 * 4);
    CHECK(heard.others == 1);
    CHECK(heard.faults == ran.counters[Event::GuestPageFault]);
    CHECK(heard.most_alive >= 3);
  }
}

TEST_CASE("a workload with too little memory ends with an error") {
  CHECK_THROWS_AS(run("touch", "bytes=64m,stores=1,pattern=strided,memory=32m"), RunError);
  CHECK_THROWS_AS(run("fork", "resident=8m,memory=8m,processes=2", 2), RunError);
}

TEST_CASE("a guest of 1 TiB costs what it touches") {
  const auto resident = [] {
    std::ifstream file("/proc/self/statm");
    u64 size = 0, pages = 0;
    file >> size >> pages;
    return pages * kPageBytes;
  };
  const u64 before = resident();
  const Ran ran =
      run("touch", "bytes=1t,pattern=strided,stride=1g,accesses=3000,guest-page=2m,stores=1");
  CHECK(ran.counters[Event::GuestPageFault] == 1024);
  CHECK(resident() < before + (u64{128} << 20));
}
