#include "tests/shadow/rig.h"

using namespace mmuscope;

namespace {

constexpr Gva kVa{0x40'0000'0000};
constexpr u64 k2M = u64{2} << 20;
constexpr Gpa kData{u64{32} << 20};
constexpr u64 kUser = ShadowRig::kUser;
constexpr u64 kTouched = GuestTables::kTouched;
constexpr u64 kPage = kUser | kTouched;
constexpr u64 kNoFlush = u64{1} << 63;

/// A rig under shadow-unsync whose pages hold their own number from kVa on.
struct UnsyncRig : ShadowRig {
  explicit UnsyncRig(const std::string& keys = "", unsigned vcpus = 1, u64 flags = kPage)
      : ShadowRig(config_of(vcpus), keys, PageSize::k4K, Kind::Unsync) {
    for (u64 i = 0; i < 32; ++i) {
      tables.map(root, kVa + i * kPageBytes, page(i), flags);
      machine.host_write(page(i), i);
    }
  }
  static MachineConfig config_of(unsigned vcpus) {
    MachineConfig c;
    c.vcpus = vcpus;
    return c;
  }
  static Gpa page(u64 i) { return kData + i * kPageBytes; }
  u64 load(u64 i, unsigned v = 0) { return vcpu(v).load(kVa + i * kPageBytes); }
  /// The direct map of the table is there, so that only what follows counts.
  Gpa warm() {
    const Gpa e = entry(kVa);
    load(0);
    (void)direct_read(e);
    return e;
  }
};

}  // namespace

TEST_CASE("unsync: the first write to a leaf table is one fault, later ones are none") {
  UnsyncRig rig;
  const Gpa e = rig.entry(kVa);
  rig.load(0);
  CHECK(rig.gauges().mmu_unsync == 0);
  Counters d = rig.during([&] { rig.edit(e, UnsyncRig::page(5).raw() | kPage); });
  CHECK(d[Event::PfFixed] == 1);
  CHECK(d[Event::PfEmulate] == 0);
  CHECK(rig.gauges().mmu_unsync == 1);
  d = rig.during([&] {
    for (u64 i = 1; i < 32; ++i) rig.edit(e + 8 * i, UnsyncRig::page(i ^ 1).raw() | kPage);
  });
  CHECK(d[Event::ExitPageFault] == 0);
}

TEST_CASE("unsync: INVLPG brings in one entry, a CR3 load all, and traps the next write again") {
  UnsyncRig rig;
  const Gpa e = rig.warm();
  CHECK(rig.load(1) == 1);  // filled along with the first
  rig.edit(e, UnsyncRig::page(8).raw() | kPage);
  rig.edit(e + 8, UnsyncRig::page(9).raw() | kPage);
  Counters d = rig.during([&] { rig.vcpu().invlpg(kVa); });
  CHECK(d[Event::RemoteTlbFlushRequest] == 1);  // the frame changed: the entry went
  CHECK(rig.gauges().mmu_unsync == 1);
  CHECK(rig.load(0) == 8);
  d = rig.during([&] {
    rig.vcpu().write_cr3(rig.root.raw());
    CHECK(rig.load(1) == 9);
  });
  CHECK(d[Event::RemoteTlbFlushRequest] == 2);  // protection first, then what was dropped
  CHECK(rig.gauges().mmu_unsync == 0);
  CHECK(rig.during([&] { rig.edit(e, 0); })[Event::PfFixed] == 1);
}

TEST_CASE("unsync: a sync drops what lost A, weakens what lost W or D, and never adds") {
  UnsyncRig rig;
  const Gpa e = rig.warm();
  for (u64 i = 0; i < 4; ++i) rig.load(i);
  rig.edit(e, UnsyncRig::page(0).raw() | kUser);                        // A and D gone
  rig.edit(e + 8, UnsyncRig::page(1).raw() | (kPage & ~x86::kWrite));   // read-only
  rig.edit(e + 16, UnsyncRig::page(2).raw() | (kPage & ~x86::kDirty));  // clean
  rig.edit(e + 24, UnsyncRig::page(3).raw() | kPage);                   // as before
  rig.during([&] { rig.vcpu().write_cr3(rig.root.raw()); });
  CHECK(rig.during([&] { rig.load(3); })[Event::PfTaken] == 0);
  CHECK(rig.during([&] { rig.load(2); })[Event::PfTaken] == 0);
  CHECK(rig.during([&] { rig.load(1); })[Event::PfTaken] == 0);
  CHECK(rig.during([&] { rig.load(0); })[Event::PfFixed] == 1);
  CHECK((rig.machine.host_read(e) & kTouched) == x86::kAccessed);
  CHECK_FALSE(rig.vcpu().try_access(kVa + kPageBytes, AccessKind::Write, {1, 8}).done);
  Counters d = rig.during([&] { rig.vcpu().store<u64>(kVa + 2 * kPageBytes, 2); });
  CHECK(d[Event::PfFixed] == 1);
  CHECK((rig.machine.host_read(e + 16) & kTouched) == kTouched);
}

