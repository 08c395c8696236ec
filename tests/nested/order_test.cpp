// What is judged first where several things are wrong at once: SDM vol. 3, *EPT Misconfigurations*,
// *EPT Violations*, *Prioritization of EPT Misconfigurations and EPT Violations*; for AMD APM
// vol. 2, *Nested Paging*. Each pair of levels and of things wrong, on each address that a walk
// translates.

#include <doctest/doctest.h>

#include <array>
#include <string>
#include <vector>

#include "tests/nested/second_dimension.h"

using namespace mmuscope;

namespace {

constexpr AccessKind kKinds[] = {AccessKind::Read, AccessKind::Write, AccessKind::Fetch};

/// Guest tables and a page whose translations share only the root of the second dimension: the
/// table of level L at (5 - L) << 39, the page (L = 0) at 5 << 39.
template <class Dimension>
class Apart : private SecondDimension<Dimension> {
  using Base = SecondDimension<Dimension>;
  using Base::memory, Base::tables;

 public:
  using Base::kNpt, Base::root;
  using Second = typename Base::Second;

  explicit Apart(bool flags = true) : Base(flags) {
    for (unsigned level = 0; level <= 4; ++level) {
      tables.map(base(level).frame(), Hfn(host(level)), PageSize::k4K);
    }
    reset_guest();
  }
  static Gpa base(unsigned level) { return Gpa(u64{5 - level} << 39); }
  /// The address that is translated for the guest's entry of this level, or for the access.
  static Gpa asked_for(unsigned level) {
    return base(level) + (level == 0 ? kVa.page_offset() : 8 * table_index(kVa, level));
  }
  void reset_guest() {
    for (unsigned level = 4; level >= 1; --level) set_guest(level, base(level - 1).raw() | kUser);
  }
  Hpa guest_where(unsigned level) const {
    return Hpa(host(level) << kPageShift) + 8 * table_index(kVa, level);
  }
  void set_guest(unsigned level, u64 e) { memory.write(guest_where(level), e); }
  u64 guest(unsigned level) const { return memory.read(guest_where(level)); }

  /// The entries of the second dimension on the way to the table or page, by their level.
  std::array<Hpa, 5> way(unsigned guest_level) const {
    std::array<Hpa, 5> where{};
    Hpa table = root.table;
    for (unsigned level = 4; level >= 1; --level) {
      where[level] = table + 8 * table_index(base(guest_level), level);
      table = Hpa(memory.read(where[level]) & Second::kAddressMask);
    }
    return where;
  }
  u64 read(Hpa where) const { return memory.read(where); }
  void write(Hpa where, u64 entry) { memory.write(where, entry); }

  struct Result {
    NestedEnd end;
    Gpa gpa;
    u64 qualification, error_code;
  };
  Result run(AccessKind kind) {
    NestedWalk<Dimension, PhysicalMemory> w(memory, root);
    const NestedEnd end = w.run(NestedStart::at_root(base(4), 4), kVa, {kind, Privilege::User}, {},
                                {46, true, true, true, true});
    return {end, w.gpa(), w.qualification(), w.error_code()};
  }
  NestedEnd run(DirtyLog& log, AccessKind kind) {
    NestedWalk<Dimension, PhysicalMemory> w(memory, root, {}, &log);
    return w.run(NestedStart::at_root(base(4), 4), kVa, {kind, Privilege::User}, {},
                 {46, true, true, true, true});
  }

