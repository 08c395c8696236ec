#include <doctest/doctest.h>

#include "core/error.h"
#include "core/native_pager.h"
#include "nested/ept.h"
#include "tests/nested/rig.h"

using namespace mmuscope;

namespace {

constexpr u64 kGiB = u64{1} << 30;
constexpr Gva kVa{0x40'0000'0000};
constexpr u64 kUser = GuestTables::kUserRw;
constexpr u64 kTouched = GuestTables::kTouched;

MachineConfig config_of(PageSize backing, u64 bytes = 4 * kGiB) {
  MachineConfig c;
  c.memory_bytes = bytes;
  c.backing = backing;
  return c;
}

struct Refs {
  u64 guest, nested;
  u64 sum() const { return guest + nested; }
};

/// What a load at kVa reads when nothing is cached and all memory is backed and mapped.
Refs cold_refs(PageSize guest, PageSize backing, const std::string& keys = "", u8 levels = 4) {
  MachineConfig config = config_of(backing);
  config.guest_levels = levels;
  NestedRig rig(config, keys);
  rig.tables.map(rig.root, kVa, Gpa(2 * kGiB), kUser, guest);
  rig.vcpu().load(kVa);
  rig.vcpu().flush_space();
  const Counters before = rig.vcpu().counters;
  rig.vcpu().load(kVa);
  const Counters d = rig.vcpu().counters - before;
  CHECK(d[Event::Walk] == 1);
  CHECK(d[Event::WalkCacheHit] == 0);
  CHECK(d[Event::ExitEptViolation] == 0);
  return {d[Event::TableRefGuest], d[Event::TableRefNested]};
}

}  // namespace

TEST_CASE("a cold walk reads 24 entries and fewer with large pages") {
  using enum PageSize;
  CHECK(cold_refs(k4K, k4K).guest == 4);
  CHECK(cold_refs(k4K, k4K).nested == 20);
  CHECK(cold_refs(k4K, k4K).sum() == 24);
  CHECK(cold_refs(k4K, k2M).sum() == 19);
  CHECK(cold_refs(k2M, k4K).sum() == 19);
  CHECK(cold_refs(k2M, k2M).sum() == 15);
  CHECK(cold_refs(k4K, k1G).sum() == 14);
  CHECK(cold_refs(k1G, k1G).sum() == 8);
}

TEST_CASE("the walk's length is (g+1)(e+1)-1 in both formats and at every cap") {
  using enum PageSize;
  const char* const caps[] = {"4k", "2m", "1g"};
  for (const PageSize guest : {k4K, k2M, k1G}) {
    for (const PageSize leaf : {k4K, k2M, k1G}) {
      const u64 g = 4 - static_cast<u64>(guest), e = 4 - static_cast<u64>(leaf);
      const std::string page = std::string("page=") + caps[static_cast<unsigned>(leaf)];
      CHECK(cold_refs(guest, k1G, page + ",format=ept").sum() == (g + 1) * (e + 1) - 1);
      CHECK(cold_refs(guest, k1G, page + ",format=ept,ad=off").sum() == (g + 1) * (e + 1) - 1);
      CHECK(cold_refs(guest, k1G, page + ",format=npt").sum() == (g + 1) * (e + 1) - 1);
    }
  }
}

TEST_CASE("five levels in either dimension lengthen the walk") {
  using enum PageSize;
  CHECK(cold_refs(k4K, k4K, "levels=5", 5).sum() == 35);
  CHECK(cold_refs(k4K, k4K, "levels=5,format=npt", 5).sum() == 35);
  CHECK(cold_refs(k4K, k4K, "", 5).sum() == 29);
  CHECK(cold_refs(k4K, k4K, "levels=5").sum() == 29);
  CHECK(cold_refs(k2M, k1G, "levels=5", 5).sum() == 19);
}

TEST_CASE("addresses of the fifth level are translated and cached by their own level") {
  MachineConfig config = config_of(PageSize::k4K);
  config.guest_levels = 5;
  NestedRig rig(config, "levels=5");
  const Gva low{u64{3} << 48}, high = low + (u64{1} << 39);  // one PML5E, two PML4Es
  rig.tables.map(rig.root, low, Gpa(4 << 20), kUser);
  rig.tables.map(rig.root, high, Gpa(5 << 20), kUser);
  rig.vcpu().store(low, u64{7});
  rig.vcpu().store(high, u64{8});
  CHECK(rig.machine.host_read(Gpa(5 << 20)) == 8);
  rig.vcpu().flush_space();
  rig.vcpu().load(low);
  const Counters before = rig.vcpu().counters;
  CHECK(rig.vcpu().load(high) == 8);
  const Counters d = rig.vcpu().counters - before;
  CHECK(d[Event::WalkCacheHit] == 1);
  CHECK(d[Event::TableRefGuest] == 4);  // from the PML4 on
}