TEST_CASE("unsync: one fault fills the aligned group of 8 up to the first unusable entry") {
  UnsyncRig rig;
  rig.machine.host_write(rig.entry(kVa + 13 * kPageBytes), 0);
  CHECK(rig.during([&] { rig.load(3); })[Event::PfTaken] == 1);
  CHECK(rig.gauges().pages_4k == 8);
  CHECK(rig.during([&] { rig.load(10); })[Event::PfTaken] == 1);
  CHECK(rig.gauges().pages_4k == 8 + 5);
  CHECK(rig.during([&] { rig.load(14); })[Event::PfTaken] == 1);

  UnsyncRig off("prefetch=off");
  off.load(3);
  CHECK(off.gauges().pages_4k == 1);

  UnsyncRig fresh("", 1, kUser);  // nothing accessed yet
  fresh.load(3);
  CHECK(fresh.gauges().pages_4k == 1);
}

TEST_CASE("unsync: the third write to an upper table with no walk between drops its shadow") {
  for (const auto& [keys, limit] : {std::pair{"", 3u}, {"flood=5", 5u}, {"flood=0", 0u}}) {
    UnsyncRig rig(keys);
    rig.warm();
    const Gpa pde = rig.entry(kVa, 2);
    (void)rig.direct_read(pde);
    const u64 value = rig.machine.host_read(pde);
    for (unsigned n = 1; n <= 8; ++n) {
      const Counters d = rig.during([&] { rig.edit(pde + 8 * n, n == 8 ? 0 : value); });
      if (limit == 0 || n <= limit) CHECK(d[Event::PfEmulate] == 1);
      CHECK(d[Event::MmuFlooded] == (n == limit ? 1 : 0));
      if (limit != 0 && n == limit + 1) CHECK(d[Event::PfFixed] == 1);
      if (limit != 0 && n > limit + 1) CHECK(d[Event::ExitPageFault] == 0);
    }
    CHECK(rig.load(0) == 0);
    // A fault that walks through it begins a new count.
    if (limit != 3) continue;
    rig.edit(pde + 8, value);
    rig.edit(pde + 16, value);
    CHECK(rig.vcpu().load(kVa + 2 * k2M + 9 * kPageBytes) == 9);
    CHECK(rig.during([&] { rig.edit(pde + 24, value); })[Event::MmuFlooded] == 0);
  }
}

TEST_CASE("unsync: a table that is linked again is brought up to date, and stays writable") {
  UnsyncRig rig;
  const Gpa e = rig.warm();
  rig.edit(e, UnsyncRig::page(4).raw() | kPage);
  rig.edit(e + 8, UnsyncRig::page(5).raw() | kPage);
  const Gpa pde = rig.entry(kVa, 2);
  const u64 value = rig.machine.host_read(pde);
  // Not present to present needs no flush by the guest. The first access faults and fills its own
  // entry, the second finds what was there.
  rig.edit(pde + 8, value);
  CHECK(rig.vcpu().load(kVa + k2M) == 4);
  CHECK(rig.vcpu().load(kVa + k2M + kPageBytes) == 5);
  CHECK(rig.gauges().mmu_unsync == 1);
  CHECK(rig.during([&] { rig.edit(e, 0); })[Event::ExitPageFault] == 0);
}

