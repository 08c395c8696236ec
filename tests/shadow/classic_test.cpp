#include <doctest/doctest.h>

#include "core/error.h"
#include "tests/shadow/rig.h"

using namespace mmuscope;

namespace {

constexpr Gva kVa{0x40'0000'0000};
constexpr Gpa kData{u64{32} << 20};
constexpr u64 kUser = ShadowRig::kUser;
constexpr u64 kTouched = GuestTables::kTouched;
constexpr u64 kReadOnly = x86::kPresent | x86::kUser;

MachineConfig config_of(PageSize backing, u64 bytes = u64{64} << 20, unsigned vcpus = 1) {
  MachineConfig c;
  c.memory_bytes = bytes;
  c.backing = backing;
  c.vcpus = vcpus;
  return c;
}

/// A guest that answers every fault by writing one entry, then asks for the access again.
struct OneEntry : GuestHandler {
  ShadowRig& rig;
  Gpa entry;
  u64 value;
  OneEntry(ShadowRig& r, Gpa e, u64 v) : rig(r), entry(e), value(v) {}
  bool on_fault(Vcpu&, const GuestFault&) override {
    rig.edit(entry, value);
    return true;
  }
  void on_ipi(Vcpu&) override {}
};

}  // namespace

// --- walks and fills
// ------------------------------------------------------------------------------

TEST_CASE("shadow: a cold walk reads 4 entries, 1 with the walk caches, 3 with a 2M leaf") {
  ShadowRig rig;
  rig.tables.map(rig.root, kVa, kData, kUser);
  rig.vcpu().load(kVa);
  rig.vcpu().flush_space();
  Counters d = rig.during([&] { rig.vcpu().load(kVa); });
  CHECK(d[Event::Walk] == 1);
  CHECK(d[Event::TableRefShadow] == 4);
  CHECK(d[Event::WalkCacheHit] == 0);
  rig.vcpu().tlb().invalidate(FlushMatch::all());
  d = rig.during([&] { rig.vcpu().load(kVa); });
  CHECK(d[Event::TableRefShadow] == 1);
  CHECK(d[Event::WalkCacheHit] == 1);

  ShadowRig large(config_of(PageSize::k2M));
  large.tables.map(large.root, kVa, kData, kUser, PageSize::k2M);
  large.vcpu().load(kVa);
  large.vcpu().flush_space();
  CHECK(large.during([&] { large.vcpu().load(kVa); })[Event::TableRefShadow] == 3);
}

TEST_CASE(
    "shadow: the first access builds the path with one hidden fault, its neighbour fills one") {
  ShadowRig rig;
  rig.tables.map_range(rig.root, kVa, kData, 2 * kPageBytes, kUser);
  Counters d = rig.during([&] { rig.vcpu().load(kVa); });
  CHECK(d[Event::ExitPageFault] == 1);
  CHECK(d[Event::PfTaken] == 1);
  CHECK(d[Event::PfFixed] == 1);
  CHECK(d[Event::PfGuest] == 0);
  CHECK(d[Event::MmuCacheMiss] == 4);  // the root when the vCPU started, then three tables
  CHECK(d[Event::Walk] == 2);
  CHECK(rig.gauges().table_pages == 4);
  CHECK(rig.gauges().pages_4k == 1);
  d = rig.during([&] { rig.vcpu().load(kVa + kPageBytes); });
  CHECK(d[Event::ExitPageFault] == 1);
  CHECK(d[Event::MmuCacheMiss] == 0);
  CHECK(rig.gauges().pages_4k == 2);
  d = rig.during([&] { rig.vcpu().load(kVa); });
  CHECK(d[Event::ExitPageFault] == 0);
}

TEST_CASE("shadow: a demand-zero touch is three exits: true fault, trapped entry, hidden fault") {
  ShadowRig rig;
  const Gpa entry = rig.entry(kVa);
  rig.vcpu().store<u64>(rig.kDirect + 8,
                        1);  // the direct map around, so that only the recipe counts
  (void)rig.direct_read(entry);
  OneEntry guest(rig, entry, kData.raw() | kUser | kTouched);
  rig.vcpu().set_handler(&guest);
  const Gva near = kVa + kPageBytes;  // so that the tables of kVa exist in the shadow
  rig.edit(entry + 8, (kData + kPageBytes).raw() | kUser | kTouched);
  rig.vcpu().load(near);
  const Counters d = rig.during([&] { rig.vcpu().store<u64>(kVa, 7); });
  CHECK(d[Event::ExitPageFault] == 3);
  CHECK(d[Event::PfTaken] == 3);
  CHECK(d[Event::PfGuest] == 1);
  CHECK(d[Event::PfEmulate] == 1);
  CHECK(d[Event::PfFixed] == 1);
  CHECK(d[Event::GuestPageFault] == 1);
  CHECK(d[Event::MmuPteWrite] == 1);
  CHECK(rig.machine.host_read(kData) == 7);
}

