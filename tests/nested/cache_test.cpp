#include <doctest/doctest.h>

#include "tests/nested/rig.h"

using namespace mmuscope;

namespace {

constexpr Gva kVa{0x40'0000'0000};
constexpr u64 kUser = GuestTables::kUserRw | GuestTables::kTouched;
constexpr Gpa kPage{4 << 20};

MachineConfig with(WalkCaches caches, const char* cpu = "cascade-lake") {
  MachineConfig c;
  c.cpu = cpu;
  c.walk_caches = caches;
  return c;
}

/// A guest with `pages` of memory at kVa, all of it touched.
struct Touched : NestedRig {
  explicit Touched(const MachineConfig& config, u64 pages = 2, const std::string& keys = "")
      : NestedRig(config, keys) {
    tables.map_range(root, kVa, kPage, pages * kPageBytes, kUser);
    for (u64 i = 0; i < pages; ++i) vcpu().load(kVa + i * kPageBytes);
  }
  /// The references of a load after everything of this kind was dropped.
  u64 refs_of(Gva va) {
    const Counters before = vcpu().counters;
    vcpu().load(va);
    const Counters d = vcpu().counters - before;
    CHECK(d[Event::Walk] == 1);
    return d[Event::TableRefGuest] + d[Event::TableRefNested];
  }
  void drop_all() { machine.pager().flush(vcpu()); }
};

}  // namespace

TEST_CASE("caches of the second dimension shorten cold walks, and its TLB warm ones") {
  const auto cold = [](WalkCaches caches) {
    Touched t(with(caches));
    t.drop_all();
    return t.refs_of(kVa);
  };
  CHECK(cold(WalkCaches::Off) == 24);
  CHECK(cold(WalkCaches::OneD) == 24);
  // Root table: 4 + 1; the three other tables are under the same PD entry: 1 + 1 each; the page
  // under another: 2 (its PDPT entry is cached).
  CHECK(cold(WalkCaches::TwoD) == 5 + 3 * 2 + 2);
  CHECK(cold(WalkCaches::TwoDTlb) == 13);
  const auto warm = [](WalkCaches caches) {
    Touched t(with(caches));
    t.drop_all();
    t.vcpu().load(kVa);
    return t.refs_of(kVa + kPageBytes);
  };
  CHECK(warm(WalkCaches::Off) == 24);
  CHECK(warm(WalkCaches::OneD) == 1 + 4);
  CHECK(warm(WalkCaches::TwoD) == 1 + 1);
  // The guest's flush keeps what is guest-physical: its tables' addresses need no walk then.
  const auto flushed = [](WalkCaches caches) {
    Touched t(with(caches));
    t.vcpu().write_cr3(t.root.raw());
    return t.refs_of(kVa);
  };
  CHECK(flushed(WalkCaches::OneD) == 24);
  CHECK(flushed(WalkCaches::TwoD) == 4 + 5);
  CHECK(flushed(WalkCaches::TwoDTlb) == 4 + 1);
}

TEST_CASE("a page-entry cache saves steps of both dimensions, and no translation of its own") {
  for (const char* cpu : {"barcelona", "cascade-lake"}) {
    CAPTURE(cpu);
    struct Refs {
      u64 cold, flushed, warm;
    };
    const auto refs = [cpu](WalkCaches caches) {
      MachineConfig config = with(caches, cpu);
      config.walk_cache_kind = WalkCacheKind::Entry;
      Touched t(config);
      t.drop_all();
      const u64 cold = t.refs_of(kVa), warm = t.refs_of(kVa + kPageBytes);
      t.vcpu().write_cr3(t.root.raw());
      return Refs{cold, t.refs_of(kVa), warm};
    };
    const Refs off = refs(WalkCaches::Off);
    CHECK((off.cold == 24 && off.flushed == 24 && off.warm == 24));
    // The guest's three upper entries, each still behind a walk of four.
    const Refs guest = refs(WalkCaches::OneD);
    CHECK((guest.cold == 24 && guest.flushed == 24 && guest.warm == 24 - 3));
    // Every translation reads its level 1 alone; MOV CR3 drops the guest's entries.
    const Refs both = refs(WalkCaches::TwoD);
    CHECK((both.cold == 13 && both.flushed == 4 + 5 && both.warm == 1 + 5));
    const Refs tlb = refs(WalkCaches::TwoDTlb);
    CHECK((tlb.cold == 13 && tlb.flushed == 4 + 1 && tlb.warm == 1 + 1));
  }
}