TEST_CASE("unsync: every root above a table learns that it is out of sync") {
  UnsyncRig rig;
  const Gpa other = rig.tables.new_table();
  for (const Gva va : {kVa, rig.kDirect}) {  // the same PDPT under another root
    const u64 slot = 8 * table_index(va, 4);
    rig.machine.host_write(other + slot, rig.machine.host_read(rig.root + slot));
  }
  const Gpa e = rig.warm();
  rig.vcpu().write_cr3(other.raw());
  CHECK(rig.load(0) == 0);
  rig.edit(e, UnsyncRig::page(4).raw() | kPage);
  rig.vcpu().write_cr3(rig.root.raw());
  CHECK(rig.load(0) == 4);
  CHECK(rig.gauges().mmu_unsync == 0);
  CHECK(audit_shadow(rig.machine) == "");
}

TEST_CASE("unsync: INVLPG reaches the roots that the vCPU has left") {
  UnsyncRig rig("", 2);
  const Gpa other = rig.new_space();
  const Gpa e = rig.warm();
  rig.vcpu().write_cr3(other.raw());
  (void)rig.direct_read(e);
  rig.edit(e, UnsyncRig::page(4).raw() | kPage);
  const Counters d = rig.during([&] { rig.vcpu().invlpg(kVa); });
  CHECK(d[Event::RemoteTlbFlushRequest] == 1);
}

TEST_CASE("unsync: a cached root costs no lock, one beyond them a look-up") {
  for (const auto& [keys, held] : {std::pair{"", true}, {"roots=2", false}, {"roots=0", false}}) {
    UnsyncRig rig(keys);
    const Gpa a = rig.new_space(), b = rig.new_space(), c = rig.new_space();
    const auto round = [&] {
      for (const Gpa r : {a, b, c, rig.root}) {
        rig.vcpu().write_cr3(r.raw());
        (void)rig.direct_read(Gpa(0));
      }
    };
    round();
    const Counters d = rig.during(round);
    CHECK(d[Event::MmuCacheMiss] == 0);
    CHECK(d[Event::ExitPageFault] == 0);
    CHECK(d[Event::ExitCr3] == 4);
    // A miss takes it to let the oldest root go and to load the new one.
    CHECK(d[Event::LockAcquisition] == (held ? 0 : 8));
  }
}

TEST_CASE("unsync: NOFLUSH neither synchronises nor flushes, a flush of a PCID drops its roots") {
  UnsyncRig rig;
  const Gpa other = rig.new_space();
  Controls c = rig.vcpu().controls();
  c.pcide = true;
  rig.vcpu().write_controls(c);
  rig.vcpu().write_cr3(rig.root.raw() | 1);
  const Gpa e = rig.warm();
  rig.vcpu().write_cr3(other.raw() | 2);
  (void)rig.direct_read(e);
  rig.vcpu().write_cr3(rig.root.raw() | 1 | kNoFlush);
  rig.edit(e, UnsyncRig::page(4).raw() | kPage);
  Counters d = rig.during([&] { rig.vcpu().write_cr3(other.raw() | 2 | kNoFlush); });
  CHECK(d[Event::TlbFlush] == 0);
  d = rig.during([&] { rig.vcpu().write_cr3(rig.root.raw() | 1 | kNoFlush); });
  CHECK(d[Event::LockAcquisition] == 0);
  CHECK(rig.gauges().mmu_unsync == 1);
  // From the other space: the root of PCID 1 is let go, so that coming back must load it.
  rig.vcpu().write_cr3(other.raw() | 2 | kNoFlush);
  rig.vcpu().invpcid(InvpcidType::Context, 1, Gva(0));
  rig.vcpu().write_cr3(rig.root.raw() | 1 | kNoFlush);
  CHECK(rig.load(0) == 4);
  CHECK(rig.gauges().mmu_unsync == 0);
}

TEST_CASE("unsync: with KPTI's two roots a process has two shadows of every user table") {
  UnsyncRig rig;
  // The kernel's root has NX above the user half, the user's has not.
  const Gpa user = rig.tables.new_table();
  const u64 slot = 8 * table_index(kVa, 4);
  const u64 entry = rig.machine.host_read(rig.root + slot);
  rig.machine.host_write(user + slot, entry);
  rig.machine.host_write(rig.root + slot, entry | x86::kNoExec);
  rig.warm();
  const u64 before = rig.gauges().table_pages;
  rig.vcpu().write_cr3(user.raw());
  CHECK(rig.load(0) == 0);
  CHECK(rig.gauges().table_pages == before + 4);  // root, PDPT, PD, PT
  CHECK(rig.vcpu().try_access(kVa, AccessKind::Fetch).done);
  rig.vcpu().write_cr3(rig.root.raw());
  CHECK_FALSE(rig.vcpu().try_access(kVa, AccessKind::Fetch).done);
  // One write takes both out of sync.
  rig.edit(rig.entry(kVa), UnsyncRig::page(6).raw() | kPage);
  CHECK(rig.gauges().mmu_unsync == 2);
}