TEST_CASE("natively the same walk reads 4 entries") {
  MachineConfig config = config_of(PageSize::k4K);
  config.virtualized = false;
  Machine machine(config, make_native_pager);
  GuestTables tables(machine, Gpa(NestedRig::kTables));
  const Gpa root = tables.new_table();
  tables.map(root, kVa, Gpa(2 * kGiB), kUser);
  machine.vcpu(0).write_cr3(root.raw());
  machine.vcpu(0).load(kVa);
  CHECK(machine.counters()[Event::TableRefGuest] == 4);
}

TEST_CASE("a walk that starts at a cached guest table reads one guest entry") {
  NestedRig rig;
  rig.tables.map_range(rig.root, kVa, Gpa(4 << 20), 2 * kPageBytes, kUser);
  rig.vcpu().load(kVa);
  rig.vcpu().load(kVa + kPageBytes);  // backs the page
  rig.vcpu().flush_space();
  rig.vcpu().load(kVa);
  const Counters before = rig.vcpu().counters;
  rig.vcpu().load(kVa + kPageBytes);
  const Counters d = rig.vcpu().counters - before;
  CHECK(d[Event::WalkCacheHit] == 1);
  CHECK(d[Event::TableRefGuest] == 1);
  CHECK(d[Event::TableRefNested] == 4);  // of the final address alone
}

TEST_CASE("one address makes up to five violations and none once memory is backed") {
  NestedRig rig;
  rig.tables.map(rig.root, kVa, Gpa(4 << 20), kUser);
  rig.vcpu().load(kVa);
  CHECK(rig.count(Event::ExitEptViolation) == 5);
  CHECK(rig.count(Event::PfTaken) == 5);
  CHECK(rig.count(Event::PfFixed) == 5);
  CHECK(rig.count(Event::LockAcquisition) == 5);
  CHECK(rig.count(Event::Walk) == 6);
  CHECK(rig.count(Event::RemoteTlbFlushRequest) == 0);
  CHECK(rig.count(Event::TlbFlush) == 0);
  rig.vcpu().flush_space();
  rig.vcpu().load(kVa);
  CHECK(rig.count(Event::ExitEptViolation) == 5);
}