// --- faults of the guest's own
// --------------------------------------------------------------------

TEST_CASE("shadow: true faults are the guest's, with its own error code") {
  ShadowRig rig;
  rig.tables.map(rig.root, kVa, kData, kReadOnly);
  rig.tables.map(rig.root, kVa + kPageBytes, kData, kUser | u64{1} << 50);  // reserved bit
  rig.vcpu().set_privilege(Privilege::User);
  const auto code = [&](Gva va, AccessKind kind) {
    const AccessResult r = rig.vcpu().try_access(va, kind);
    CHECK_FALSE(r.done);
    return r.fault.error_code;
  };
  const Counters d = rig.during([&] {
    CHECK(code(kVa, AccessKind::Write) == (pf::kPresent | pf::kWrite | pf::kUser));
    CHECK(code(kVa + kPageBytes, AccessKind::Read) == (pf::kPresent | pf::kReserved | pf::kUser));
    CHECK(code(kVa + 2 * kPageBytes, AccessKind::Fetch) == (pf::kUser | pf::kFetch));
    CHECK(code(rig.kDirect, AccessKind::Read) == (pf::kPresent | pf::kUser));
  });
  CHECK(d[Event::PfGuest] == 4);
  CHECK(d[Event::PfTaken] == 4);
  CHECK(d[Event::ExitPageFault] == 4);
  CHECK(d[Event::GuestPageFault] == 4);
  CHECK(d[Event::LockAcquisition] == 1);  // the root's: a true fault takes no lock
}

TEST_CASE("shadow: a true fault sets no flag in the guest's tables") {
  ShadowRig rig;
  rig.tables.map(rig.root, kVa, kData, kReadOnly);
  rig.vcpu().set_privilege(Privilege::User);
  CHECK_FALSE(rig.vcpu().try_access(kVa, AccessKind::Write).done);
  for (unsigned level = 1; level <= 4; ++level) {
    CHECK((rig.machine.host_read(rig.entry(kVa, level)) & kTouched) == 0);
  }
}

// --- accessed and dirty
// ----------------------------------------------------------------------------

TEST_CASE("shadow: A comes with the first access, D with the first write, at one exit more") {
  ShadowRig rig;
  rig.tables.map(rig.root, kVa, kData, kUser);
  const auto flags = [&](unsigned level) {
    return rig.machine.host_read(rig.entry(kVa, level)) & kTouched;
  };
  CHECK(rig.during([&] { rig.vcpu().load(kVa); })[Event::ExitPageFault] == 1);
  for (unsigned level = 1; level <= 4; ++level) CHECK(flags(level) == x86::kAccessed);
  CHECK(rig.during([&] { rig.vcpu().store<u64>(kVa, 1); })[Event::ExitPageFault] == 1);
  CHECK(flags(1) == kTouched);
  CHECK(flags(2) == x86::kAccessed);
  CHECK(rig.during([&] { rig.vcpu().store<u64>(kVa, 2); })[Event::ExitPageFault] == 0);
}

TEST_CASE("shadow: a page that is dirty already is written without another exit after a read") {
  ShadowRig rig;
  rig.tables.map(rig.root, kVa, kData, kUser | kTouched);
  rig.vcpu().load(kVa);
  CHECK(rig.during([&] { rig.vcpu().store<u64>(kVa, 1); })[Event::ExitPageFault] == 0);
}

TEST_CASE("shadow: clearing A takes the entry away, so that the next access sets it again") {
  ShadowRig rig;
  rig.tables.map(rig.root, kVa, kData, kUser);
  rig.vcpu().store<u64>(kVa, 1);
  const Gpa entry = rig.entry(kVa);
  rig.edit(entry, kData.raw() | kUser);
  rig.vcpu().invlpg(kVa);
  CHECK(rig.during([&] { rig.vcpu().load(kVa); })[Event::PfFixed] == 1);
  CHECK((rig.machine.host_read(entry) & kTouched) == x86::kAccessed);
}

