// Memory that is too small: what is swapped out, and back.

#include <doctest/doctest.h>

#include "core/error.h"
#include "tests/workloads/guest_audit.h"

using namespace mmuscope;

namespace {

constexpr u8 kReadWrite = prot::kRead | prot::kWrite;
constexpr Gva kAt{0x40000000};

MachineConfig small(u64 swap = u64{32} << 20) {
  MachineConfig config;
  config.swap_bytes = swap;
  config.memory_bytes = (u64{24} << 20) + swap;
  return config;
}

void run(Guest& guest, std::vector<Steps::Step> steps) {
  for (auto& step : steps) {
    step = [inner = std::move(step)](Kernel& k, Vcpu& v) {
      inner(k, v);
      audit(k);
    };
  }
  guest.kernel.spawn("steps", std::make_unique<Steps>(std::move(steps)));
  guest.kernel.run();
  audit(guest.kernel);
  CHECK(guest.kernel.memory().frames().in_use() == 0);
  CHECK(guest.kernel.memory().reclaim().slots_in_use() == 0);
}

}  // namespace

TEST_CASE("reclaim: a guest that needs more memory than it has keeps all its values") {
  Guest guest(small());
  constexpr u64 kPages = 8192;  // 32 MiB in 24
  run(guest, {[](Kernel& k, Vcpu& v) {
                REQUIRE(k.mmap(v, kAt, kPages * kPageBytes, kReadWrite) == kAt);
                for (u64 i = 0; i < kPages; ++i) v.store<u64>(kAt + i * kPageBytes, i + 1);
              },
              [](Kernel&, Vcpu& v) {
                for (u64 i = 0; i < kPages; ++i) REQUIRE(v.load(kAt + i * kPageBytes) == i + 1);
              }});
  const KernelStatistics& told = guest.kernel.statistics();
  CHECK(told.swapped_out > 2 * 2048);
  CHECK(told.swapped_in > 2048);
  // Each fault is a first touch or a page that comes back.
  CHECK(guest.machine.counters()[Event::GuestPageFault] == kPages + told.swapped_in);
}

TEST_CASE("reclaim: huge pages are split when they are not used, and keep their values") {
  MachineConfig config = small(u64{64} << 20);
  config.thp = HugePages::Always;
  Guest guest(config);
  constexpr u64 kPages = 12288;  // 48 MiB in 24
  run(guest, {[](Kernel& k, Vcpu& v) {
                REQUIRE(k.mmap(v, kAt, kPages * kPageBytes, kReadWrite) == kAt);
                for (u64 i = 0; i < kPages; ++i) v.store<u64>(kAt + i * kPageBytes, i + 1);
                CHECK(k.statistics().huge_faults >= 8);
                CHECK(k.statistics().huge_unused >= 8);
              },
              [](Kernel&, Vcpu& v) {
                for (u64 i = 0; i < kPages; ++i) REQUIRE(v.load(kAt + i * kPageBytes) == i + 1);
              },
              [](Kernel&, Vcpu& v) {
                for (u64 i = 0; i < kPages; i += 3) v.store<u64>(kAt + i * kPageBytes, i + 2);
                for (u64 i = 0; i < kPages; ++i) {
                  REQUIRE(v.load(kAt + i * kPageBytes) == i + (i % 3 == 0 ? 2 : 1));
                }
              }});
  CHECK(guest.kernel.statistics().swapped_out > 4 * 2048);
}

TEST_CASE("reclaim: what is used stays, by its accessed bits") {
  Guest guest(small(u64{64} << 20));
  run(guest, {[](Kernel& k, Vcpu& v) {
        constexpr u64 kPages = 16384;
        REQUIRE(k.mmap(v, kAt, kPages * kPageBytes, kReadWrite) == kAt);
        for (u64 i = 0; i < 64; ++i) v.store<u64>(kAt + i * kPageBytes, i);
        // Each of the first 64 pages is used again and again while the rest streams through.
        const auto stream = [&v](u64 from, u64 to) {
          const u64 before = v.counters[Event::GuestPageFault];
          for (u64 i = from; i < to; ++i) {
            v.store<u64>(kAt + i * kPageBytes, i);
            v.load(kAt + i % 64 * kPageBytes);
          }
          return v.counters[Event::GuestPageFault] - before - (to - from);
        };
        // The first time round everything was used, so that the first in line go; not later.
        (void)stream(64, 6000);
        CHECK(k.statistics().swapped_out > 1000);
        CHECK(stream(6000, 16000) < 70);
      }});
}

TEST_CASE("reclaim: a shared page is swapped out for all, and comes back to each") {
  Guest guest(small());
  u64 in_child = 0;
  run(guest, {[](Kernel& k, Vcpu& v) {
                REQUIRE(k.mmap(v, kAt, 1000 * kPageBytes, kReadWrite) == kAt);
                for (u64 i = 0; i < 1000; ++i) v.store<u64>(kAt + i * kPageBytes, i + 1);
              },
              [&](Kernel& k, Vcpu& v) {
                k.fork(v, std::make_unique<Steps>(std::vector<Steps::Step>{
                              [](Kernel& c, Vcpu& w) {
                                const Gva more = kAt + (1 << 28);
                                REQUIRE(c.mmap(w, more, 6000 * kPageBytes, kReadWrite) == more);
                                for (u64 i = 0; i < 6000; ++i) {
                                  w.store<u64>(more + i * kPageBytes, i);
                                }
                              },
                              [&](Kernel& c, Vcpu& w) {
                                CHECK(c.memory().reclaim().slots_in_use() >= 1000);
                                for (u64 i = 0; i < 1000; ++i) {
                                  in_child += w.load(kAt + i * kPageBytes);
                                }
                                w.store<u64>(kAt, 5000);
                              }}));
                k.wait(v);
              },
              [](Kernel& k, Vcpu& v) {
                for (u64 i = 0; i < 1000; ++i) REQUIRE(v.load(kAt + i * kPageBytes) == i + 1);
                REQUIRE(k.mprotect(v, kAt, 1000 * kPageBytes, prot::kNone));
                REQUIRE(k.mprotect(v, kAt, 1000 * kPageBytes, kReadWrite));
                for (u64 i = 0; i < 1000; ++i) REQUIRE(v.load(kAt + i * kPageBytes) == i + 1);
              }});
  CHECK(in_child == 1000 * 1001 / 2);
}

TEST_CASE("reclaim: without room in swap the guest is out of memory") {
  Guest guest(small(u64{1} << 20));
  guest.kernel.spawn("steps",
                     std::make_unique<Steps>(std::vector<Steps::Step>{[](Kernel& k, Vcpu& v) {
                       REQUIRE(k.mmap(v, kAt, 8192 * kPageBytes, kReadWrite) == kAt);
                       for (u64 i = 0; i < 8192; ++i) {
                         v.store<u64>(kAt + i * kPageBytes, i);
                       }
                     }}));
  CHECK_THROWS_AS(guest.kernel.run(), RunError);
  CHECK(guest.kernel.memory().reclaim().slots_in_use() == 256);
}
