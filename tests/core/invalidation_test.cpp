// What each operation drops of each kind of mapping: the tables of SDM vol. 3, *Operations that
// Invalidate Cached Mappings* and *Operations that Invalidate TLBs and Paging-Structure Caches*,
// and of APM vol. 2, *TLB Control*, one row an operation, one planted entry a column.

#include <doctest/doctest.h>

#include <functional>
#include <memory>
#include <string>

#include "core/machine.h"

using namespace mmuscope;

namespace {

constexpr Gva kVa{0x40'0000'0000}, kElsewhere{0x80'4000'0000};
constexpr Gpa kGpa{0x123'4000}, kOtherGpa{0x80'4000'0000};
constexpr u32 kVpid = 1, kPcid = 1, kEp4ta = 1;  // the current ones
constexpr u32 kOther = 2;

enum class Kind { Tlb, Tables, SecondTables, SecondTlb };
struct Planted {
  const char* name;
  Kind kind;
  u32 vpid, pcid, ep4ta;
  bool global = false;
  bool elsewhere = false;  ///< for another address than the operation's
};

constexpr Planted kPlanted[] = {
    // linear mappings
    {"linear", Kind::Tlb, kVpid, kPcid, 0},
    {"linear, another address", Kind::Tlb, kVpid, kPcid, 0, false, true},
    {"linear, global", Kind::Tlb, kVpid, kPcid, 0, true},
    {"linear, another PCID", Kind::Tlb, kVpid, kOther, 0},
    {"linear, another VPID", Kind::Tlb, kOther, kPcid, 0},
    {"linear tables", Kind::Tables, kVpid, kPcid, 0},
    {"linear tables, another address", Kind::Tables, kVpid, kPcid, 0, false, true},
    {"linear tables, another PCID", Kind::Tables, kVpid, kOther, 0},
    {"linear tables, another VPID", Kind::Tables, kOther, kPcid, 0},
    // combined mappings
    {"combined", Kind::Tlb, kVpid, kPcid, kEp4ta},
    {"combined, another address", Kind::Tlb, kVpid, kPcid, kEp4ta, false, true},
    {"combined, global", Kind::Tlb, kVpid, kPcid, kEp4ta, true},
    {"combined, another PCID", Kind::Tlb, kVpid, kOther, kEp4ta},
    {"combined, another VPID", Kind::Tlb, kOther, kPcid, kEp4ta},
    {"combined, another EP4TA", Kind::Tlb, kVpid, kPcid, kOther},
    {"combined tables", Kind::Tables, kVpid, kPcid, kEp4ta},
    {"combined tables, another address", Kind::Tables, kVpid, kPcid, kEp4ta, false, true},
    {"combined tables, another EP4TA", Kind::Tables, kVpid, kPcid, kOther},
    // guest-physical mappings
    {"guest-physical tables", Kind::SecondTables, 0, 0, kEp4ta},
    {"guest-physical tables, another EP4TA", Kind::SecondTables, 0, 0, kOther},
    {"guest-physical", Kind::SecondTlb, 0, 0, kEp4ta},
    {"guest-physical, another address", Kind::SecondTlb, 0, 0, kEp4ta, false, true},
    {"guest-physical, another EP4TA", Kind::SecondTlb, 0, 0, kOther},
    // those of VPID 0, which is the host's and that of guests without VPID
    {"VPID 0, linear", Kind::Tlb, 0, kPcid, 0},
    {"VPID 0, linear, global", Kind::Tlb, 0, kPcid, 0, true},
    {"VPID 0, linear, another PCID", Kind::Tlb, 0, kOther, 0},
    {"VPID 0, linear tables", Kind::Tables, 0, kPcid, 0},
    {"VPID 0, combined", Kind::Tlb, 0, kPcid, kEp4ta},
    {"VPID 0, combined, global", Kind::Tlb, 0, kPcid, kEp4ta, true},
    {"VPID 0, combined, another EP4TA", Kind::Tlb, 0, kPcid, kOther},
    {"VPID 0, combined tables", Kind::Tables, 0, kPcid, kEp4ta},
};

/// What the vCPU is before the operation.
struct Setting {
  bool pcide = true, pge = false, smep = false, smap = false, wp = true;
  bool vpid = true;
};

/// One column a character, in the order of kPlanted: D must be dropped; d need not be, and is here;
/// k need not be by the manual's own words, and is kept here; a dot: the operation is not about it,
/// and it is kept. Hardware may always drop more than it must.
struct Operation {
  const char* name;
  const char* linear;
  const char* combined;
  const char* guest_physical;
  const char* vpid_0;
  std::function<void(Vcpu&)> run;
  Setting before = {};
};

/// Writes CR0 or CR4 with one bit set or clear.
std::function<void(Vcpu&)> set(bool Controls::*bit, bool on) {
  return [bit, on](Vcpu& v) {
    Controls c = v.controls();
    c.*bit = on;
    v.write_controls(c);
  };
}
void exit_and_enter(Vcpu& v) { v.send_ipi(v); }  // a WRMSR that the rig's pager intercepts

// What guests do. Where a page is dropped, all paging-structure entries of the tag go with it as
// INVLPG's must; faults drop those on the way to the address alone. Guest-physical mappings stay: a
// CPU that tags them, as all with VPID do, has no reason to drop them. Global translations stay
// where they may. AMD's CPUs are taken to do the same in a guest's ASID (APM vol. 2, *TLB
// Management*).
const Operation kGuest[] = {
    {"INVLPG", "D.D..DD..", "D.D..DDDD", "kkkkk", "........", [](Vcpu& v) { v.invlpg(kVa); }},
    {"INVPCID 0", "D.k..Dd..", "D.k..DDdD", "kkkkk", "........",
     [](Vcpu& v) { v.invpcid(InvpcidType::Address, kPcid, kVa); }},
    {"INVPCID 0 of another PCID", "...D...D.", "...D.....", "kkkkk", "........",
     [](Vcpu& v) { v.invpcid(InvpcidType::Address, kOther, kVa); }},
    {"INVPCID 1", "DDk..DD..", "DDk..DDDD", "kkkkk", "........",
     [](Vcpu& v) { v.invpcid(InvpcidType::Context, kPcid, {}); }},
    {"INVPCID 1 of another PCID", "...D...D.", "...D.....", "kkkkk", "........",
     [](Vcpu& v) { v.invpcid(InvpcidType::Context, kOther, {}); }},
    {"INVPCID 2", "DDDD.DDD.", "DDDD.DDDD", "kkkkk", "........",
     [](Vcpu& v) { v.invpcid(InvpcidType::All, 0, {}); }},
    {"INVPCID 3", "DDkD.DDD.", "DDkD.DDDD", "kkkkk", "........",
     [](Vcpu& v) { v.invpcid(InvpcidType::AllNonGlobal, 0, {}); }},
    {"MOV CR3", "DDk..DD..", "DDk..DDDD", "kkkkk", "........", [](Vcpu& v) { v.write_cr3(kPcid); }},
    {"MOV CR3 to another PCID", "...D...D.", "...D.....", "kkkkk", "........",
     [](Vcpu& v) { v.write_cr3(kOther); }},
    {"MOV CR3 with bit 63", "kkkk.kkk.", "kkkk.kkkk", "kkkkk", "........",
     [](Vcpu& v) { v.write_cr3(u64{1} << 63 | kPcid); }},
    {"MOV CR3 without PCIDs",
     "DDk..DD..",
     "DDk..DDDD",
     "kkkkk",
     "........",
     [](Vcpu& v) { v.write_cr3(0); },
     {.pcide = false}},
    {"CR4.PGE 0 to 1", "DDDD.DDD.", "DDDD.DDDD", "kkkkk", "........", set(&Controls::pge, true)},
    {"CR4.PGE 1 to 0",
     "DDDD.DDD.",
     "DDDD.DDDD",
     "kkkkk",
     "........",
     set(&Controls::pge, false),
     {.pge = true}},
    {"CR4.PCIDE 0 to 1",
     ".........",
     ".........",
     ".....",
     "........",
     set(&Controls::pcide, true),
     {.pcide = false}},
    {"CR4.PCIDE 1 to 0", "DDDD.DDD.", "DDDD.DDDD", "kkkkk", "........",
     set(&Controls::pcide, false)},
    {"CR4.SMEP 0 to 1", "DDD..DD..", "DDD..DDDD", "kkkkk", "........", set(&Controls::smep, true)},
    {"CR4.SMEP 1 to 0",
     ".........",
     ".........",
     ".....",
     "........",
     set(&Controls::smep, false),
     {.smep = true}},
    {"CR4.SMAP 0 to 1", ".........", ".........", ".....", "........", set(&Controls::smap, true)},
    {"CR4.SMAP 1 to 0",
     ".........",
     ".........",
     ".....",
     "........",
     set(&Controls::smap, false),
     {.smap = true}},
    {"CR0.WP 0 to 1",
     ".........",
     ".........",
     ".....",
     "........",
     set(&Controls::wp, true),
     {.wp = false}},
    {"CR0.WP 1 to 0", ".........", ".........", ".....", "........", set(&Controls::wp, false)},
    {"#PF", "D.D..D...", "D.D..DD.D", ".....", "........",
     [](Vcpu& v) { CHECK_FALSE(v.try_access(kVa, AccessKind::Write).done); }},
};

// The rest on Intel. INVEPT keeps linear mappings and INVVPID guest-physical ones.
const Operation kIntel[] = {
    {"EPT violation", ".........", "D.D...D..", "D.D..", "........",
     [](Vcpu& v) { v.forget_translation(kVa, kGpa); }},
    {"VM exit and entry", "kkkkkkkkk", "kkkkkkkkk", "kkkkk", "kkkkkkkk", exit_and_enter},
    {"VM exit and entry without VPID",
     ".........",
     ".........",
     "kkkkk",
     "DDDDDDDD",
     exit_and_enter,
     {.vpid = false}},
    {"INVVPID 0", "D.DD.D.D.", "D.DD.DD.D", "kkkkk", "........",
     [](Vcpu& v) { v.invvpid(InvvpidType::Address, kVpid, kVa); }},
    {"INVVPID 1", "DDDD.DDD.", "DDDD.DDDD", "kkkkk", "........",
     [](Vcpu& v) { v.invvpid(InvvpidType::Single, kVpid, {}); }},
    {"INVVPID 1 of another VPID", "....D...D", "....D....", "kkkkk", "........",
     [](Vcpu& v) { v.invvpid(InvvpidType::Single, kOther, {}); }},
    {"INVVPID 2", "DDDDDDDDD", "DDDDDDDDD", "kkkkk", "........",
     [](Vcpu& v) { v.invvpid(InvvpidType::All, 0, {}); }},
    {"INVVPID 3", "DDkD.DDD.", "DDkD.DDDD", "kkkkk", "........",
     [](Vcpu& v) { v.invvpid(InvvpidType::SingleKeepGlobals, kVpid, {}); }},
    {"INVEPT 1", "kkkkkkkkk", "DDDDD.DD.", "D.DD.", "kkkkDD.D",
     [](Vcpu& v) { v.invept(InveptType::Single, kEp4ta); }},
    {"INVEPT 1 of another EP4TA", "kkkkkkkkk", ".....D..D", ".D..D", "kkkk..D.",
     [](Vcpu& v) { v.invept(InveptType::Single, kOther); }},
    {"INVEPT 2", "kkkkkkkkk", "DDDDDDDDD", "DDDDD", "kkkkDDDD",
     [](Vcpu& v) { v.invept(InveptType::All, 0); }},
};

// The rest on AMD. A guest's mappings of every kind share its ASID, which stands where the VPID
// does, so that guest-physical ones go with the others; the columns of other EP4TAs say nothing
// there but that the ASID alone decides. What a #NPF drops APM vol. 2 does not say: ours is what an
// EPT violation drops.
const Operation kAmd[] = {
    {"#NPF", ".........", "d.d...d..", "d.d..", "........",
     [](Vcpu& v) { v.forget_translation(kVa, kGpa); }},
    {"#VMEXIT and VMRUN", "kkkkkkkkk", "kkkkkkkkk", "kkkkk", "kkkkkkkk", exit_and_enter},
    {"#VMEXIT and VMRUN without ASIDs",
     ".........",
     ".........",
     "DDDDD",
     "DDDDDDDD",
     exit_and_enter,
     {.vpid = false}},
    {"INVLPGA", "D.DD.DdD.", "D.DD.DDdD", "kkkkk", "........",
     [](Vcpu& v) { v.invlpga(kVa, kVpid); }},
    {"TLB_CONTROL 0", "kkkkkkkkk", "kkkkkkkkk", "kkkkk", "kkkkkkkk",
     [](Vcpu& v) { v.tlb_control(TlbControl::Nothing, kVpid); }},
    {"TLB_CONTROL 1", "DDDDDDDDD", "DDDDDDDDD", "DDDDD", "DDDDDDDD",
     [](Vcpu& v) { v.tlb_control(TlbControl::FlushAll, kVpid); }},
    {"TLB_CONTROL 3", "DDDD.DDD.", "DDDD.DDDD", "DDDDD", "........",
     [](Vcpu& v) { v.tlb_control(TlbControl::FlushAsid, kVpid); }},
    {"TLB_CONTROL 3 of another ASID", "....D...D", "....D....", ".....", "........",
     [](Vcpu& v) { v.tlb_control(TlbControl::FlushAsid, kOther); }},
    {"TLB_CONTROL 7", "DDkD.DDD.", "DDkD.DDDD", "ddddd", "........",
     [](Vcpu& v) { v.tlb_control(TlbControl::FlushAsidKeepGlobals, kVpid); }},
};

/// Faults on every walk, and lets WRMSR alone exit.
class NoTables final : public Pager {
 public:
  Outcome walk(Vcpu&, Gva va, Access) override {
    return Outcome::fault_of(GuestFault::Kind::PageFault, 0, va);
  }
  bool intercepts(ExitReason reason) const override { return reason == ExitReason::MsrWrite; }
  Resume handle(Vcpu&, const VmExit&) override { return Resume::retry(); }
  Gauges gauges() const override { return {}; }
  TableUse table_use(std::span<const Gpa>) const override { return {}; }
};

/// A vCPU with PCID 1 (without PCIDs 0), VPID 1 (or 0) and EP4TA 1 current, and all of its caches
/// on.
class Rig {
 public:
  Rig(const char* cpu, const Setting& s)
      : machine_(config(cpu, s), [](Machine&) { return std::make_unique<NoTables>(); }),
        pcid_(s.pcide ? kPcid : 0) {
    Controls c;
    c.pcide = s.pcide;
    c.pge = s.pge;
    c.smep = s.smep;
    c.smap = s.smap;
    c.wp = s.wp;
    vcpu().set_controls(c);
    vcpu().use_ept(kEp4ta);
    vcpu().set_cr3(pcid_);
    amd_asid_ = machine_.cpu().vendor == Vendor::Amd ? (s.vpid ? kVpid : 0) : 0;
  }

  Vcpu& vcpu() { return machine_.vcpu(0); }

  void plant(const Planted& p) {
    switch (p.kind) {
      case Kind::Tlb: {
        TlbEntry e;
        e.va = at(p).raw();
        e.offset_mask = kPageBytes - 1;
        e.context_mask = p.global ? ~kPcidBits : ~Context{0};
        e.context = context(p) & e.context_mask;
        e.global = p.global;
        vcpu().tlb().fill(AccessKind::Read, at(p), e, 1);
        break;
      }
      case Kind::Tables:
        for (unsigned level : {2, 3, 4}) {
          vcpu().walk_cache().insert(at(p), level, context(p), 0x1000, 0);
        }
        break;
      case Kind::SecondTables:
        vcpu().guest_physical().tables().insert(kGpa, 2, context(p), 0x1000, 0);
        break;
      case Kind::SecondTlb: {
        NestedTlb::Entry e;
        e.base = second_at(p);
        e.context = context(p);
        vcpu().guest_physical().insert_page(e);
        break;
      }
    }
  }

  bool alive(const Planted& p) {
    switch (p.kind) {
      case Kind::Tlb: {
        const bool first =
            vcpu().tlb().first(AccessKind::Read).search(at(p), context(p)) != TlbLevel::kNone;
        const bool second =
            vcpu().tlb().find_second(AccessKind::Read, at(p), context(p), 1) != nullptr;
        CHECK(first == second);
        return first;
      }
      case Kind::Tables:
        return vcpu().walk_cache().find(at(p), context(p)).level != 0;
      case Kind::SecondTables:
        return vcpu().guest_physical().tables().find(kGpa, context(p)).level != 0;
      case Kind::SecondTlb:
        break;
    }
    return vcpu().guest_physical().find_page(second_at(p), context(p)) != nullptr;
  }

 private:
  static MachineConfig config(const char* cpu, const Setting& s) {
    MachineConfig c;
    c.cpu = cpu;
    c.vpid = s.vpid;
    c.walk_caches = WalkCaches::TwoDTlb;
    return c;
  }
  static Gva at(const Planted& p) { return p.elsewhere ? kElsewhere : kVa; }
  static Gpa second_at(const Planted& p) { return p.elsewhere ? kOtherGpa : kGpa; }
  Context context(const Planted& p) const {
    const bool second = p.kind == Kind::SecondTables || p.kind == Kind::SecondTlb;
    return make_context(second ? amd_asid_ : p.vpid, p.pcid == kPcid ? pcid_ : p.pcid, p.ep4ta);
  }

  Machine machine_;
  u32 pcid_;          // the current one
  u32 amd_asid_ = 0;  // the tag of guest-physical mappings besides the EP4TA
};

/// Each operation on each planted entry, alone, in a machine of its own.
template <std::size_t kRows>
void check(const char* cpu, const Operation (&rows)[kRows]) {
  for (const Operation& row : rows) {
    const std::string expected =
        std::string(row.linear) + row.combined + row.guest_physical + row.vpid_0;
    CAPTURE(row.name);
    REQUIRE(expected.size() == std::size(kPlanted));
    for (std::size_t i = 0; i < std::size(kPlanted); ++i) {
      CAPTURE(kPlanted[i].name);
      Rig rig(cpu, row.before);
      rig.plant(kPlanted[i]);
      REQUIRE(rig.alive(kPlanted[i]));
      row.run(rig.vcpu());
      CHECK(rig.alive(kPlanted[i]) == (expected[i] == '.' || expected[i] == 'k'));
    }
  }
}

}  // namespace

TEST_CASE("what guests' operations drop of each kind of mapping") {
  check("cascade-lake", kGuest);
  check("zen3", kGuest);
}
TEST_CASE("what Intel's operations drop of each kind of mapping") { check("cascade-lake", kIntel); }
TEST_CASE("what AMD's operations drop of each kind of mapping") { check("zen3", kAmd); }