// --- write protection
// ------------------------------------------------------------------------------

TEST_CASE("shadow: every write to a table in use is one exit, and is seen at the next access") {
  ShadowRig rig;
  rig.tables.map(rig.root, kVa, kData, kUser | kTouched);
  rig.machine.host_write(kData, 11);
  rig.machine.host_write(kData + kPageBytes, 22);
  const Gpa entry = rig.entry(kVa);
  CHECK(rig.vcpu().load(kVa) == 11);
  (void)rig.direct_read(entry);
  const Counters d = rig.during([&] {
    for (int i = 0; i < 10; ++i) {
      const Gpa to = kData + (i % 2 == 0 ? kPageBytes : 0);
      rig.edit(entry, to.raw() | kUser | kTouched);
      rig.vcpu().invlpg(kVa);
      CHECK(rig.vcpu().load(kVa) == (i % 2 == 0 ? 22 : 11));
    }
  });
  CHECK(d[Event::PfEmulate] == 10);
  CHECK(d[Event::MmuPteWrite] == 10);
  CHECK(d[Event::PfFixed] == 10);
  CHECK(d[Event::ExitInvlpg] == 10);
  CHECK(d[Event::Invlpg] == 10);
  CHECK(d[Event::ExitPageFault] == 20);
  CHECK(d[Event::RemoteTlbFlushRequest] == 10);  // each dropped a present entry
  CHECK(d[Event::MmuPdeZapped] == 0);
}

TEST_CASE("shadow: a table is protected in every mapping of it, those made later too") {
  ShadowRig rig;
  rig.tables.map(rig.root, kVa, kData, kUser | kTouched);
  const Gpa entry = rig.entry(kVa);
  const Gva alias1 = kVa + (u64{4} << 20), alias2 = alias1 + kPageBytes;
  rig.tables.map(rig.root, alias1, Gpa(entry.frame().base()), kUser | kTouched);
  rig.tables.map(rig.root, alias2, Gpa(entry.frame().base()), kUser | kTouched);
  rig.machine.host_write(kData + kPageBytes, 5);
  rig.vcpu().load(kVa);
  const u64 there = (kData + kPageBytes).raw() | kUser | kTouched;
  Counters d = rig.during([&] { rig.vcpu().store(alias1 + entry.page_offset(), there); });
  CHECK(d[Event::PfEmulate] == 1);
  CHECK(rig.vcpu().load(kVa) == 5);
  d = rig.during([&] { rig.vcpu().store(alias1 + entry.page_offset(), kData.raw() | kUser); });
  CHECK(d[Event::PfEmulate] == 1);
  d = rig.during([&] { rig.vcpu().store(alias2 + entry.page_offset(), there); });
  CHECK(d[Event::PfEmulate] == 1);
  CHECK(rig.vcpu().load(kVa) == 5);
}

TEST_CASE("shadow: a page that becomes a table loses the writable entries that a TLB holds") {
  ShadowRig rig(config_of(PageSize::k4K, u64{64} << 20, 2));
  const Gpa table = rig.tables.new_table();
  const Gva alias1 = kVa, alias2 = kVa + kPageBytes;
  rig.tables.map(rig.root, alias1, table, kUser | kTouched);
  rig.tables.map(rig.root, alias2, table, kUser | kTouched);
  const Gpa pde = rig.entry(kVa + (u64{2} << 20), 2);
  const Gva through = kVa + (u64{2} << 20);
  for (unsigned i = 0; i < 2; ++i) {
    rig.vcpu(i).store<u64>(alias1, kData.raw() | kUser | kTouched);
    rig.vcpu(i).store<u64>(alias2, kData.raw() | kUser | kTouched);
  }
  rig.edit(pde, table.raw() | kUser | kTouched);
  rig.machine.host_write(kData, 33);
  rig.machine.host_write(kData + kPageBytes, 44);
  const Counters made = rig.during([&] { CHECK(rig.vcpu().load(through) == 33); });
  CHECK(made[Event::RemoteTlbFlushRequest] == 1);
  CHECK(made[Event::RemoteTlbFlush] == 1);
  const u64 moved = (kData + kPageBytes).raw() | kUser | kTouched;
  const Counters d = rig.during([&] {
    rig.vcpu(1).store<u64>(alias1, moved);
    CHECK(rig.vcpu(0).load(through) == 44);
    rig.vcpu(0).store<u64>(alias2, kData.raw() | kUser | kTouched);
    CHECK(rig.vcpu(1).load(through) == 33);
  });
  CHECK(d[Event::PfEmulate] == 2);
}

