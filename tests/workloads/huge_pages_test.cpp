// Transparent huge pages: when there is one, what splits it, what makes one again.

#include <doctest/doctest.h>

#include "tests/workloads/guest_audit.h"

using namespace mmuscope;

namespace {

constexpr u8 kReadWrite = prot::kRead | prot::kWrite;
constexpr u64 kHuge = page_bytes(PageSize::k2M);
constexpr Gva kAt{0x40000000};

MachineConfig with(HugePages thp) {
  MachineConfig config;
  config.thp = thp;
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
  CHECK(guest.kernel.memory().frames().in_use() ==
        (guest.kernel.memory().huge_zero() ? kEntriesPerTable : 0));
}

/// The entry of the level that maps the address, or 0.
u64 entry_of(Kernel& k, Vcpu& v, Gva va, unsigned level) {
  Gpa table = k.current(v).memory->root;
  for (unsigned l = 4;; --l) {
    const u64 entry = k.machine().host_read(table + 8 * table_index(va, l));
    if (l == level) return entry;
    if (!(entry & x86::kPresent) || (entry & x86::kLarge)) return 0;
    table = Gpa(entry & x86::kAddressMask);
  }
}
bool is_huge(Kernel& k, Vcpu& v, Gva va) { return (entry_of(k, v, va, 2) & x86::kLarge) != 0; }

}  // namespace

TEST_CASE("huge pages come where the policy and the mapping let them") {
  for (const HugePages policy : {HugePages::Never, HugePages::Madvise, HugePages::Always}) {
    Guest guest(with(policy));
    run(guest, {[&](Kernel& k, Vcpu& v) {
          // 2 MBytes, then a page: the second can be no huge page.
          REQUIRE(k.mmap(v, kAt, kHuge + kPageBytes, kReadWrite) == kAt);
          v.store<u64>(kAt + 5 * kPageBytes, 1);
          v.store<u64>(kAt + kHuge, 1);
          CHECK(is_huge(k, v, kAt) == (policy == HugePages::Always));
          CHECK_FALSE(is_huge(k, v, kAt + kHuge));
          REQUIRE(k.mmap(v, kAt + 4 * kHuge, kHuge, kReadWrite) == kAt + 4 * kHuge);
          REQUIRE(k.advise_huge(v, kAt + 4 * kHuge, kHuge, HugeAdvice::Wanted));
          v.store<u64>(kAt + 4 * kHuge, 1);
          CHECK(is_huge(k, v, kAt + 4 * kHuge) == (policy != HugePages::Never));
          REQUIRE(k.mmap(v, kAt + 8 * kHuge, kHuge, kReadWrite) == kAt + 8 * kHuge);
          REQUIRE(k.advise_huge(v, kAt + 8 * kHuge, kHuge, HugeAdvice::Refused));
          v.store<u64>(kAt + 8 * kHuge, 1);
          CHECK_FALSE(is_huge(k, v, kAt + 8 * kHuge));
        }});
  }
}

TEST_CASE("a huge page is one fault, zeroed, and a table kept for its split") {
  Guest guest(with(HugePages::Always));
  run(guest, {[](Kernel& k, Vcpu& v) {
        REQUIRE(k.mmap(v, kAt, 2 * kHuge, kReadWrite) == kAt);
        const u64 frames = k.memory().frames().in_use();
        for (u64 i = 0; i < kEntriesPerTable; ++i) v.store<u64>(kAt + i * kPageBytes, i + 1);
        CHECK(v.counters[Event::GuestPageFault] == 1);
        // Tables of levels 3 and 2, the page, and the spare table.
        CHECK(k.memory().frames().in_use() == frames + 2 + kEntriesPerTable + 1);
        CHECK(v.load(kAt + 8) == 0);
        // Reading first maps the huge page of zeros; the write after it takes one of its own.
        CHECK(v.load(kAt + kHuge) == 0);
        CHECK(pte::frame_of(entry_of(k, v, kAt + kHuge, 2)) == *k.memory().huge_zero());
        v.store<u64>(kAt + kHuge + 24, 5);
        CHECK(is_huge(k, v, kAt + kHuge));
        CHECK((entry_of(k, v, kAt + kHuge, 2) & pte::kSpecial) == 0);
        CHECK(v.load(kAt + kHuge + 24) == 5);
        REQUIRE(k.munmap(v, kAt, 2 * kHuge));
        CHECK(k.memory().frames().in_use() == frames + kEntriesPerTable);
        CHECK(k.statistics().page_flushes == 2);  // by huge pages
      }});
  CHECK(guest.kernel.statistics().huge_faults == 2);
  CHECK(guest.kernel.statistics().huge_splits == 0);
}

