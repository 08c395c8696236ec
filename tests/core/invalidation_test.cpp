// What each operation drops of each kind of mapping: the tables of SDM vol. 3, *Operations that
// Invalidate Cached Mappings* and *Operations that Invalidate TLBs and Paging-Structure Caches*,
// and of APM vol. 2, *TLB Control*, one row an operation, one planted entry a column.

#include <doctest/doctest.h>

#include <functional>
#include <string>

#include "core/machine.h"
#include "core/native_pager.h"

using namespace mmuscope;

namespace {

constexpr Gva kVa{0x40'0000'0000}, kElsewhere{0x80'4000'0000};
constexpr Gpa kGpa{0x123'4000}, kOtherGpa{0x80'4000'0000};
constexpr u32 kVpid = 1, kPcid = 1, kEp4ta = 1;  // the current ones

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
    {"linear, another PCID", Kind::Tlb, kVpid, 2, 0},
    {"linear, another VPID", Kind::Tlb, 2, kPcid, 0},
    {"linear, VPID 0", Kind::Tlb, 0, kPcid, 0},
    {"linear tables", Kind::Tables, kVpid, kPcid, 0},
    {"linear tables, another address", Kind::Tables, kVpid, kPcid, 0, false, true},
    {"linear tables, another PCID", Kind::Tables, kVpid, 2, 0},
    {"linear tables, another VPID", Kind::Tables, 2, kPcid, 0},
    // combined mappings
    {"combined", Kind::Tlb, kVpid, kPcid, kEp4ta},
    {"combined, another address", Kind::Tlb, kVpid, kPcid, kEp4ta, false, true},
    {"combined, global", Kind::Tlb, kVpid, kPcid, kEp4ta, true},
    {"combined, another PCID", Kind::Tlb, kVpid, 2, kEp4ta},
    {"combined, another VPID", Kind::Tlb, 2, kPcid, kEp4ta},
    {"combined, another EP4TA", Kind::Tlb, kVpid, kPcid, 2},
    {"combined tables", Kind::Tables, kVpid, kPcid, kEp4ta},
    {"combined tables, another address", Kind::Tables, kVpid, kPcid, kEp4ta, false, true},
    {"combined tables, another EP4TA", Kind::Tables, kVpid, kPcid, 2},
    // guest-physical mappings
    {"guest-physical tables", Kind::SecondTables, 0, 0, kEp4ta},
    {"guest-physical tables, another EP4TA", Kind::SecondTables, 0, 0, 2},
    {"guest-physical", Kind::SecondTlb, 0, 0, kEp4ta},
    {"guest-physical, another address", Kind::SecondTlb, 0, 0, kEp4ta, false, true},
    {"guest-physical, another EP4TA", Kind::SecondTlb, 0, 0, 2},
};

/// One column a character, in the order of kPlanted: D must be dropped; d may be, and is here;
/// a dot: may be, and is not here. Hardware may always drop more than it must.
struct Operation {
  const char* name;
  const char* linear;
  const char* combined;
  const char* guest_physical;
  std::function<void(Vcpu&)> run;
};

void change_controls(Vcpu& v, const std::function<void(Controls&)>& change) {
  Controls c = v.controls();
  change(c);
  v.write_controls(c);
}

// Where a page is dropped, all paging-structure entries of the tag go with it as INVLPG's must
// (INVPCID 0, INVLPGA); INVVPID 0 and faults drop those on the way to the address alone. INVVPID
// and what guests do keep guest-physical mappings, INVEPT keeps linear ones: a CPU that tags them,
// as all with VPID do, has no reason to drop them.
const Operation kIntel[] = {
    {"INVLPG", "D.D...DD..", "D.D..DDDD", ".....", [](Vcpu& v) { v.invlpg(kVa); }},
    {"INVPCID 0", "D.....Dd..", "D....DDdD", ".....",
     [](Vcpu& v) { v.invpcid(InvpcidType::Address, kPcid, kVa); }},
    {"INVPCID 1", "DD....DD..", "DD...DDDD", ".....",
     [](Vcpu& v) { v.invpcid(InvpcidType::Context, kPcid, {}); }},
    {"INVPCID 1 of another PCID", "...D....D.", "...D.....", ".....",
     [](Vcpu& v) { v.invpcid(InvpcidType::Context, 2, {}); }},
    {"INVPCID 2", "DDDD..DDD.", "DDDD.DDDD", ".....",
     [](Vcpu& v) { v.invpcid(InvpcidType::All, 0, {}); }},
    {"INVPCID 3", "DD.D..DDD.", "DD.D.DDDD", ".....",
     [](Vcpu& v) { v.invpcid(InvpcidType::AllNonGlobal, 0, {}); }},
    {"MOV CR3", "DD....DD..", "DD...DDDD", ".....", [](Vcpu& v) { v.write_cr3(kPcid); }},
    {"MOV CR3 to another PCID", "...D....D.", "...D.....", ".....",
     [](Vcpu& v) { v.write_cr3(2); }},
    {"MOV CR3 with bit 63", "..........", ".........", ".....",
     [](Vcpu& v) { v.write_cr3(u64{1} << 63 | kPcid); }},
    {"CR4.PGE 0 to 1", "DDDD..DDD.", "DDDD.DDDD", ".....",
     [](Vcpu& v) { change_controls(v, [](Controls& c) { c.pge = true; }); }},
    {"CR4.PCIDE 1 to 0", "DDDD..DDD.", "DDDD.DDDD", ".....",
     [](Vcpu& v) { change_controls(v, [](Controls& c) { c.pcide = false; }); }},
    {"CR4.SMEP 0 to 1", "DDD...DD..", "DDD..DDDD", ".....",
     [](Vcpu& v) { change_controls(v, [](Controls& c) { c.smep = true; }); }},
    {"CR4.SMAP 0 to 1", "..........", ".........", ".....",
     [](Vcpu& v) { change_controls(v, [](Controls& c) { c.smap = true; }); }},
    {"CR0.WP 1 to 0", "..........", ".........", ".....",
     [](Vcpu& v) { change_controls(v, [](Controls& c) { c.wp = false; }); }},
    {"#PF", "D.D...D...", "D.D..DD.D", ".....",
     [](Vcpu& v) { CHECK_FALSE(v.try_access(kVa, AccessKind::Write).done); }},
    {"EPT violation", "..........", "D.D...D..", "D.D..",
     [](Vcpu& v) { v.forget_translation(kVa, kGpa); }},
    {"INVVPID 0", "D.DD..D.D.", "D.DD.DD.D", ".....",
     [](Vcpu& v) { v.invvpid(InvvpidType::Address, kVpid, kVa); }},
    {"INVVPID 1", "DDDD..DDD.", "DDDD.DDDD", ".....",
     [](Vcpu& v) { v.invvpid(InvvpidType::Single, kVpid, {}); }},
    {"INVVPID 1 of another VPID", "....D....D", "....D....", ".....",
     [](Vcpu& v) { v.invvpid(InvvpidType::Single, 2, {}); }},
    {"INVVPID 2", "DDDDD.DDDD", "DDDDDDDDD", ".....",
     [](Vcpu& v) { v.invvpid(InvvpidType::All, 0, {}); }},
    {"INVVPID 3", "DD.D..DDD.", "DD.D.DDDD", ".....",
     [](Vcpu& v) { v.invvpid(InvvpidType::SingleKeepGlobals, kVpid, {}); }},
    {"INVEPT 1", "..........", "DDDDD.DD.", "D.DD.",
     [](Vcpu& v) { v.invept(InveptType::Single, kEp4ta); }},
    {"INVEPT 1 of another EP4TA", "..........", ".....D..D", ".D..D",
     [](Vcpu& v) { v.invept(InveptType::Single, 2); }},
    {"INVEPT 2", "..........", "DDDDDDDDD", "DDDDD", [](Vcpu& v) { v.invept(InveptType::All, 0); }},
};

// On AMD a guest's mappings of every kind share its ASID, which stands where the VPID does; the
// columns of other EP4TAs say nothing there but that the ASID alone decides.
const Operation kAmd[] = {
    {"INVLPGA", "D.DD..DdD.", "D.DD.DDdD", ".....", [](Vcpu& v) { v.invlpga(kVa, kVpid); }},
    {"TLB_CONTROL 0", "..........", ".........", ".....",
     [](Vcpu& v) { v.tlb_control(TlbControl::Nothing, kVpid); }},
    {"TLB_CONTROL 1", "DDDDDDDDDD", "DDDDDDDDD", "DDDDD",
     [](Vcpu& v) { v.tlb_control(TlbControl::FlushAll, kVpid); }},
    {"TLB_CONTROL 3", "DDDD..DDD.", "DDDD.DDDD", "DDDDD",
     [](Vcpu& v) { v.tlb_control(TlbControl::FlushAsid, kVpid); }},
    {"TLB_CONTROL 7", "DD.D..DDD.", "DD.D.DDDD", "ddddd",
     [](Vcpu& v) { v.tlb_control(TlbControl::FlushAsidKeepGlobals, kVpid); }},
};

/// A vCPU with PCID 1, VPID 1 and EP4TA 1 current, and all of its caches on.
class Rig {
 public:
  explicit Rig(const char* cpu) : machine_(config(cpu), make_native_pager) {
    Controls c;
    c.pcide = true;
    vcpu().set_controls(c);
    vcpu().use_ept(kEp4ta);
    vcpu().set_cr3(kPcid);
    amd_ = machine_.cpu().vendor == Vendor::Amd;
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
  static MachineConfig config(const char* cpu) {
    MachineConfig c;
    c.cpu = cpu;
    c.virtualized = false;
    c.walk_caches = WalkCaches::TwoDTlb;
    return c;
  }
  static Gva at(const Planted& p) { return p.elsewhere ? kElsewhere : kVa; }
  static Gpa second_at(const Planted& p) { return p.elsewhere ? kOtherGpa : kGpa; }
  Context context(const Planted& p) const {
    const bool second = p.kind == Kind::SecondTables || p.kind == Kind::SecondTlb;
    return make_context(amd_ && second ? kVpid : p.vpid, p.pcid, p.ep4ta);
  }

  Machine machine_;
  bool amd_ = false;
};

/// Each operation on each planted entry, alone, in a machine of its own.
template <std::size_t kRows>
void check(const char* cpu, const Operation (&rows)[kRows]) {
  for (const Operation& row : rows) {
    const std::string expected = std::string(row.linear) + row.combined + row.guest_physical;
    REQUIRE(expected.size() == std::size(kPlanted));
    for (std::size_t i = 0; i < std::size(kPlanted); ++i) {
      CAPTURE(row.name);
      CAPTURE(kPlanted[i].name);
      Rig rig(cpu);
      rig.plant(kPlanted[i]);
      REQUIRE(rig.alive(kPlanted[i]));
      row.run(rig.vcpu());
      CHECK(rig.alive(kPlanted[i]) == (expected[i] == '.'));
    }
  }
}

}  // namespace

TEST_CASE("what Intel's operations drop of each kind of mapping") { check("cascade-lake", kIntel); }
TEST_CASE("what AMD's operations drop of each kind of mapping") { check("zen3", kAmd); }

TEST_CASE("CR4.PGE 1 to 0 drops global translations too") {
  Rig rig("cascade-lake");
  Controls c = rig.vcpu().controls();
  c.pge = true;
  rig.vcpu().set_controls(c);
  rig.plant(kPlanted[2]);
  c.pge = false;
  rig.vcpu().write_controls(c);
  CHECK_FALSE(rig.alive(kPlanted[2]));
}