TEST_CASE("shadow: a dropped entry leaves every vCPU's TLB") {
  ShadowRig rig(config_of(PageSize::k4K, u64{64} << 20, 2));
  rig.tables.map(rig.root, kVa, kData, kUser | kTouched);
  rig.machine.host_write(kData, 1);
  rig.machine.host_write(kData + kPageBytes, 2);
  CHECK(rig.vcpu(0).load(kVa) == 1);
  CHECK(rig.vcpu(1).load(kVa) == 1);
  const Counters d =
      rig.during([&] { rig.edit(rig.entry(kVa), (kData + kPageBytes).raw() | kUser | kTouched); });
  CHECK(d[Event::RemoteTlbFlushRequest] == 1);
  CHECK(d[Event::RemoteTlbFlush] == 1);
  CHECK(d[Event::ExitInterrupt] == 1);
  CHECK(d[Event::TlbFlush] == 2);
  CHECK(rig.vcpu(1).load(kVa) == 2);
}

TEST_CASE("shadow: misaligned and string writes drop the shadows of the table") {
  ShadowRig rig;
  rig.tables.map(rig.root, kVa, kData, kUser | kTouched);
  const Gpa entry = rig.entry(kVa);
  rig.vcpu().load(kVa);
  (void)rig.direct_read(entry);
  Counters d = rig.during([&] { rig.vcpu().store<u16>(rig.kDirect + entry.raw() + 2, 0x40); });
  CHECK(d[Event::PfEmulate] == 1);
  CHECK(d[Event::MmuFlooded] == 1);
  CHECK(d[Event::MmuShadowZapped] == 1);
  rig.edit(entry, kData.raw() | kUser | kTouched);
  rig.vcpu().load(kVa);
  d = rig.during([&] { rig.vcpu().zero(rig.kDirect + entry.frame().base().raw(), kPageBytes); });
  CHECK(d[Event::PfEmulate] == 1);
  CHECK(d[Event::MmuPteWrite] == 0);
  CHECK(d[Event::MmuShadowZapped] == 1);
  CHECK(rig.machine.host_read(entry) == 0);
  CHECK_FALSE(rig.vcpu().try_access(kVa, AccessKind::Read).done);
}

TEST_CASE("shadow: a write to a table that maps its own address is emulated") {
  ShadowRig rig;
  rig.tables.map(rig.root, kVa, kData, kUser | kTouched);
  const Gpa entry = rig.entry(kVa);
  const Gva alias = kVa + kPageBytes;  // mapped by the same table
  rig.tables.map(rig.root, alias, entry.frame().base(), kUser | kTouched);
  const Counters d = rig.during([&] { rig.vcpu().store<u64>(alias + entry.page_offset(), 0); });
  CHECK(d[Event::PfEmulate] == 1);
  CHECK(d[Event::MmuPteWrite] == 1);
  CHECK(d[Event::MmuShadowZapped] == 0);
  CHECK(rig.machine.host_read(entry) == 0);
}

TEST_CASE("shadow: an exchange on a table returns what was there") {
  ShadowRig rig;
  rig.tables.map(rig.root, kVa, kData, kUser | kTouched);
  const Gpa entry = rig.entry(kVa);
  rig.vcpu().load(kVa);
  CHECK(rig.vcpu().exchange(rig.kDirect + entry.raw(), 0) == (kData.raw() | kUser | kTouched));
  CHECK_FALSE(rig.vcpu().try_access(kVa, AccessKind::Read).done);
}

