#include "tests/support/random_script.h"

#include <array>

#include "core/entry.h"
#include "core/random.h"

namespace mmuscope {

namespace {

using G = ScriptGuest;
using Kind = ScriptOp::Kind;
constexpr u64 kUserRw = x86::kPresent | x86::kWrite | x86::kUser;
constexpr u64 kUsed = x86::kAccessed | x86::kDirty;
constexpr u64 kNoFlush = u64{1} << 63;

class Draw {
 public:
  Draw(u64 seed, unsigned length) : random_(seed) {
    out_.careful = random_.chance(1, 2);
    out_.start.vcpus = 1 + static_cast<unsigned>(random_.below(3));
    out_.start.large_direct_map = random_.chance(1, 2);
    out_.start.controls = random_controls();
    vcpus_.assign(out_.start.vcpus, {out_.start.controls, G::root(0)});
    while (out_.script.size() < length) add_step();
  }
  RandomScript result() { return std::move(out_); }

 private:
  struct OfVcpu {
    Controls controls;
    u64 cr3 = 0;
  };

  u64 one_of(std::initializer_list<u64> values) {
    return values.begin()[random_.below(values.size())];
  }
  unsigned process() { return static_cast<unsigned>(random_.below(G::kProcesses)); }
  unsigned some_vcpu() { return static_cast<unsigned>(random_.below(vcpus_.size())); }
  u64 data_frame() { return G::data(random_.below(G::kDataFrames)); }
  u64 table_frame() {
    const unsigned p = process();
    return one_of({G::pt(p), G::spare_pt(p), G::pd(p), G::pdpt(p), G::shared_pt()});
  }

  Controls random_controls() {
    Controls c;
    c.wp = !random_.chance(1, 4);
    c.smep = random_.chance(1, 4);
    c.smap = random_.chance(1, 4);
    c.nxe = !random_.chance(1, 5);
    c.pge = random_.chance(1, 3);
    c.pcide = random_.chance(1, 3);
    return c;
  }

  ScriptOp& add(Kind kind, unsigned vcpu) {
    out_.script.emplace_back();
    out_.script.back().kind = kind;
    out_.script.back().vcpu = vcpu;
    return out_.script.back();
  }

  /// An address that scripts use: few, so that they meet again.
  u64 some_va() {
    const u64 page = one_of({1, 2, 9}) * kPageBytes;
    const u64 offset = random_.below(8) * 8;
    switch (random_.below(10)) {
      case 0:
      case 1:
      case 2:
      case 3:
        return page + offset;
      case 4:
      case 5:
      case 6:
        return G::kShared + page + offset;
      case 7:
        return G::kLarge + G::kData + page % 0x4000 + offset;
      case 8:
        return out_.careful ? G::kLarge + G::kData + offset : G::kLarge + G::pt(0) + page + offset;
      default:
        return one_of({G::kNothing, u64{1} << 47, G::kDirectMap + G::kData, ~u64{0x8000'0000'0000},
                       G::kDirectMap + 0x3000'0000'0000});
    }
  }

  void add_access() {
    ScriptOp& op = add(Kind::Access, some_vcpu());
    op.va = some_va();
    op.access.kind = static_cast<AccessKind>(random_.below(3));
    op.access.privilege = random_.chance(2, 3) ? Privilege::User : Privilege::Supervisor;
    // What wild guests store may become a table entry.
    op.value = out_.careful || random_.chance(1, 2) ? random_.below(1000) << 12
                                                    : leaf_entry() & ~x86::kLarge;
    if (!op.access.is_write()) return;
    op.exchange = random_.chance(1, 6);
    if (!op.exchange) op.bytes = static_cast<u16>(one_of({8, 8, 8, 4, 2, 1}));
  }

  u64 leaf_entry() {
    if (random_.chance(1, 8)) return random_.below(256) << 1;  // not present
    u64 e = x86::kPresent | data_frame();
    if (!out_.careful && random_.chance(1, 6)) e = x86::kPresent | table_frame();
    if (!random_.chance(1, 4)) e |= x86::kWrite;
    if (!random_.chance(1, 5)) e |= x86::kUser;
    if (random_.chance(1, 6)) e |= x86::kNoExec;
    if (random_.chance(1, 2)) e |= x86::kAccessed;
    if (random_.chance(1, 2)) e |= x86::kDirty;
    if (!out_.careful && random_.chance(1, 6)) e |= x86::kGlobal;
    if (random_.chance(1, 30)) e |= u64{1} << 51;  // reserved
    return e;
  }
  u64 rights() {
    u64 flags = x86::kPresent;
    if (!random_.chance(1, 4)) flags |= x86::kWrite;
    if (!random_.chance(1, 5)) flags |= x86::kUser;
    if (random_.chance(1, 8)) flags |= x86::kNoExec;
    if (random_.chance(1, 2)) flags |= x86::kAccessed;
    return flags;
  }
  u64 upper_entry(unsigned p, u64 va, unsigned level) {
    if (random_.chance(1, 8)) return 0;
    if (random_.chance(1, 30)) return rights() | u64{1} << 51 | G::pd(p);
    if (level == 4) return rights() | (random_.chance(3, 4) ? G::pdpt(p) : G::pdpt(process()));
    if (level == 3) return rights() | (random_.chance(3, 4) ? G::pd(p) : G::pd(process()));
    if (!out_.careful && random_.chance(1, 8)) {
      return rights() | (random_.chance(1, 2) ? table_frame() : data_frame());
    }
    if (va >= G::kLarge || random_.chance(1, 6)) {
      const u64 dirty = random_.chance(1, 2) ? kUsed : 0;
      return rights() | x86::kLarge | dirty | one_of({0, 0x200000});
    }
    if (va >= G::kShared) return rights() | (random_.chance(2, 3) ? G::shared_pt() : G::pt(p));
    return rights() | one_of({G::pt(p), G::pt(p), G::spare_pt(p), G::shared_pt()});
  }