TEST_CASE("what touches part of a huge page splits its mapping and loses nothing") {
  const auto fill = [](Kernel& k, Vcpu& v) {
    REQUIRE(k.mmap(v, kAt, kHuge, kReadWrite) == kAt);
    for (u64 i = 0; i < kEntriesPerTable; ++i) v.store<u64>(kAt + i * kPageBytes, i + 1);
    REQUIRE(is_huge(k, v, kAt));
  };
  const auto is_small = [](Kernel& k, Vcpu& v, u64 first, u64 end) {
    CHECK_FALSE(is_huge(k, v, kAt));
    const Gfn frame = pte::frame_of(entry_of(k, v, kAt + first * kPageBytes, 1));
    for (u64 i = first; i < end; ++i) {
      const u64 entry = entry_of(k, v, kAt + i * kPageBytes, 1);
      CHECK(pte::frame_of(entry) == frame + (i - first));
      constexpr u64 kFlags =
          x86::kPresent | x86::kWrite | x86::kUser | x86::kAccessed | x86::kDirty | x86::kNoExec;
      CHECK((entry & ~x86::kAddressMask) == kFlags);
      CHECK(v.load(kAt + i * kPageBytes) == i + 1);
    }
  };
  Guest guest(with(HugePages::Always));
  const KernelStatistics& told = guest.kernel.statistics();
  run(guest, {[&](Kernel& k, Vcpu& v) {
                fill(k, v);
                const u64 frames = k.memory().frames().in_use();
                REQUIRE(k.munmap(v, kAt, 3 * kPageBytes));
                CHECK(told.huge_splits == 1);
                is_small(k, v, 3, kEntriesPerTable);
                // The huge page stays one as long as a part of it is mapped; the spare table is in
                // use.
                CHECK(k.memory().frames().in_use() == frames);
                v.store<u64>(kAt + 5 * kPageBytes, 6);
                CHECK(told.copies == 0);
                REQUIRE(k.munmap(v, kAt, kHuge));
                CHECK(k.memory().frames().in_use() == frames - kEntriesPerTable - 3);
              },
              [&](Kernel& k, Vcpu& v) {
                fill(k, v);
                REQUIRE(k.mprotect(v, kAt + 8 * kPageBytes, kPageBytes, prot::kRead));
                CHECK(told.huge_splits == 2);
                is_small(k, v, 0, 8);
                CHECK((entry_of(k, v, kAt + 8 * kPageBytes, 1) & x86::kWrite) == 0);
                REQUIRE(k.mprotect(v, kAt + 8 * kPageBytes, kPageBytes, kReadWrite));
                is_small(k, v, 0, kEntriesPerTable);
                REQUIRE(k.munmap(v, kAt, kHuge));
              },
              [&](Kernel& k, Vcpu& v) {
                fill(k, v);
                REQUIRE(k.discard(v, kAt + 500 * kPageBytes, 12 * kPageBytes));
                CHECK(told.huge_splits == 3);
                is_small(k, v, 0, 500);
                CHECK(v.load(kAt + 500 * kPageBytes) == 0);
                REQUIRE(k.munmap(v, kAt, kHuge));
              },
              [&](Kernel& k, Vcpu& v) {
                fill(k, v);
                REQUIRE(k.advise_huge(v, kAt, 4 * kPageBytes, HugeAdvice::Refused));
                CHECK(told.huge_splits == 4);
                is_small(k, v, 0, kEntriesPerTable);
                REQUIRE(k.munmap(v, kAt, kHuge));
              },
              [&](Kernel& k, Vcpu& v) {
                fill(k, v);
                // All of it: no split.
                REQUIRE(k.mprotect(v, kAt, kHuge, prot::kRead));
                REQUIRE(k.mprotect(v, kAt, kHuge, kReadWrite));
                CHECK((entry_of(k, v, kAt, 2) & x86::kWrite) != 0);
                CHECK(told.huge_splits == 4);
                REQUIRE(k.munmap(v, kAt, kHuge));
              },
              [&](Kernel& k, Vcpu& v) {
                // The huge page of zeros likewise: what is not protected keeps its rights.
                REQUIRE(k.mmap(v, kAt, kHuge, kReadWrite | prot::kExec) == kAt);
                CHECK(v.load(kAt) == 0);
                REQUIRE(is_huge(k, v, kAt));
                REQUIRE(k.mprotect(v, kAt, 8 * kPageBytes, prot::kRead));
                CHECK(told.huge_splits == 5);
                CHECK((entry_of(k, v, kAt, 1) & x86::kNoExec) != 0);
                CHECK((entry_of(k, v, kAt + 8 * kPageBytes, 1) & x86::kNoExec) == 0);
              }});
}