 private:
  static u64 host(unsigned level) { return 0x101 + level; }
};

/// One thing that may be wrong with an entry of EPT, on some levels.
struct Wrong {
  std::string name;
  u64 clear, set;
  bool malformed;
  unsigned lowest = 1, highest = 4;  // levels
  bool execute_only = true;          // the CPU lets entries be so
};

constexpr u64 kRwx = EptTables::kAllRights;
const std::vector<Wrong> kNothing = {{"nothing", 0, 0, false}};
const std::vector<Wrong> kRights = {
    {"r--", kRwx, ept::kRead, false},
    {"rw-", kRwx, ept::kRead | ept::kWrite, false},
    {"r-x", kRwx, ept::kRead | ept::kExec, false},
    {"--x", kRwx, ept::kExec, false},
};
const std::vector<Wrong> kAbsent = {
    {"---", kRwx, 0, false},
    {"---, and reserved bits", kRwx, u64{1} << 50 | 7 << 3, false},
};

std::vector<Wrong> malformed() {
  std::vector<Wrong> all = {
      {"-w-", kRwx, ept::kWrite, true},
      {"-wx", kRwx, ept::kWrite | ept::kExec, true},
      {"--x where it is not supported", kRwx, ept::kExec, true, 1, 4, false},
      {"lowest address bit beyond MAXPHYADDR", 0, u64{1} << 46, true},
      {"highest address bit", 0, u64{1} << 51, true},
      {"right missing and reserved bit", kRwx, ept::kRead | u64{1} << 50, true},
      {"bit 7 in a PML4E", 0, ept::kLarge, true, 4, 4},
      {"2-MByte page not aligned", 0, ept::kLarge | ept::kWriteBack | 1 << 12, true, 2, 2},
      {"1-GByte page not aligned", 0, ept::kLarge | ept::kWriteBack | 1 << 29, true, 3, 3},
  };
  for (const u64 type : {2, 3, 7}) {
    all.push_back(
        {"memory type " + std::to_string(type), ept::kMemoryTypeMask, type << 3, true, 1, 1});
    // Made a large page, its address cleared of the bits that must be 0 there.
    all.push_back({"memory type " + std::to_string(type) + " of a large page", 0x3fff'f000 | 0x78,
                   ept::kLarge | type << 3, true, 2, 3});
  }
  for (unsigned bit = 3; bit <= 6; ++bit) {
    all.push_back({"reserved bit " + std::to_string(bit), 0, u64{1} << bit, true, 2, 4});
  }
  return all;
}

std::vector<Wrong> everything() {
  std::vector<Wrong> all = kNothing;
  for (const auto& some : {kRights, kAbsent, malformed()}) {
    all.insert(all.end(), some.begin(), some.end());
  }
  return all;
}

/// The SDM's text, entry by entry from the top.
struct Judgement {
  NestedEnd end = NestedEnd::Ok;
  u64 rights = kRwx;  ///< AND over the entries, 0 where one is not present
};
Judgement judge(const std::vector<const Wrong*>& from_top, u64 asked) {
  Judgement j;
  for (const Wrong* w : from_top) {
    const u64 rights = (kRwx & ~w->clear) | (w->set & kRwx);
    if (rights == 0) return {NestedEnd::Violation, 0};
    if (w->malformed) return {NestedEnd::Misconfiguration, 0};
    j.rights &= rights;
  }
  if ((j.rights & asked) != asked) j.end = NestedEnd::Violation;
  return j;
}

/// Bits 2:0 of the qualification, and the rights needed.
u64 asked_rights(unsigned guest_level, AccessKind kind, bool flags) {
  if (guest_level != 0) return flags ? 3 : 1;
  return kind == AccessKind::Read ? 1 : kind == AccessKind::Write ? 2 : 4;
}

void check_pair(Apart<EptDimension>& t, unsigned upper, const Wrong& above, unsigned lower,
                const Wrong& below) {
  CAPTURE(upper);
  CAPTURE(above.name);
  CAPTURE(lower);
  CAPTURE(below.name);
  const bool flags = t.root.rules.accessed_dirty;
  CAPTURE(flags);
  t.root.rules.execute_only = above.execute_only && below.execute_only;
  for (unsigned guest_level = 0; guest_level <= 4; ++guest_level) {
    CAPTURE(guest_level);
    const auto way = t.way(guest_level);
    const u64 was_above = t.read(way[upper]), was_below = t.read(way[lower]);
    t.write(way[upper], (was_above & ~above.clear) | above.set);
    t.write(way[lower], (was_below & ~below.clear) | below.set);
    const u64 now_above = t.read(way[upper]), now_below = t.read(way[lower]);
    for (const AccessKind kind : kKinds) {
      CAPTURE(static_cast<int>(kind));
      t.reset_guest();
      // Without EPT's flags the setting of A in a guest table is an access of its own; here none
      // is left to set.
      for (unsigned level = 1; level <= 4; ++level) {
        t.set_guest(level, t.guest(level) | x86::kAccessed | x86::kDirty);
      }
      const u64 asked = asked_rights(guest_level, kind, flags);
      const Judgement j = judge({&above, &below}, asked);
      const auto r = t.run(kind);
      REQUIRE(r.end == j.end);
      if (j.end == NestedEnd::Ok) continue;
      CHECK(r.gpa == t.asked_for(guest_level));
      // What is stopped sets no flag of the second dimension.
      CHECK(t.read(way[upper]) == now_above);
      CHECK(t.read(way[lower]) == now_below);
      if (j.end != NestedEnd::Violation) continue;
      CHECK(r.qualification == (asked | j.rights << 3 | kLinear | (guest_level == 0 ? kFinal : 0)));
    }
    t.write(way[upper], was_above);
    t.write(way[lower], was_below);
  }
}

bool fits(const Wrong& w, unsigned level) { return level >= w.lowest && level <= w.highest; }
/// --x and "--x where it is not supported" cannot be on one CPU.
bool agree(const Wrong& a, const Wrong& b) {
  const auto plain = [](const Wrong& w) { return w.name == "--x"; };
  return !(plain(a) && !b.execute_only) && !(plain(b) && !a.execute_only);
}

}  // namespace