TEST_CASE("unsync: a frame mapped more often than the limit loses all its mappings") {
  UnsyncRig rig("rmap-limit=10,prefetch=off");
  for (u64 i = 0; i < 16; ++i) {
    rig.machine.host_write(rig.entry(kVa + i * kPageBytes), UnsyncRig::page(0).raw() | kPage);
  }
  const Counters d = rig.during([&] {
    for (u64 i = 0; i < 16; ++i) CHECK(rig.load(i) == 0);
  });
  CHECK(d[Event::RemoteTlbFlushRequest] == 1);
  CHECK(d[Event::PfFixed] == 17);  // the eleventh goes with the rest and comes again
  CHECK(rig.gauges().pages_4k == 6);
}

TEST_CASE("unsync: dropping an upper page leaves its children, or takes those out of sync along") {
  for (const bool take : {false, true}) {
    UnsyncRig rig(take ? "zap-unsync-children=on" : "");
    const Gpa e = rig.warm();
    rig.edit(e, UnsyncRig::page(4).raw() | kPage);
    const Gpa pd = rig.entry(kVa, 2).frame().base();
    (void)rig.direct_read(pd);
    const Counters d =
        rig.during([&] { rig.vcpu().store<u16>(rig.kDirect + pd.raw() + 8 * 300 + 2, 0); });
    CHECK(d[Event::MmuFlooded] == 1);
    CHECK(d[Event::MmuShadowZapped] == (take ? 2 : 1));
    CHECK(rig.gauges().mmu_unsync == (take ? 0 : 1));
    CHECK(rig.load(0) == 4);
  }
}

TEST_CASE("unsync: a vCPU with CR0.WP does not get the pages lent to one without") {
  for (const ShadowRig::Kind kind : {ShadowRig::Kind::Classic, ShadowRig::Kind::Unsync}) {
    ShadowRig rig(UnsyncRig::config_of(2), "", PageSize::k4K, kind);
    rig.tables.map(rig.root, kVa, kData, kPage & ~x86::kWrite);
    Controls c = rig.vcpu(0).controls();
    c.wp = false;
    rig.vcpu(0).write_controls(c);
    rig.vcpu(0).store<u64>(kVa, 1);
    CHECK_FALSE(rig.vcpu(1).try_access(kVa, AccessKind::Write, {2, 8}).done);
    CHECK(rig.vcpu(1).load(kVa) == 1);
    rig.vcpu(0).store<u64>(kVa, 3);
    // The guest changes its mind: the root of before is of another role.
    c.wp = true;
    rig.vcpu(0).write_controls(c);
    CHECK_FALSE(rig.vcpu(0).try_access(kVa, AccessKind::Write, {4, 8}).done);
    CHECK(audit_shadow(rig.machine) == "");
  }
}

TEST_CASE("unsync: no root survives a change of the controls that it was made under") {
  UnsyncRig rig;
  const Gpa other = rig.new_space();
  const Gva va = kVa + 40 * kPageBytes;
  rig.tables.map(rig.root, va, kData, kPage | x86::kNoExec);
  rig.vcpu().load(va);
  rig.vcpu().write_cr3(other.raw());
  Controls c = rig.vcpu().controls();
  c.nxe = false;  // bit 63 is reserved from now on
  rig.vcpu().write_controls(c);
  rig.vcpu().write_cr3(rig.root.raw());
  CHECK_FALSE(rig.vcpu().try_access(va, AccessKind::Read).done);
}

