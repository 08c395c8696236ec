#include <doctest/doctest.h>

#include "tests/nested/rig.h"

using namespace mmuscope;

namespace {

constexpr Gva kVa{0x40'0000'0000};
constexpr Gpa kPage{4 << 20};
constexpr u64 kUser = GuestTables::kUserRw | GuestTables::kTouched;
constexpr u64 kPages = 2048;  // with their tables in less than 16 MiB

/// A guest that has touched all of its pages.
struct Logged : NestedRig {
  Logged(const std::string& keys, PageSize backing, u64 pages = kPages)
      : NestedRig(config(backing), keys) {
    tables.map_range(root, kVa, kPage, pages * kPageBytes, kUser);
    for (u64 i = 0; i < pages; ++i) vcpu().store(kVa + i * kPageBytes, i);
  }
  static MachineConfig config(PageSize backing) {
    MachineConfig c;
    c.memory_bytes = 64 << 20;
    c.backing = backing;
    return c;
  }
  void write(u64 pages) {
    for (u64 i = 0; i < pages; ++i) vcpu().store(kVa + i * kPageBytes, i + 1);
  }
  Pager& pager() { return machine.pager(); }
};

}  // namespace

TEST_CASE("the dirty log names what was written since the last harvest, however it is kept") {
  for (const char* keys : {"pml=on", "pml=off", "ad=off", "format=npt"}) {
    for (const PageSize backing : {PageSize::k4K, PageSize::k2M}) {
      CAPTURE(keys);
      Logged t(keys, backing);
      t.pager().log_dirty(true);
      CHECK(t.pager().harvest_dirty() == 0);
      t.write(100);
      t.write(100);
      const u64 first = t.pager().harvest_dirty();
      // The walker writes guest tables too, but for EPT without its flags.
      const u64 tables = std::string(keys) == "ad=off" ? 0 : 4;
      CHECK(first == 100 + tables);
      CHECK(t.pager().harvest_dirty() == 0);
      for (u64 i = 0; i < kPages; ++i) t.vcpu().load(kVa + i * kPageBytes);
      CHECK(t.pager().harvest_dirty() <= 8);  // tables alone
      t.write(1);
      CHECK(t.pager().harvest_dirty() >= 1);
      t.pager().log_dirty(false);
      t.write(100);
      CHECK(t.pager().harvest_dirty() == 0);
    }
  }
}

TEST_CASE("write protection exits once a page and round, the log once in 512 flags") {
  const auto run = [](const char* keys) {
    Logged t(keys, PageSize::k4K);
    t.pager().log_dirty(true);
    const Counters before = t.vcpu().counters;
    u64 dirty = 0;
    for (int round = 0; round < 3; ++round) {
      t.write(kPages);
      dirty += t.pager().harvest_dirty();
    }
    const Counters d = t.vcpu().counters - before;
    return std::pair{dirty, d};
  };
  const auto [protected_dirty, protect] = run("pml=off");
  CHECK(protected_dirty >= 3 * kPages);
  CHECK(protect[Event::ExitEptViolation] == protected_dirty);
  CHECK(protect[Event::PfFast] == protected_dirty);
  CHECK(protect[Event::LockAcquisition] == 0);
  CHECK(protect[Event::ExitPmlFull] == 0);

  const auto [logged_dirty, log] = run("pml=on");
  CHECK(logged_dirty == protected_dirty);
  CHECK(log[Event::ExitEptViolation] == 0);
  CHECK(log[Event::ExitPmlFull] > 0);
  CHECK(log[Event::ExitPmlFull] <= logged_dirty / 512);
}

TEST_CASE("an exit of any kind empties the log") {
  Logged t("pml=on", PageSize::k4K);
  t.pager().log_dirty(true);
  Controls c = t.vcpu().controls();
  for (int i = 0; i < 4; ++i) {
    for (u64 page = 0; page < 400; ++page)
      t.vcpu().store(kVa + (400 * i + page) * kPageBytes, u64{1});
    c.smep = !c.smep;
    t.vcpu().write_controls(c);
  }
  CHECK(t.count(Event::ExitPmlFull) == 0);
  CHECK(t.pager().harvest_dirty() >= 1600);
}

TEST_CASE("large pages are split while writes are logged and come back after it") {
  Logged t("", PageSize::k2M);
  const Gauges before = t.pager().gauges();
  CHECK(before.pages_4k == 0);
  CHECK(before.pages_2m >= 5);
  t.pager().log_dirty(true);
  const Gauges during = t.pager().gauges();
  CHECK(during.pages_2m == 0);
  CHECK(during.pages_4k == before.pages_2m * 512);
  CHECK(during.table_pages == before.table_pages + before.pages_2m);
  CHECK(t.vcpu().load(kVa + 7 * kPageBytes) == 7);
  t.pager().log_dirty(false);
  const Gauges after = t.pager().gauges();
  CHECK(after.pages_2m == before.pages_2m);
  CHECK(after.pages_4k == 0);
  CHECK(after.table_pages == before.table_pages);
  CHECK(after.table_pages == t.machine.memory().tables_in_use());
  CHECK(after.table_bytes_peak == during.table_bytes);
  CHECK(t.vcpu().load(kVa + 7 * kPageBytes) == 7);
}