TEST_CASE("shadow: a write to an upper table drops what is below without forgetting it") {
  ShadowRig rig;
  rig.tables.map(rig.root, kVa, kData, kUser | kTouched);
  rig.vcpu().load(kVa);
  const Gpa pde = rig.entry(kVa, 2);
  const u64 value = rig.machine.host_read(pde);
  (void)rig.direct_read(pde);
  const u64 pages = rig.gauges().table_pages;
  Counters d = rig.during([&] { rig.edit(pde, 0); });
  CHECK(d[Event::MmuPdeZapped] == 0);  // only counts entries that are written anew
  CHECK(d[Event::RemoteTlbFlushRequest] == 1);
  CHECK_FALSE(rig.vcpu().try_access(kVa, AccessKind::Read).done);
  CHECK(rig.gauges().table_pages == pages);
  d = rig.during([&] { rig.edit(pde, value); });
  CHECK(d[Event::MmuPdeZapped] == 1);
  CHECK(d[Event::RemoteTlbFlushRequest] == 0);
  d = rig.during([&] { rig.vcpu().load(kVa); });
  CHECK(d[Event::MmuCacheMiss] == 0);
  CHECK(d[Event::PfSpurious] == 1);  // all that was missing was a link
}

// --- rights
// ---------------------------------------------------------------------------------------

TEST_CASE("shadow: one table under two rights has two shadows") {
  ShadowRig rig;
  const Gva strict = kVa + (u64{1} << 30);
  rig.tables.map(rig.root, kVa, kData, kUser | kTouched);
  const u64 pde = rig.machine.host_read(rig.entry(kVa, 2));
  rig.machine.host_write(rig.entry(strict, 2), pde & ~x86::kWrite);
  rig.vcpu().load(kVa);
  const Counters d = rig.during([&] { rig.vcpu().load(strict); });
  CHECK(d[Event::MmuCacheMiss] == 2);  // its PD, and the table again
  rig.vcpu().store<u64>(kVa, 9);
  const AccessResult r = rig.vcpu().try_access(strict, AccessKind::Write, {1, 8});
  CHECK_FALSE(r.done);
  CHECK(r.fault.error_code == (pf::kPresent | pf::kWrite));
  CHECK(rig.vcpu().load(strict) == 9);
  // One write is seen in both.
  rig.edit(rig.entry(kVa), 0);
  CHECK_FALSE(rig.vcpu().try_access(kVa, AccessKind::Read).done);
  CHECK_FALSE(rig.vcpu().try_access(strict, AccessKind::Read).done);
}

TEST_CASE(
    "shadow: without CR0.WP a read-only page flips between kernel-writable and user-readable") {
  for (const bool smep : {false, true}) {
    ShadowRig rig;
    rig.tables.map(rig.root, kVa, kData, kReadOnly);
    Controls c = rig.vcpu().controls();
    c.wp = false;
    c.smep = smep;
    Counters d = rig.during([&] { rig.vcpu().write_controls(c); });
    CHECK(d[Event::ExitCr0] + d[Event::ExitCr4] == 1);
    CHECK(d[Event::PfTaken] == 0);
    d = rig.during([&] { rig.vcpu().store<u64>(kVa, 3); });
    CHECK(d[Event::PfFixed] == 1);
    CHECK(rig.during([&] { rig.vcpu().store<u64>(kVa, 4); })[Event::PfTaken] == 0);
    CHECK(rig.vcpu().try_access(kVa, AccessKind::Fetch).done == !smep);
    rig.vcpu().set_privilege(Privilege::User);
    d = rig.during([&] { CHECK(rig.vcpu().load(kVa) == 4); });
    CHECK(d[Event::PfFixed] == 1);
    CHECK_FALSE(rig.vcpu().try_access(kVa, AccessKind::Write, {1, 8}).done);
    rig.vcpu().set_privilege(Privilege::Supervisor);
    d = rig.during([&] { rig.vcpu().store<u64>(kVa, 5); });
    CHECK(d[Event::PfFixed] == 1);
  }
}

TEST_CASE("shadow: a kernel write without CR0.WP does not lift SMAP from a read-only page") {
  ShadowRig rig;
  rig.tables.map(rig.root, kVa, kData, kReadOnly);
  Controls c = rig.vcpu().controls();
  c.wp = false;
  c.smap = true;
  rig.vcpu().write_controls(c);
  rig.vcpu().set_ac(true);
  rig.vcpu().store<u64>(kVa, 3);
  CHECK(rig.vcpu().load(kVa) == 3);
  rig.vcpu().set_ac(false);
  CHECK_FALSE(rig.vcpu().try_access(kVa, AccessKind::Read).done);
}