  void add_edit() {
    const unsigned p = process();
    u64 va = one_of({1, 2, 9}) * kPageBytes;
    if (random_.chance(1, 3)) va += G::kShared;
    unsigned level = 1;
    if (random_.chance(1, 3)) level = 2 + static_cast<unsigned>(random_.below(3));
    if (random_.chance(1, 12)) {
      va = G::kLarge;
      level = 2;
    }
    u64 where = G::entry(p, va, level);
    if (level == 1 && random_.chance(1, 8)) where += G::spare_pt(p) - G::pt(p);
    // The tables of the shared range have no spare ones behind them.
    if (level == 1 && va >= G::kShared) where = G::entry(p, va, level);
    ScriptOp& op = add(Kind::Edit, some_vcpu());
    op.gpa = where;
    op.value = level == 1 ? leaf_entry() : upper_entry(p, va, level);
    op.exchange = random_.chance(1, 6);
    if (!op.exchange && random_.chance(1, 10)) op.bytes = static_cast<u16>(one_of({4, 2, 1}));
    if (out_.careful) flush_everywhere(level == 1 && !aliased_ ? va : ~u64{0});
    // From now on a leaf table may serve other addresses than its own.
    aliased_ |= level > 1;
  }

  void add_zero() {
    const unsigned p = process();
    add(Kind::Zero, some_vcpu()).gpa = one_of({G::pt(p), G::spare_pt(p), data_frame()});
    if (out_.careful) flush_everywhere(~u64{0});
  }

  /// What the architecture requires after an edit: of one page, or of anything.
  void flush_everywhere(u64 va) {
    for (unsigned v = 0; v < vcpus_.size(); ++v) {
      const Controls& c = vcpus_[v].controls;
      if (va != ~u64{0} && !c.pcide) {
        add(Kind::Invlpg, v).va = va;
      } else if (!c.pcide && !c.pge) {
        add(Kind::Cr3, v).value = vcpus_[v].cr3;
      } else {
        flush_all(v);
      }
    }
  }
  void flush_all(unsigned v) { add(Kind::Invpcid, v).value = static_cast<u64>(InvpcidType::All); }

  void add_cr3() {
    const unsigned v = some_vcpu(), p = process();
    OfVcpu& vcpu = vcpus_[v];
    vcpu.cr3 = G::root(p);
    if (vcpu.controls.pcide) {
      vcpu.cr3 |= out_.careful ? p + 1 : random_.below(3);
    }
    const bool keep = vcpu.controls.pcide && random_.chance(1, 2);
    add(Kind::Cr3, v).value = vcpu.cr3 | (keep ? kNoFlush : 0);
  }

  void add_invalidation() {
    const unsigned v = some_vcpu();
    if (random_.chance(2, 3)) {
      add(Kind::Invlpg, v).va = some_va();
      return;
    }
    ScriptOp& op = add(Kind::Invpcid, v);
    op.value = random_.below(4);
    op.va = one_of({1, 2, 9}) * kPageBytes;
    op.gpa = random_.below(4);
  }

  void add_controls() {
    const unsigned v = some_vcpu();
    OfVcpu& vcpu = vcpus_[v];
    const Controls from = vcpu.controls;
    Controls to = from;
    const Controls other = random_controls();
    switch (random_.below(6)) {
      case 0:
        to.wp = other.wp;
        break;
      case 1:
        to.smep = other.smep;
        break;
      case 2:
        to.smap = other.smap;
        break;
      case 3:
        to.nxe = other.nxe;
        break;
      case 4:
        to.pge = other.pge;
        break;
      default:
        to.pcide = other.pcide;
    }
    if (to.pcide && !from.pcide) {
      // CR4.PCIDE may be set only while CR3[11:0] is 0.
      vcpu.cr3 &= x86::kAddressMask;
      add(Kind::Cr3, v).value = vcpu.cr3;
    }
    add(Kind::Controls, v).controls = to;
    vcpu.controls = to;
    // Bit 63 of an entry changes its meaning: no guest leaves that to the TLB.
    if (to.nxe != from.nxe) flush_all(v);
  }

  void add_step() {
    const u64 what = random_.below(100);
    if (what < 62) return add_access();
    if (what < 84) return add_edit();
    if (what < 89) return add_cr3();
    if (what < 95) return add_invalidation();
    if (what < 97) return add_controls();
    if (what < 98) return add_zero();
    add(Kind::Ac, some_vcpu()).value = random_.below(2);
  }

  Random random_;
  RandomScript out_;
  std::vector<OfVcpu> vcpus_;
  bool aliased_ = false;
};

}  // namespace

RandomScript random_script(u64 seed, unsigned length) { return Draw(seed, length).result(); }

}  // namespace mmuscope