TEST_CASE("unsync: the dirty log sees first writes, each round anew") {
  UnsyncRig rig;
  for (u64 i = 0; i < 8; ++i) rig.vcpu().store<u64>(kVa + i * kPageBytes, i);
  Counters d = rig.during([&] { rig.machine.pager().log_dirty(true); });
  CHECK(d[Event::RemoteTlbFlushRequest] == 1);
  for (int round = 0; round < 2; ++round) {
    d = rig.during([&] {
      for (u64 i = 0; i < 8; ++i) rig.load(i);
      for (u64 i = 0; i < 5; ++i) rig.vcpu().store<u64>(kVa + i * kPageBytes, i);
      for (u64 i = 0; i < 5; ++i) rig.vcpu().store<u64>(kVa + i * kPageBytes, i);
    });
    CHECK(d[Event::PfFixed] == 5);
    d = rig.during([&] { CHECK(rig.machine.pager().harvest_dirty() == 5); });
    CHECK(d[Event::RemoteTlbFlushRequest] == 1);
    CHECK(rig.machine.pager().harvest_dirty() == 0);
  }
  rig.machine.pager().log_dirty(false);
  rig.vcpu().store<u64>(kVa, 1);
  rig.vcpu().store<u64>(kVa, 1);
  CHECK(rig.during([&] { rig.vcpu().store<u64>(kVa, 1); })[Event::ExitPageFault] == 0);
}

TEST_CASE("unsync: the dirty log sees tables in which the hypervisor set A or D for the guest") {
  UnsyncRig rig("", 1, kUser);
  rig.load(0);
  rig.machine.pager().log_dirty(true);
  rig.load(0);
  CHECK(rig.machine.pager().harvest_dirty() == 0);
  rig.load(1);
  CHECK(rig.machine.pager().harvest_dirty() == 1);  // A in the leaf table
  rig.vcpu().store<u64>(kVa, 1);
  CHECK(rig.machine.pager().harvest_dirty() == 2);  // D there, and the page
}

TEST_CASE("unsync: a lower limit takes effect at once, oldest pages first") {
  UnsyncRig rig;
  for (u64 i = 0; i < 100; ++i) {
    rig.tables.map(rig.root, kVa + (10 + i) * k2M, kData, kPage);
    rig.vcpu().load(kVa + (10 + i) * k2M);
  }
  const u64 before = rig.gauges().table_pages;
  const Counters d = rig.during([&] { rig.machine.pager().limit_shadow_pages(64); });
  CHECK(rig.gauges().table_pages == 64);
  CHECK(d[Event::MmuRecycled] == before - 64);
  CHECK(rig.vcpu().load(kVa + 109 * k2M) == 0);
}

TEST_CASE("unsync: shadow pages outlive their process until something takes them") {
  UnsyncRig rig;
  const Gpa other = rig.new_space();
  rig.warm();
  rig.vcpu().write_cr3(other.raw());
  (void)rig.direct_read(Gpa(0));
  const TableUse use = rig.machine.pager().table_use(std::array{other});
  CHECK(use.orphaned.pages == 7);  // a root, and twice three tables
  CHECK(use.by_root[0].pages == 4);
}

// --- Xen's decisions
// ------------------------------------------------------------------------------

TEST_CASE("unsync: of a bounded number of tables out of sync the oldest is synchronised") {
  UnsyncRig rig("unsync-pages=3");
  std::vector<Gpa> entries;
  for (u64 t = 0; t < 4; ++t) {
    const Gva va = kVa + (10 + t) * k2M;
    rig.tables.map(rig.root, va, UnsyncRig::page(t), kPage);
    entries.push_back(rig.entry(va));
    CHECK(rig.vcpu().load(va) == t);
  }
  for (u64 t = 0; t < 3; ++t) rig.edit(entries[t], UnsyncRig::page(t + 8).raw() | kPage);
  CHECK(rig.gauges().mmu_unsync == 3);
  const Counters d = rig.during([&] { rig.edit(entries[3], UnsyncRig::page(11).raw() | kPage); });
  CHECK(rig.gauges().mmu_unsync == 3);
  CHECK(d[Event::RemoteTlbFlushRequest] == 2);  // the first table's mapping, then its entry
  CHECK(rig.vcpu().load(kVa + 10 * k2M) == 8);  // without a flush by the guest
  CHECK(rig.during([&] { rig.edit(entries[0], 0); })[Event::PfFixed] == 1);
  rig.vcpu().write_cr3(rig.root.raw());
  for (u64 t = 1; t < 4; ++t) CHECK(rig.vcpu().load(kVa + (10 + t) * k2M) == t + 8);
  CHECK(rig.gauges().mmu_unsync == 0);
}