TEST_CASE("EPT: from the top, absent before malformed, and rights after the leaf") {
  const std::vector<Wrong> all = everything();
  Apart<EptDimension> with(true), without(false);
  for (unsigned upper = 4; upper >= 2; --upper) {
    for (unsigned lower = upper - 1; lower >= 1; --lower) {
      for (const Wrong& above : all) {
        for (const Wrong& below : all) {
          if (!fits(above, upper) || !fits(below, lower) || !agree(above, below)) continue;
          check_pair(with, upper, above, lower, below);
          check_pair(without, upper, above, lower, below);
        }
      }
    }
  }
}

TEST_CASE("EPT: what is not a misconfiguration") {
  const auto end = [](unsigned level, u64 clear, u64 set) {
    Apart<EptDimension> t;
    const auto way = t.way(0);
    t.write(way[level], (t.read(way[level]) & ~clear) | set);
    return t.run(AccessKind::Read).end;
  };
  for (unsigned level = 1; level <= 4; ++level) {
    CAPTURE(level);
    CHECK(end(level, 0, u64{0x7ff} << 52) == NestedEnd::Ok);  // ignored: 62:52
    CHECK(end(level, 0, u64{1} << 63) == NestedEnd::Ok);      // suppress #VE
    CHECK(end(level, 0, 0xc00) == NestedEnd::Ok);             // ignored: 11:10
  }
  CHECK(end(1, 0, ept::kLarge | ept::kIgnorePat) == NestedEnd::Ok);
  for (const u64 type : {0, 1, 4, 5, 6}) {
    CHECK(end(1, ept::kMemoryTypeMask, type << 3) == NestedEnd::Ok);
    for (unsigned level : {2, 3}) {
      CHECK(end(level, EptTables::kAddressMask, ept::kLarge | ept::kIgnorePat | type << 3) ==
            NestedEnd::Ok);
    }
  }
}

TEST_CASE("EPT: a 1-GByte page is malformed where the CPU has none") {
  Apart<EptDimension> t;
  const auto way = t.way(0);
  t.write(way[3], kRwx | ept::kLarge | ept::kWriteBack);
  CHECK(t.run(AccessKind::Read).end == NestedEnd::Ok);
  t.root.rules.large_1g = false;
  CHECK(t.run(AccessKind::Read).end == NestedEnd::Misconfiguration);
}

TEST_CASE("the guest's fault goes before the next translation, whatever is wrong there") {
  for (const Wrong& w : everything()) {
    if (!fits(w, 1)) continue;
    CAPTURE(w.name);
    for (unsigned guest_level = 1; guest_level <= 4; ++guest_level) {
      CAPTURE(guest_level);
      Apart<EptDimension> t;
      t.root.rules.execute_only = w.execute_only;
      const Hpa below = t.way(guest_level - 1)[1];
      const u64 was_below = t.read(below);
      const u64 entry = t.base(guest_level - 1).raw() | kUser;
      t.write(below, (was_below & ~w.clear) | w.set);
      t.set_guest(guest_level, entry & ~x86::kPresent);
      auto r = t.run(AccessKind::Read);
      CHECK(r.end == NestedEnd::GuestFault);
      CHECK(r.error_code == pf::kUser);
      t.set_guest(guest_level, entry | u64{1} << 50);
      r = t.run(AccessKind::Read);
      CHECK(r.end == NestedEnd::GuestFault);
      CHECK(r.error_code == (pf::kPresent | pf::kUser | pf::kReserved));
      // A right that an upper entry lacks is judged with the guest's leaf, after the tables below.
      t.set_guest(guest_level, entry & ~x86::kUser);
      r = t.run(AccessKind::Read);
      if (guest_level == 1) {
        CHECK(r.end == NestedEnd::GuestFault);
        CHECK(r.error_code == (pf::kPresent | pf::kUser));
      } else {
        const Judgement j = judge({&w}, asked_rights(guest_level - 1, AccessKind::Read, true));
        CHECK(r.end == (j.end == NestedEnd::Ok ? NestedEnd::GuestFault : j.end));
      }
      // What is wrong with the table of the entry itself goes before what the entry says.
      t.set_guest(guest_level, entry & ~x86::kPresent);
      t.write(below, was_below);
      const Hpa own = t.way(guest_level)[1];
      t.write(own, (t.read(own) & ~w.clear) | w.set);
      r = t.run(AccessKind::Read);
      const Judgement j = judge({&w}, asked_rights(guest_level, AccessKind::Read, true));
      CHECK(r.end == (j.end == NestedEnd::Ok ? NestedEnd::GuestFault : j.end));
    }
  }
}