TEST_CASE("a large page backs tables and data with one violation") {
  NestedRig rig(config_of(PageSize::k2M, 64 << 20));
  rig.tables.map(rig.root, kVa, Gpa(0x1f'f000), kUser);
  rig.vcpu().load(kVa);
  CHECK(rig.count(Event::ExitEptViolation) == 1);
}

TEST_CASE("page= caps the leaf below the backing") {
  const auto gauges = [](const std::string& keys) {
    NestedRig rig(config_of(PageSize::k1G, kGiB), keys);
    rig.tables.map(rig.root, kVa, Gpa(4 << 20), kUser);
    rig.vcpu().load(kVa);
    return rig.machine.pager().gauges();
  };
  CHECK(gauges("").pages_1g == 1);
  CHECK(gauges("").table_pages == 2);  // PML4, PDPT
  CHECK(gauges("page=2m").pages_2m == 2);
  CHECK(gauges("page=2m").pages_1g == 0);
  CHECK(gauges("page=2m").table_pages == 3);
  CHECK(gauges("page=4k").pages_4k == 5);
  CHECK(gauges("page=4k").table_pages == 5);  // PML4, PDPT, PD, two PTs
  CHECK(gauges("page=4k,format=npt").pages_4k == 5);
}

TEST_CASE("a leaf never reaches beyond guest memory") {
  NestedRig rig(config_of(PageSize::k2M, 3 << 20));
  rig.tables.map(rig.root, kVa, Gpa(0x2f'f000), kUser);
  rig.vcpu().load(kVa);
  CHECK(rig.machine.pager().gauges().pages_2m == 1);
  CHECK(rig.machine.pager().gauges().pages_4k == 1);
}

TEST_CASE("the VM's tables are accounted by the VM") {
  NestedRig rig;
  rig.tables.map(rig.root, kVa, Gpa(4 << 20), kUser);
  rig.vcpu().load(kVa);
  const Gauges g = rig.machine.pager().gauges();
  CHECK(g.table_pages == rig.machine.memory().tables_in_use());
  CHECK(g.table_bytes == g.table_pages * 4096);
  CHECK(g.pager_bytes == g.table_pages * (4096 + 184));
  const Gpa roots[] = {rig.root, Gpa(0)};
  const TableUse use = rig.machine.pager().table_use(roots);
  CHECK(use.by_root.size() == 2);
  CHECK(use.by_root[0].bytes == 0);
  CHECK(use.shared.pages == g.table_pages);
  CHECK(use.shared.bytes == g.pager_bytes);
  CHECK(use.orphaned.pages == 0);
}

TEST_CASE("the smaller page of the two dimensions is what the TLB holds") {
  const auto walks = [](PageSize guest, PageSize backing) {
    NestedRig rig(config_of(backing, 64 << 20));
    rig.tables.map_range(rig.root, kVa, Gpa(4 << 20), 2 << 20, kUser, guest);
    for (u64 page = 0; page < 3; ++page) rig.vcpu().load(kVa + page * kPageBytes);
    rig.vcpu().flush_space();
    const u64 before = rig.count(Event::Walk);
    for (u64 page = 0; page < 3; ++page) rig.vcpu().load(kVa + page * kPageBytes);
    return rig.count(Event::Walk) - before;
  };
  CHECK(walks(PageSize::k4K, PageSize::k4K) == 3);
  CHECK(walks(PageSize::k2M, PageSize::k4K) == 3);
  CHECK(walks(PageSize::k4K, PageSize::k2M) == 3);
  CHECK(walks(PageSize::k2M, PageSize::k2M) == 1);
}

TEST_CASE("INVLPG drops every fragment of a large guest page") {
  NestedRig rig;
  rig.tables.map(rig.root, kVa, Gpa(4 << 20), kUser, PageSize::k2M);
  for (u64 page : {0, 1, 2}) rig.vcpu().load(kVa + page * kPageBytes);
  rig.vcpu().invlpg(kVa + kPageBytes);
  const u64 before = rig.count(Event::Walk);
  for (u64 page : {0, 1, 2}) rig.vcpu().load(kVa + page * kPageBytes);
  CHECK(rig.count(Event::Walk) == before + 3);
}

TEST_CASE("a large guest page finds each of its small host pages") {
  NestedRig rig;
  rig.tables.map(rig.root, kVa, Gpa(4 << 20), kUser, PageSize::k2M);
  for (u64 page : {0, 7, 511}) rig.vcpu().store(kVa + page * kPageBytes + 8, 100 + page);
  for (u64 page : {0, 7, 511}) {
    CHECK(rig.machine.host_read(Gpa((4 << 20) + page * kPageBytes + 8)) == 100 + page);
  }
}

TEST_CASE("a store uses a cached translation only if no dirty flag is left to set") {
  const auto walks = [](u64 guest_flags, const std::string& keys, u64 clear_in_second) {
    NestedRig rig({}, keys);
    const Gpa page(4 << 20);
    rig.tables.map(rig.root, kVa, page, kUser | guest_flags);
    rig.vcpu().load(kVa);
    rig.change_second(page, clear_in_second);
    const u64 before = rig.count(Event::Walk);
    rig.vcpu().load(kVa);
    rig.vcpu().store(kVa, u64{1});
    rig.vcpu().store(kVa, u64{2});
    return rig.count(Event::Walk) - before;
  };
  CHECK(walks(kTouched, "", 0) == 1);
  CHECK(walks(x86::kAccessed, "", 0) == 2);  // the guest's D
  CHECK(walks(kTouched, "", ept::kDirty) == 2);
  CHECK(walks(kTouched, "ad=off", ept::kDirty) == 1);
  CHECK(walks(kTouched, "", ept::kWrite) == 3);  // a violation on the way
}

TEST_CASE("accessed and dirty flags of the guest are set by the hardware") {
  NestedRig rig;
  const Gpa leaf = rig.tables.entry(rig.root, kVa, 1);
  rig.tables.map(rig.root, kVa, Gpa(4 << 20), kUser);
  rig.vcpu().load(kVa);
  CHECK((rig.machine.host_read(leaf) & kTouched) == x86::kAccessed);
  CHECK((rig.machine.host_read(rig.root + 8 * table_index(kVa, 4)) & kTouched) == x86::kAccessed);
  rig.vcpu().store(kVa, u64{1});
  CHECK((rig.machine.host_read(leaf) & kTouched) == kTouched);
}

TEST_CASE("with EPT flags a read makes the guest's table pages dirty and its data not") {
  NestedRig rig;
  const Gpa page(4 << 20);
  const Gpa table = rig.tables.entry(rig.root, kVa, 1);
  rig.tables.map(rig.root, kVa, page, kUser | kTouched);
  rig.vcpu().load(kVa);
  const u64 flags = ept::kAccessed | ept::kDirty;
  rig.change_second(page, flags);
  rig.change_second(table, flags);
  rig.vcpu().load(kVa);
  CHECK((rig.machine.memory().read(rig.second_entry(table)) & flags) == flags);
  CHECK((rig.machine.memory().read(rig.second_entry(page)) & flags) == ept::kAccessed);
}

TEST_CASE("a mapping that lost its write right gets it back by one violation") {
  NestedRig rig;
  const Gpa page(4 << 20);
  rig.tables.map(rig.root, kVa, page, kUser | kTouched);
  rig.vcpu().load(kVa);
  rig.change_second(page, ept::kWrite);
  const Counters before = rig.vcpu().counters;
  rig.vcpu().store(kVa, u64{5});
  rig.vcpu().store(kVa, u64{6});
  const Counters d = rig.vcpu().counters - before;
  CHECK(d[Event::ExitEptViolation] == 1);
  CHECK(d[Event::PfFixed] == 1);
  CHECK(rig.machine.pager().gauges().pages_4k == 5);
  CHECK(rig.machine.host_read(page) == 6);
}

TEST_CASE("a read-only guest table is judged on every update although walks may start below it") {
  NestedRig rig({}, "ad=off");
  rig.tables.map(rig.root, kVa, Gpa(4 << 20), kUser | kTouched);
  rig.tables.map(rig.root, kVa + kPageBytes, Gpa(5 << 20), kUser);
  const Gpa entry = rig.tables.entry(rig.root, kVa + kPageBytes, 1);
  rig.vcpu().load(kVa);
  rig.change_second(entry, ept::kWrite);
  rig.vcpu().load(kVa);  // needs no update of the table
  const Counters before = rig.vcpu().counters;
  rig.vcpu().load(kVa + kPageBytes);  // sets A in it
  const Counters d = rig.vcpu().counters - before;
  CHECK(d[Event::ExitEptViolation] == 2);  // the table's write, the page
  CHECK((rig.machine.host_read(entry) & x86::kAccessed) != 0);
}

TEST_CASE("a violation that another vCPU has solved is spurious") {
  NestedRig rig;
  rig.tables.map(rig.root, kVa, Gpa(4 << 20), kUser);
  rig.vcpu().load(kVa);
  VmExit exit;
  exit.reason = ExitReason::EptViolation;
  exit.gpa = Gpa(4 << 20);
  const Resume r = rig.machine.pager().handle(rig.vcpu(), exit);
  CHECK(r.action == Resume::Action::Retry);
  CHECK(rig.count(Event::PfSpurious) == 1);
  CHECK(rig.count(Event::PfFixed) == 5);
}

TEST_CASE("the guest's own faults do not exit") {
  NestedRig rig;
  const AccessResult r = rig.vcpu().try_access(kVa, AccessKind::Write);
  CHECK(!r.done);
  CHECK(r.fault.error_code == pf::kWrite);
  CHECK(r.fault.address == kVa);
  CHECK(rig.count(Event::GuestPageFault) == 1);
  CHECK(rig.count(Event::ExitEptViolation) == 1);  // the root's page
  CHECK(rig.count(Event::ExitPageFault) == 0);
}

TEST_CASE("a misconfigured entry ends the run") {
  NestedRig rig;
  rig.tables.map(rig.root, kVa, Gpa(4 << 20), kUser);
  rig.vcpu().load(kVa);
  rig.change_second(Gpa(4 << 20), ept::kRead);  // writable, not readable
  CHECK_THROWS_AS(rig.vcpu().load(kVa), RunError);
  CHECK(rig.count(Event::ExitEptMisconfig) == 1);
}

TEST_CASE("memory that the guest does not have ends the run") {
  NestedRig rig(config_of(PageSize::k4K, 64 << 20));
  rig.tables.map(rig.root, kVa, Gpa(64 << 20), kUser);
  CHECK_THROWS_AS(rig.vcpu().load(kVa), RunError);
}

TEST_CASE("MOV CR3 and INVLPG do not exit, and CR4 exits for the bits that the host owns") {
  NestedRig rig;
  rig.tables.map(rig.root, kVa, Gpa(4 << 20), kUser);
  rig.vcpu().load(kVa);
  const u64 walks = rig.count(Event::Walk);
  rig.vcpu().write_cr3(rig.root.raw());
  rig.vcpu().load(kVa);
  rig.vcpu().invlpg(kVa);
  rig.vcpu().load(kVa);
  CHECK(rig.count(Event::Walk) == walks + 2);
  CHECK(rig.count(Event::ExitCr3) + rig.count(Event::ExitInvlpg) == 0);

  Controls c = rig.vcpu().controls();
  c.pge = true;
  c.wp = false;
  rig.vcpu().write_controls(c);
  CHECK(rig.count(Event::ExitCr4) + rig.count(Event::ExitCr0) == 0);
  rig.vcpu().load(kVa);
  const u64 before = rig.count(Event::Walk);
  c.smep = true;
  rig.vcpu().write_controls(c);
  CHECK(rig.count(Event::ExitCr4) == 1);
  CHECK(rig.count(Event::TlbFlush) == 1);
  rig.vcpu().load(kVa);
  CHECK(rig.count(Event::Walk) == before + 1);
  CHECK(rig.vcpu().controls() == c);
}

TEST_CASE("NPT intercepts CR0.WP and CR4.PGE too") {
  NestedRig rig({}, "format=npt");
  Controls c = rig.vcpu().controls();
  c.pge = true;
  rig.vcpu().write_controls(c);
  CHECK(rig.count(Event::ExitCr4) == 1);
  c.wp = false;
  rig.vcpu().write_controls(c);
  CHECK(rig.count(Event::ExitCr0) == 1);
  CHECK(rig.vcpu().controls() == c);
}

TEST_CASE("a global page of the guest survives MOV CR3 only with CR4.PGE") {
  const auto walks = [](bool pge, u64 flags) {
    NestedRig rig;
    Controls c = rig.vcpu().controls();
    c.pge = pge;
    rig.vcpu().write_controls(c);
    rig.tables.map(rig.root, kVa, Gpa(4 << 20), kUser | flags);
    rig.vcpu().load(kVa);
    const u64 before = rig.count(Event::Walk);
    rig.vcpu().write_cr3(rig.root.raw());
    rig.vcpu().load(kVa);
    return rig.count(Event::Walk) - before;
  };
  CHECK(walks(true, x86::kGlobal) == 0);
  CHECK(walks(false, x86::kGlobal) == 1);
  CHECK(walks(true, 0) == 1);
}

TEST_CASE("the CPU decides format and flags unless a key does") {
  const auto leaf = [](const std::string& cpu, const std::string& keys) {
    MachineConfig config;
    config.cpu = cpu;
    NestedRig rig(config, keys);
    rig.tables.map(rig.root, kVa, Gpa(4 << 20), kUser);
    rig.vcpu().load(kVa);
    // Bit 5 is A in a table entry of NPT and reserved in one of EPT.
    const Hpa root_entry = rig.ept_root + 8 * table_index(Gpa(4 << 20), 4);
    const bool npt = rig.machine.memory().read(root_entry) & x86::kAccessed;
    const Hpa where =
        npt ? rig.second_entry<NptFormat>(Gpa(4 << 20)) : rig.second_entry(Gpa(4 << 20));
    return rig.machine.memory().read(where) & ~ept::kAddressMask;
  };
  const u64 ept_plain = EptTables::kAllRights | ept::kWriteBack;
  const u64 npt = x86::kPresent | x86::kWrite | x86::kUser | kTouched;
  CHECK(leaf("haswell", "") == (ept_plain | ept::kAccessed | ept::kDirty));
  CHECK(leaf("nehalem", "") == ept_plain);
  CHECK(leaf("haswell", "ad=off") == ept_plain);
  CHECK(leaf("zen2", "") == npt);
  CHECK(leaf("haswell", "format=npt") == npt);
  CHECK(leaf("zen2", "format=ept,ad=off") == ept_plain);
  CHECK_THROWS_AS(NestedRig({}, "format=npt,ad=off"), InputError);
}