TEST_CASE("the hits of the second dimension's caches are counted") {
  Touched t(with(WalkCaches::TwoDTlb));
  t.vcpu().write_cr3(t.root.raw());
  const Counters before = t.vcpu().counters;
  t.vcpu().load(kVa);
  const Counters d = t.vcpu().counters - before;
  CHECK(d[Event::NestedTlbHit] == 4);
  CHECK(d[Event::NestedCacheHit] == 1);
  CHECK(d[Event::WalkCacheHit] == 0);
}

TEST_CASE(
    "guest-physical mappings outlive INVVPID and INVLPG and not INVEPT, on AMD not the ASID") {
  Touched t(with(WalkCaches::TwoDTlb));
  t.vcpu().invvpid(InvvpidType::Single, 1, {});
  CHECK(t.refs_of(kVa) == 5);
  t.vcpu().invlpg(kVa);
  CHECK(t.refs_of(kVa) == 5);
  t.vcpu().invept(InveptType::Single, 1);
  CHECK(t.refs_of(kVa) == 13);

  Touched amd(with(WalkCaches::TwoDTlb, "zen3"));
  amd.vcpu().invlpga(kVa, 1);
  CHECK(amd.refs_of(kVa) == 5);
  amd.vcpu().tlb_control(TlbControl::FlushAsid, 1);
  CHECK(amd.refs_of(kVa) == 13);
}

TEST_CASE("without VPID every exit drops linear and combined mappings and no guest-physical ones") {
  for (const bool vpid : {true, false}) {
    CAPTURE(vpid);
    MachineConfig config = with(WalkCaches::TwoDTlb);
    config.vpid = vpid;
    Touched t(config);
    t.vcpu().load(kVa);
    t.tables.map(t.root, kVa + (1 << 20), Gpa(8 << 20), kUser);
    t.vcpu().load(kVa + (1 << 20));  // exits once
    const u64 walks = t.count(Event::Walk);
    if (vpid) {
      t.vcpu().load(kVa);
      CHECK(t.count(Event::Walk) == walks);
    } else {
      CHECK(t.refs_of(kVa) <= 2 + 1);  // combined tables anew since the exit, the page not
    }
  }
}

TEST_CASE("a stale guest-physical translation stays until INVEPT") {
  Touched t(with(WalkCaches::TwoDTlb));
  // The hypervisor takes the write right of a guest table and forgets INVEPT.
  const Gpa table = t.tables.entry(t.root, kVa, 1);
  const Hpa where = t.second_entry(table);
  t.machine.memory().write(where, t.machine.memory().read(where) & ~ept::kWrite);
  t.vcpu().write_cr3(t.root.raw());
  const u64 exits = t.count(Event::ExitEptViolation);
  t.vcpu().load(kVa);
  CHECK(t.count(Event::ExitEptViolation) == exits);
  t.drop_all();
  t.vcpu().load(kVa);
  CHECK(t.count(Event::ExitEptViolation) == exits + 1);
}

TEST_CASE("an execute-only page can be fetched, and read or written only by a violation") {
  for (const AccessKind kind : {AccessKind::Read, AccessKind::Write}) {
    Touched t(with(WalkCaches::OneD));
    t.change_second(kPage, ept::kRead | ept::kWrite);
    const u64 exits = t.count(Event::ExitEptViolation);
    t.vcpu().fetch(kVa);
    CHECK(t.count(Event::ExitEptViolation) == exits);
    CHECK(t.vcpu().try_access(kVa, kind, {1, 8}).done);
    CHECK(t.count(Event::ExitEptViolation) == exits + 1);
  }
}

TEST_CASE("a translation smaller than the guest's page is counted as a splinter") {
  const auto splinters = [](PageSize guest, PageSize backing, const char* cpu) {
    MachineConfig config;
    config.cpu = cpu;
    config.memory_bytes = u64{4} << 30;
    config.backing = backing;
    NestedRig rig(config);
    rig.tables.map(rig.root, kVa, Gpa(u64{2} << 30), kUser, guest);
    rig.vcpu().load(kVa);
    return rig.count(Event::TlbSplinter);
  };
  using enum PageSize;
  CHECK(splinters(k4K, k4K, "cascade-lake") == 0);
  CHECK(splinters(k4K, k1G, "cascade-lake") == 0);
  CHECK(splinters(k2M, k4K, "cascade-lake") == 1);
  CHECK(splinters(k2M, k2M, "cascade-lake") == 0);
  CHECK(splinters(k1G, k2M, "cascade-lake") == 1);
  CHECK(splinters(k1G, k1G, "cascade-lake") == 0);
}