TEST_CASE("shadow: NX and SMEP hold, and NX is reserved where the guest has not switched it on") {
  ShadowRig rig;
  rig.tables.map(rig.root, kVa, kData, kUser | kTouched | x86::kNoExec);
  rig.tables.map(rig.root, kVa + kPageBytes, kData, kUser | kTouched);
  CHECK(rig.vcpu().try_access(kVa, AccessKind::Read).done);
  CHECK_FALSE(rig.vcpu().try_access(kVa, AccessKind::Fetch).done);
  CHECK(rig.vcpu().try_access(kVa + kPageBytes, AccessKind::Fetch).done);
  Controls c = rig.vcpu().controls();
  c.smep = true;
  rig.vcpu().write_controls(c);
  CHECK_FALSE(rig.vcpu().try_access(kVa + kPageBytes, AccessKind::Fetch).done);
  c.nxe = false;
  rig.vcpu().write_controls(c);
  const AccessResult r = rig.vcpu().try_access(kVa, AccessKind::Read);
  CHECK_FALSE(r.done);
  CHECK((r.fault.error_code & pf::kReserved) != 0);
  CHECK(rig.vcpu().counters[Event::ExitMsrWrite] == 1);
}

// --- roots
// ----------------------------------------------------------------------------------------

TEST_CASE("shadow: a switch finds the tree that was built before, and flushes") {
  ShadowRig rig;
  const Gpa other = rig.new_space();
  rig.tables.map(rig.root, kVa, kData, kUser | kTouched);
  rig.tables.map(other, kVa, kData + kPageBytes, kUser | kTouched);
  rig.machine.host_write(kData, 1);
  rig.machine.host_write(kData + kPageBytes, 2);
  CHECK(rig.vcpu().load(kVa) == 1);
  rig.vcpu().write_cr3(other.raw());
  CHECK(rig.vcpu().load(kVa) == 2);
  const Counters d = rig.during([&] {
    rig.vcpu().write_cr3(rig.root.raw());
    CHECK(rig.vcpu().load(kVa) == 1);
    rig.vcpu().write_cr3(other.raw());
    CHECK(rig.vcpu().load(kVa) == 2);
  });
  CHECK(d[Event::ExitCr3] == 2);
  CHECK(d[Event::ExitPageFault] == 0);
  CHECK(d[Event::MmuCacheMiss] == 0);
  CHECK(d[Event::TlbFlush] == 2);
  CHECK(d[Event::Walk] == 2);
}

TEST_CASE("shadow: PCIDs keep translations apart, and NOFLUSH keeps them") {
  ShadowRig rig;
  const Gpa other = rig.new_space();
  rig.tables.map(rig.root, kVa, kData, kUser | kTouched);
  rig.tables.map(other, kVa, kData + kPageBytes, kUser | kTouched);
  rig.machine.host_write(kData, 1);
  rig.machine.host_write(kData + kPageBytes, 2);
  Controls c = rig.vcpu().controls();
  c.pcide = true;
  rig.vcpu().write_controls(c);
  const u64 no_flush = u64{1} << 63;
  rig.vcpu().write_cr3(rig.root.raw() | 1);
  CHECK(rig.vcpu().load(kVa) == 1);
  rig.vcpu().write_cr3(other.raw() | 2 | no_flush);
  CHECK(rig.vcpu().load(kVa) == 2);
  rig.vcpu().write_cr3(rig.root.raw() | 1 | no_flush);
  CHECK(rig.vcpu().load(kVa) == 1);
  rig.vcpu().invpcid(InvpcidType::Address, 1, kVa);
  CHECK(rig.during([&] { rig.vcpu().load(kVa); })[Event::Walk] == 1);
  rig.vcpu().invpcid(InvpcidType::Context, 1, kVa);
  CHECK(rig.during([&] { rig.vcpu().load(kVa); })[Event::Walk] == 1);
  rig.vcpu().invpcid(InvpcidType::All, 0, kVa);
  CHECK(rig.during([&] { rig.vcpu().load(kVa); })[Event::Walk] == 1);
  CHECK(rig.vcpu().counters[Event::ExitInvpcid] == 3);
}

// --- page sizes
// -----------------------------------------------------------------------------------

TEST_CASE("shadow: a large page of the guest over 4K backing is split by a direct page") {
  ShadowRig rig;
  rig.tables.map(rig.root, kVa, kData, kUser | kTouched, PageSize::k2M);
  Counters d = rig.during([&] { rig.vcpu().load(kVa); });
  CHECK(d[Event::MmuCacheMiss] == 4);
  CHECK(rig.gauges().pages_4k == 1);
  CHECK(rig.gauges().pages_2m == 0);
  d = rig.during([&] {
    rig.vcpu().store<u64>(kVa + 5 * kPageBytes, 77);
    CHECK(rig.vcpu().load(kVa + 5 * kPageBytes) == 77);
  });
  CHECK(d[Event::PfFixed] == 1);
  CHECK(d[Event::MmuCacheMiss] == 0);
  CHECK(rig.machine.host_read(kData + 5 * kPageBytes) == 77);
}