TEST_CASE("unsync: bounded, a CR3 load refreshes what another vCPU has out of sync") {
  UnsyncRig rig("policy=xen", 2);
  const Gpa e = rig.warm();
  rig.edit(e, UnsyncRig::page(7).raw() | kPage);
  CHECK(rig.gauges().mmu_unsync == 1);
  rig.vcpu(1).write_cr3(rig.root.raw());
  CHECK(rig.load(0, 1) == 7);
  CHECK(rig.gauges().mmu_unsync == 1);
  CHECK(rig.during([&] { rig.edit(e, 0); })[Event::ExitPageFault] == 0);
}

TEST_CASE("unsync: bounded, a table with two shadows has its writes emulated") {
  UnsyncRig rig("policy=xen");
  const u64 pde = rig.machine.host_read(rig.entry(kVa, 2));
  rig.machine.host_write(rig.entry(kVa + (u64{1} << 30), 2), pde & ~x86::kWrite);
  const Gpa e = rig.entry(kVa);
  rig.load(0);
  rig.vcpu().load(kVa + (u64{1} << 30));
  const Counters d = rig.during([&] { rig.edit(e, UnsyncRig::page(3).raw() | kPage); });
  CHECK(d[Event::PfEmulate] == 1);
  CHECK(rig.load(0) == 3);
}

TEST_CASE("unsync: a propagated write saves the fault that brings the entry in") {
  for (const bool on : {false, true}) {
    UnsyncRig rig(on ? "propagate=on" : "");
    rig.warm();
    const Gpa pde = rig.entry(kVa, 2);
    (void)rig.direct_read(pde);
    const u64 value = rig.machine.host_read(pde);
    CHECK((value & x86::kAccessed) != 0);
    rig.edit(pde, 0);
    rig.edit(pde, value);
    CHECK(rig.during([&] { CHECK(rig.load(0) == 0); })[Event::PfTaken] == (on ? 0 : 1));
    // The first use of an entry must still be seen.
    rig.edit(pde, value & ~x86::kAccessed);
    CHECK(rig.during([&] { rig.load(0); })[Event::PfTaken] == 1);
    CHECK(rig.machine.host_read(pde) == value);
  }
}

TEST_CASE("unsync: trapped and propagated, a leaf table's write makes its new entry") {
  UnsyncRig rig("unsync=off,propagate=on");
  const Gpa e = rig.warm();
  const Counters d = rig.during([&] {
    rig.edit(e, UnsyncRig::page(5).raw() | kPage);
    rig.vcpu().invlpg(kVa);
    CHECK(rig.load(0) == 5);
  });
  CHECK(d[Event::PfEmulate] == 1);
  CHECK(d[Event::PfTaken] == 1);
}

TEST_CASE("unsync: a shadow is filled by the controls of its role, whoever writes") {
  UnsyncRig rig("unsync=off,propagate=on", 2);
  Controls c = rig.vcpu(0).controls();
  c.nxe = false;
  rig.vcpu(0).write_controls(c);
  const Gpa e = rig.entry(kVa);
  rig.load(0, 0);
  rig.load(0, 1);
  const u64 no_exec = UnsyncRig::page(0).raw() | kPage | x86::kNoExec;
  rig.vcpu(1).store(rig.kDirect + e.raw(), no_exec);
  CHECK(rig.vcpu(1).try_access(kVa, AccessKind::Read).done);
  CHECK_FALSE(rig.vcpu(0).try_access(kVa, AccessKind::Read).done);  // a reserved bit there
}

TEST_CASE("unsync: forward prefetch fills the next entries to the end of the table") {
  UnsyncRig rig("prefetch=forward");
  rig.load(4);
  CHECK(rig.gauges().pages_4k == 28);  // 4 to 31, where the mapped pages end
  for (u64 i = 500; i < 512; ++i) {
    rig.tables.map(rig.root, kVa + k2M + i * kPageBytes, kData, kPage);
  }
  rig.vcpu().load(kVa + k2M + 505 * kPageBytes);
  CHECK(rig.gauges().pages_4k == 28 + 7);
}

TEST_CASE("unsync: large pages may be switched off") {
  MachineConfig c;
  c.backing = PageSize::k2M;
  for (const bool on : {true, false}) {
    ShadowRig rig(c, on ? "" : "large-pages=off", PageSize::k4K, ShadowRig::Kind::Unsync);
    rig.tables.map(rig.root, kVa, kData, kPage, PageSize::k2M);
    rig.vcpu().load(kVa);
    CHECK(rig.gauges().pages_2m == (on ? 1 : 0));
    CHECK(rig.gauges().pages_4k == (on ? 0 : 8));
  }
}