TEST_CASE("a walk that EPT stops at a guest table leaves the guest's flags, one at the page not") {
  for (const bool malformed_leaf : {false, true}) {
    for (unsigned guest_level = 0; guest_level <= 4; ++guest_level) {
      CAPTURE(guest_level);
      Apart<EptDimension> t;
      const Hpa leaf = t.way(guest_level)[1];
      t.write(leaf, malformed_leaf ? t.read(leaf) | u64{1} << 50 : 0);
      CHECK(t.run(AccessKind::Write).end ==
            (malformed_leaf ? NestedEnd::Misconfiguration : NestedEnd::Violation));
      for (unsigned level = 1; level <= 4; ++level) {
        CHECK(((t.guest(level) & x86::kAccessed) != 0) == (guest_level == 0));
      }
      CHECK(((t.guest(1) & x86::kDirty) != 0) == (guest_level == 0));
    }
  }
}

TEST_CASE("a violation goes before a full log, and that before any flag") {
  DirtyLog full;
  for (std::size_t i = 0; i < DirtyLog::kCapacity; ++i) full.add(Gpa(i << kPageShift));
  Apart<EptDimension> t;
  const Hpa leaf = t.way(0)[1];
  CHECK(t.run(full, AccessKind::Write) == NestedEnd::Ok);  // no flag is left to set
  t.write(leaf, t.read(leaf) & ~ept::kDirty);
  CHECK(t.run(full, AccessKind::Read) == NestedEnd::Ok);
  CHECK(t.run(full, AccessKind::Write) == NestedEnd::LogFull);
  CHECK(!(t.read(leaf) & ept::kDirty));
  t.write(leaf, t.read(leaf) & ~ept::kAccessed);  // A alone needs room too
  CHECK(t.run(full, AccessKind::Read) == NestedEnd::LogFull);
  CHECK(!(t.read(leaf) & ept::kAccessed));
  t.write(leaf, t.read(leaf) & ~ept::kWrite);
  CHECK(t.run(full, AccessKind::Write) == NestedEnd::Violation);
  t.write(leaf, t.read(leaf) | u64{1} << 50);
  CHECK(t.run(full, AccessKind::Write) == NestedEnd::Misconfiguration);
}

TEST_CASE("NPT: from the top, absent before reserved bits, and rights after the leaf") {
  constexpr u64 kReservedBit = u64{1} << 50;
  struct State {
    u64 clear, set;
    bool absent, reserved, denies_write;
  };
  constexpr State kStates[] = {
      {0, 0, false, false, false},
      {x86::kPresent, 0, true, false, false},
      {x86::kPresent, kReservedBit, true, false, false},
      {0, kReservedBit, false, true, false},
      {x86::kWrite, 0, false, false, true},
      {x86::kWrite, kReservedBit, false, true, true},
      {x86::kUser, 0, false, false, true},
  };
  Apart<NptDimension> t;
  for (unsigned upper = 4; upper >= 2; --upper) {
    for (unsigned lower = upper - 1; lower >= 1; --lower) {
      for (const State& above : kStates) {
        for (const State& below : kStates) {
          for (unsigned guest_level = 0; guest_level <= 4; ++guest_level) {
            const auto way = t.way(guest_level);
            const u64 was_above = t.read(way[upper]), was_below = t.read(way[lower]);
            t.write(way[upper], (was_above & ~above.clear) | above.set);
            t.write(way[lower], (was_below & ~below.clear) | below.set);
            const auto r = t.run(AccessKind::Write);
            t.write(way[upper], was_above);
            t.write(way[lower], was_below);
            const bool absent = above.absent || (!above.reserved && below.absent);
            const bool reserved = !absent && (above.reserved || below.reserved);
            if (!absent && !reserved && !above.denies_write && !below.denies_write) {
              CHECK(r.end == NestedEnd::Ok);
              continue;
            }
            CHECK(r.end == NestedEnd::Violation);
            CHECK(r.gpa == t.asked_for(guest_level));
            CHECK(r.qualification ==
                  (pf::kUser | pf::kWrite | (absent ? 0 : pf::kPresent) |
                   (reserved ? pf::kReserved : 0) | u64{1} << (guest_level == 0 ? 32 : 33)));
          }
        }
      }
    }
  }
}