TEST_CASE("shadow: a clean large page that gets dirty changes to a direct page that is writable") {
  ShadowRig rig;
  rig.tables.map(rig.root, kVa, kData, kUser, PageSize::k2M);
  rig.vcpu().load(kVa);
  const Counters d = rig.during([&] { rig.vcpu().store<u64>(kVa, 1); });
  CHECK(d[Event::PfFixed] == 1);
  CHECK(d[Event::MmuCacheMiss] == 1);
  CHECK(d[Event::RemoteTlbFlushRequest] == 1);
  CHECK((rig.machine.host_read(rig.entry(kVa, 2)) & kTouched) == kTouched);
}

TEST_CASE("shadow: large pages stay large over large backing, unless a table lies inside") {
  ShadowRig rig(config_of(PageSize::k2M), "", PageSize::k2M);
  rig.tables.map(rig.root, kVa, kData, kUser | kTouched, PageSize::k2M);
  rig.vcpu().load(kVa);
  CHECK(rig.gauges().pages_2m == 1);
  CHECK(rig.gauges().pages_4k == 0);
  // The tables are in the second 2 MiB from 1 MiB on; the direct map covers them by 4K pages.
  (void)rig.direct_read(Gpa(u64{4} << 20));
  CHECK(rig.gauges().pages_2m == 2);
  (void)rig.direct_read(Gpa(ShadowRig::kTables));
  CHECK(rig.gauges().pages_2m == 2);
  CHECK(rig.gauges().pages_4k == 1);
}

TEST_CASE("shadow: a large leaf is split when a page inside becomes a table") {
  ShadowRig rig(config_of(PageSize::k2M), "", PageSize::k2M);
  // A table of the guest's own making inside the data page, written through its large mapping.
  rig.tables.map(rig.root, kVa, kData, kUser | kTouched, PageSize::k2M);
  const Gpa table = kData + 16 * kPageBytes;
  const Gva through = kVa + (u64{1} << 30);
  const Gpa pde = rig.entry(through, 2);
  rig.vcpu().store<u64>(kVa + 16 * kPageBytes, (kData + kPageBytes).raw() | kUser | kTouched);
  CHECK(rig.gauges().pages_2m == 1);
  rig.edit(pde, table.raw() | kUser | kTouched);
  rig.machine.host_write(kData + kPageBytes, 6);
  CHECK(rig.vcpu().load(through) == 6);
  const Counters d = rig.during([&] { rig.vcpu().store<u64>(kVa + 16 * kPageBytes, 0); });
  CHECK(d[Event::PfEmulate] == 1);
  CHECK(rig.gauges().pages_2m == 1);  // read-only by now
  CHECK_FALSE(rig.vcpu().try_access(through, AccessKind::Read).done);
  // The rest of the large page is written through small pages from now on.
  rig.vcpu().store<u64>(kVa, 1);
  CHECK(rig.gauges().pages_2m == 0);
  CHECK(rig.during([&] { rig.vcpu().store<u64>(kVa, 2); })[Event::PfTaken] == 0);
}

TEST_CASE("shadow: a 1G page is mapped by the largest pages that its backing has") {
  using enum PageSize;
  for (const PageSize backing : {k4K, k2M, k1G}) {
    ShadowRig rig(config_of(backing, u64{4} << 30));
    rig.tables.map(rig.root, kVa, Gpa(u64{2} << 30), kUser | kTouched, k1G);
    rig.vcpu().load(kVa + (u64{5} << 20));
    const Gauges g = rig.gauges();
    CHECK(g.pages_4k == (backing == k4K ? 1 : 0));
    CHECK(g.pages_2m == (backing == k2M ? 1 : 0));
    CHECK(g.pages_1g == (backing == k1G ? 1 : 0));
    CHECK(g.table_pages == 4 - static_cast<unsigned>(backing));
  }
}