TEST_CASE("fork shares huge pages, and a write splits the mapping and copies 4 KBytes") {
  Guest guest(with(HugePages::Always));
  const KernelStatistics& told = guest.kernel.statistics();
  u64 in_child = 0;
  run(guest, {[](Kernel& k, Vcpu& v) {
                REQUIRE(k.mmap(v, kAt, kHuge, kReadWrite) == kAt);
                for (u64 i = 0; i < kEntriesPerTable; ++i) v.store<u64>(kAt + i * kPageBytes, i);
              },
              [&](Kernel& k, Vcpu& v) {
                const u64 frames = k.memory().frames().in_use();
                k.fork(v, std::make_unique<Steps>(std::vector<Steps::Step>{[&](Kernel& c, Vcpu& w) {
                         in_child = w.load(kAt + 7 * kPageBytes);
                         w.store<u64>(kAt + 7 * kPageBytes, 70);
                         CHECK_FALSE(is_huge(c, w, kAt));
                         in_child += w.load(kAt + 7 * kPageBytes) + w.load(kAt + 8 * kPageBytes);
                       }}));
                // The child's root, levels 3 and 2, its spare table, its stack.
                CHECK(k.memory().frames().in_use() == frames + 5);
                CHECK(is_huge(k, v, kAt));
                CHECK((entry_of(k, v, kAt, 2) & x86::kWrite) == 0);
                k.wait(v);
              },
              [&](Kernel& k, Vcpu& v) {
                CHECK(v.load(kAt + 7 * kPageBytes) == 7);
                CHECK(told.copies == 1);
                CHECK(told.huge_splits == 1);
                // Nobody else has it any more.
                v.store<u64>(kAt + 7 * kPageBytes, 8);
                CHECK(is_huge(k, v, kAt));
                CHECK(told.reuses == 1);
                CHECK(told.copies == 1);
              }});
  CHECK(in_child == 7 + 70 + 8);
}

TEST_CASE("small pages are collapsed, with what they hold and behind a full flush") {
  Guest guest(with(HugePages::Madvise));
  const KernelStatistics& told = guest.kernel.statistics();
  run(guest, {[&](Kernel& k, Vcpu& v) {
        REQUIRE(k.mmap(v, kAt, kHuge, kReadWrite) == kAt);
        for (u64 i = 0; i < 100; ++i) v.store<u64>(kAt + i * kPageBytes, i + 1);
        CHECK(v.load(kAt + 100 * kPageBytes) == 0);
        CHECK_FALSE(k.collapse(v, kAt, kHuge));  // not wanted
        REQUIRE(k.advise_huge(v, kAt, kHuge, HugeAdvice::Wanted));
        const u64 frames = k.memory().frames().in_use(), flushes = told.full_flushes;
        REQUIRE(k.collapse(v, kAt, kHuge));
        CHECK(is_huge(k, v, kAt));
        CHECK(told.full_flushes == flushes + 1);
        CHECK(k.memory().frames().in_use() == frames - 100 + kEntriesPerTable);
        for (u64 i = 0; i < kEntriesPerTable; ++i) {
          CHECK(v.load(kAt + i * kPageBytes) == (i < 100 ? i + 1 : 0));
        }
        const u64 faults = v.counters[Event::GuestPageFault];
        for (u64 i = 0; i < kEntriesPerTable; ++i) v.store<u64>(kAt + i * kPageBytes, 9);
        CHECK(v.counters[Event::GuestPageFault] == faults);
        CHECK_FALSE(k.collapse(v, kAt, kHuge));  // it is one already
      }});
  CHECK(told.collapses == 1);
}

TEST_CASE("khugepaged looks at eight regions a pass, and goes on where it was") {
  MachineConfig config = with(HugePages::Always);
  config.khugepaged = 1;
  config.memory_bytes = u64{128} << 20;
  Guest guest(config);
  const auto nothing = [](Kernel& k, Vcpu& v) { k.getpid(v); };
  run(guest, {[](Kernel& k, Vcpu& v) {
                REQUIRE(k.mmap(v, kAt, 20 * kHuge, kReadWrite) == kAt);
                // While there is no huge page to have, pages are small.
                REQUIRE(k.advise_huge(v, kAt, 20 * kHuge, HugeAdvice::Refused));
                for (u64 i = 0; i < 20; ++i) v.store<u64>(kAt + i * kHuge, i);
                REQUIRE(k.advise_huge(v, kAt, 20 * kHuge, HugeAdvice::None));
              },
              nothing, nothing, nothing,
              [](Kernel& k, Vcpu& v) {
                CHECK(k.statistics().collapses == 20);
                for (u64 i = 0; i < 20; ++i) CHECK(v.load(kAt + i * kHuge) == i);
              }});
}