TEST_CASE("shadow: small guest pages stay small whatever the backing") {
  ShadowRig rig(config_of(PageSize::k2M));
  rig.tables.map(rig.root, kVa, kData, kUser | kTouched);
  rig.vcpu().load(kVa);
  CHECK(rig.gauges().pages_4k == 1);
  CHECK(rig.gauges().pages_2m == 0);
}

// --- the limit
// ------------------------------------------------------------------------------------

TEST_CASE("shadow: the oldest pages make room, a root in use never does") {
  ShadowRig rig(config_of(PageSize::k4K), "limit=64");
  // 100 leaf tables under one PD: 1 root, 1 PDPT, 1 PD, then one page each.
  for (u64 i = 0; i < 100; ++i) rig.tables.map(rig.root, kVa + i * (u64{2} << 20), kData, kUser);
  const Counters d = rig.during([&] {
    for (u64 i = 0; i < 100; ++i) rig.vcpu().load(kVa + i * (u64{2} << 20));
  });
  // 60 are used after the 57th leaf table, which leaves 4 free, fewer than 5: 21 go, the PDPT and
  // the PD first, for a fault that builds these two again.
  CHECK(d[Event::MmuRecycled] == 3 * 21);
  CHECK(d[Event::MmuShadowZapped] == 3 * 21);
  CHECK(d[Event::PfFixed] == 100);
  CHECK(rig.gauges().table_pages <= 64);
  CHECK(rig.during([&] { rig.vcpu().load(kVa + 99 * (u64{2} << 20)); })[Event::PfTaken] == 0);
  CHECK(rig.during([&] { rig.vcpu().load(kVa); })[Event::MmuCacheMiss] == 1);
}

TEST_CASE("shadow: a limit that the roots alone fill ends the run") {
  ShadowRig rig(config_of(PageSize::k4K), "limit=1");
  rig.tables.map(rig.root, kVa, kData, kUser);
  CHECK_THROWS_AS(rig.vcpu().load(kVa), RunError);
}

TEST_CASE("shadow: the default limit is a 50th of the guest's pages, at least 64") {
  const auto limit_of = [](u64 bytes) {
    ShadowRig rig(config_of(PageSize::k4K, bytes));
    u64 most = 0;
    for (u64 i = 0; i < 2000; ++i)
      rig.tables.map(rig.root, kVa + i * (u64{2} << 20), Gpa(0), kUser);
    for (u64 i = 0; i < 2000; ++i) {
      rig.vcpu().load(kVa + i * (u64{2} << 20));
      most = std::max(most, rig.gauges().table_pages);
    }
    CHECK(rig.gauges().table_bytes_peak == most * kPageBytes);
    return most + 4;  // reclaim begins when fewer than 5 are free
  };
  CHECK(limit_of(u64{64} << 20) == 327);
  CHECK(limit_of(u64{16} << 20) == 81);
}

// --- who uses the tables
// --------------------------------------------------------------------------

TEST_CASE("shadow: tables are told apart by the roots that reach them") {
  ShadowRig rig;
  const Gpa other = rig.tables.new_table();
  // The other space shares the direct map by its PML4 entry.
  const u64 slot = 8 * table_index(rig.kDirect, 4);
  rig.machine.host_write(other + slot, rig.machine.host_read(rig.root + slot));
  rig.tables.map(rig.root, kVa, kData, kUser | kTouched);
  rig.tables.map(other, kVa, kData, kUser | kTouched);
  rig.tables.map(other, kVa + (u64{2} << 20), kData, kUser | kTouched);
  rig.vcpu().load(kVa);
  rig.vcpu().load(rig.kDirect);
  rig.vcpu().write_cr3(other.raw());
  rig.vcpu().load(kVa);
  rig.vcpu().load(kVa + (u64{2} << 20));
  rig.vcpu().load(rig.kDirect);
  const std::array roots = {rig.root, other};
  TableUse use = rig.machine.pager().table_use(roots);
  CHECK(use.by_root[0].pages == 4);
  CHECK(use.by_root[0].bytes == 3 * 8376 + 4280);
  CHECK(use.by_root[1].pages == 5);
  CHECK(use.shared.pages == 3);
  CHECK(use.shared.bytes == 3 * 8376);
  CHECK(use.shared_pages[0] == 3);
  CHECK(use.shared_pages[1] == 3);
  CHECK(use.orphaned.pages == 0);
  use = rig.machine.pager().table_use(std::array{other});
  CHECK(use.by_root[0].pages == 8);
  CHECK(use.orphaned.pages == 4);
}