TEST_CASE("mremap moves whole tables and huge pages where both addresses are aligned") {
  Guest guest(with(HugePages::Madvise));
  const KernelStatistics& told = guest.kernel.statistics();
  run(guest, {[&](Kernel& k, Vcpu& v) {
                REQUIRE(k.mmap(v, kAt, 2 * kHuge, kReadWrite) == kAt);
                for (u64 i = 0; i < 1024; ++i) v.store<u64>(kAt + i * kPageBytes, i);
                const Gva to = kAt + 8 * kHuge;
                const u64 before = v.counters[Event::Store];
                REQUIRE(k.mremap(v, kAt, 2 * kHuge, 2 * kHuge, to) == to);
                CHECK(told.tables_moved == 2);
                // Two entries out and in, and the kernel's own entry: no store an entry of 1024.
                CHECK(v.counters[Event::Store] - before < 12);
                for (u64 i = 0; i < 1024; ++i) CHECK(v.load(to + i * kPageBytes) == i);
                // By a page less or to where it does not fit: entry by entry.
                REQUIRE(k.mremap(v, to, kHuge, kHuge, kAt + kPageBytes) == kAt + kPageBytes);
                CHECK(told.tables_moved == 2);
                CHECK(v.load(kAt + kPageBytes + 17 * kPageBytes) == 17);
                REQUIRE(k.munmap(v, kAt, 64 * kHuge));
              },
              [&](Kernel& k, Vcpu& v) {
                REQUIRE(k.mmap(v, kAt, kHuge, kReadWrite) == kAt);
                REQUIRE(k.advise_huge(v, kAt, kHuge, HugeAdvice::Wanted));
                v.store<u64>(kAt, 3);
                REQUIRE(k.mremap(v, kAt, kHuge, kHuge, kAt + 4 * kHuge) == kAt + 4 * kHuge);
                CHECK(is_huge(k, v, kAt + 4 * kHuge));
                CHECK(v.load(kAt + 4 * kHuge) == 3);
                CHECK(told.tables_moved == 3);
                // A gigabyte's table.
                constexpr Gva kFar{0x10'0000'0000};
                REQUIRE(k.mmap(v, kFar, u64{1} << 30, kReadWrite) == kFar);
                v.store<u64>(kFar + (5 << 20), 4);
                REQUIRE(k.mremap(v, kFar, u64{1} << 30, u64{1} << 30, kFar + (u64{4} << 30)));
                CHECK(told.tables_moved == 4);
                CHECK(v.load(kFar + (u64{4} << 30) + (5 << 20)) == 4);
                // A huge page to where no huge page can be is moved small.
                REQUIRE(k.mremap(v, kAt + 4 * kHuge, kHuge, kHuge, kAt + kPageBytes));
                CHECK(told.huge_splits == 1);
                CHECK(v.load(kAt + kPageBytes) == 3);
              }});
}

TEST_CASE(
    "without a free huge page memory comes in small ones, and freed blocks become whole again") {
  MachineConfig config = with(HugePages::Always);
  config.memory_bytes = u64{32} << 20;
  Guest guest(config);
  const KernelStatistics& told = guest.kernel.statistics();
  run(guest, {[&](Kernel& k, Vcpu& v) {
        REQUIRE(k.mmap(v, kAt, 16 * kHuge, kReadWrite) == kAt);
        REQUIRE(k.advise_huge(v, kAt, 16 * kHuge, HugeAdvice::Refused));
        const u64 pages = k.memory().frames().free() - 600;
        for (u64 i = 0; i < pages; ++i) v.store<u64>(kAt + i * kPageBytes, i);
        const Gva other = kAt + 64 * kHuge;
        REQUIRE(k.mmap(v, other, kHuge, kReadWrite) == other);
        v.store<u64>(other, 1);
        const u64 fallbacks = told.huge_fallbacks;
        CHECK(fallbacks == (is_huge(k, v, other) ? 0 : 1));
        REQUIRE(k.mmap(v, other + kHuge, kHuge, kReadWrite) == other + kHuge);
        v.store<u64>(other + kHuge, 1);
        CHECK_FALSE(is_huge(k, v, other + kHuge));
        CHECK(told.huge_fallbacks == fallbacks + 1);
        REQUIRE(k.munmap(v, kAt, 16 * kHuge));
        REQUIRE(k.mmap(v, kAt, 4 * kHuge, kReadWrite) == kAt);
        for (u64 i = 0; i < 4; ++i) v.store<u64>(kAt + i * kHuge, i);
        CHECK(told.huge_fallbacks == fallbacks + 1);
      }});
}
