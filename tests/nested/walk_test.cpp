#include <doctest/doctest.h>

#include "tests/nested/second_dimension.h"

using namespace mmuscope;

namespace {

constexpr Gpa kRoot{0x1000}, kPage{0x5000};  // PML4, PDPT, PD, PT and the page: five frames
constexpr Access kRead{AccessKind::Read, Privilege::User};
constexpr Access kWrite{AccessKind::Write, Privilege::User};
constexpr Access kFetch{AccessKind::Fetch, Privilege::User};

/// Guest tables at 0x1000..0x4000 that map kVa to 0x5000, under a second dimension that maps those
/// five frames to host frames 0x101.. one by one.
template <class Dimension>
struct TwoTables : SecondDimension<Dimension> {
  using Base = SecondDimension<Dimension>;
  using Base::kNpt, Base::memory, Base::tables, Base::root;
  using Second = typename Base::Second;

  explicit TwoTables(bool flags = true) : Base(flags) {
    for (u64 frame = 1; frame <= 5; ++frame) {
      tables.map(Gfn(frame), Hfn(0x100 + frame), PageSize::k4K);
    }
    for (unsigned level = 4; level >= 1; --level) set_guest(level, (6 - level) << 12 | kUser);
  }
  Hpa guest_where(unsigned level) const {
    return Hpa((0x105 - level) << 12) + 8 * table_index(kVa, level);
  }
  void set_guest(unsigned level, u64 e) { memory.write(guest_where(level), e); }
  u64 guest(unsigned level) const { return memory.read(guest_where(level)); }

  /// The entry of the second dimension on the way to the address.
  Hpa second_where(Gpa a, unsigned level) const {
    WalkPath<Second> path;
    walk<Second>(path, {root.table, 4}, a, root.rules, [&](Hpa where, unsigned, u64& e) {
      e = memory.read(where);
      return true;
    });
    return path.where[level];
  }
  u64 second(Gpa a, unsigned level = 1) const { return memory.read(second_where(a, level)); }
  void change(Gpa a, unsigned level, u64 clear, u64 set = 0) {
    memory.write(second_where(a, level), (second(a, level) & ~clear) | set);
  }

  struct Result {
    NestedEnd end;
    u64 gpa, qualification, error_code;
  };
  Result run(Access access, const Controls& c = {}, u8 bits = 46) {
    NestedWalk<Dimension, PhysicalMemory> w(memory, root);
    const NestedEnd end =
        w.run(NestedStart::at_root(kRoot, 4), kVa, access, c, {bits, c.nxe, true, true, true});
    return {end, w.gpa().raw(), w.qualification(), w.error_code()};
  }
};

using EptCase = TwoTables<EptDimension>;
using NptCase = TwoTables<NptDimension>;

}  // namespace

TEST_CASE("the exit qualification says what was asked and what was allowed") {
  const auto final = [](Access access, u64 rights) {
    EptCase t;
    t.change(kPage, 1, EptTables::kAllRights, rights);
    const auto r = t.run(access);
    CHECK(r.end == NestedEnd::Violation);
    CHECK(r.gpa == 0x5678);
    return r.qualification;
  };
  CHECK(final(kRead, 0) == (kFinal | kLinear | 1));
  CHECK(final(kWrite, 0) == (kFinal | kLinear | 2));
  CHECK(final(kFetch, 0) == (kFinal | kLinear | 4));
  CHECK(final(kRead, ept::kExec) == (kFinal | kLinear | 1 | ept::kExec << 3));
  CHECK(final(kWrite, ept::kRead) == (kFinal | kLinear | 2 | ept::kRead << 3));
  CHECK(final(kFetch, ept::kRead | ept::kWrite) == (kFinal | kLinear | 4 | 3 << 3));
}

TEST_CASE("rights are the AND over the levels of the second dimension") {
  EptCase t;
  t.change(kPage, 3, ept::kWrite);
  t.change(kPage, 1, ept::kExec);
  t.change(kPage, 1, 0, ept::kRead);
  t.root.rules.accessed_dirty = false;  // or the tables could not be read either
  for (unsigned level = 1; level <= 4; ++level) {
    t.set_guest(level, t.guest(level) | x86::kAccessed | x86::kDirty);
  }
  const auto r = t.run(kWrite);
  CHECK(r.end == NestedEnd::Violation);
  CHECK(r.qualification == (kFinal | kLinear | 2 | ept::kRead << 3));
}

TEST_CASE("a guest table is read, and with EPT flags read and written") {
  for (const bool flags : {false, true}) {
    EptCase missing(flags);
    missing.change(Gpa(0x3000), 1, EptTables::kAllRights);
    auto r = missing.run(kFetch);
    CHECK(r.end == NestedEnd::Violation);
    CHECK(r.gpa == 0x3000 + 8 * table_index(kVa, 2));
    CHECK(r.qualification == (kLinear | (flags ? 3 : 1)));
  }
}

TEST_CASE("a read-only guest table stops the walk only where it would be written") {
  for (const bool flags : {false, true}) {
    for (const bool accessed : {false, true}) {
      EptCase t(flags);
      t.change(Gpa(0x3000), 1, ept::kWrite);
      if (accessed) t.set_guest(2, t.guest(2) | x86::kAccessed);
      const auto r = t.run(kRead);
      if (!flags && accessed) {
        CHECK(r.end == NestedEnd::Ok);
        continue;
      }
      CHECK(r.end == NestedEnd::Violation);
      CHECK(r.gpa == 0x3000 + 8 * table_index(kVa, 2));
      CHECK(r.qualification == (kLinear | 3 | (ept::kRead | ept::kExec) << 3));
      CHECK(!(t.guest(1) & x86::kAccessed));
    }
  }
}

TEST_CASE("not present goes before misconfigured and that before rights") {
  EptCase absent;
  absent.change(kPage, 1, EptTables::kAllRights, u64{1} << 50);  // reserved, but not present
  CHECK(absent.run(kRead).end == NestedEnd::Violation);

  EptCase below;  // the upper entry forbids the write, the leaf is malformed
  below.change(kPage, 2, ept::kWrite);
  below.change(kPage, 1, 0, u64{1} << 50);
  below.root.rules.accessed_dirty = false;
  for (unsigned level = 1; level <= 4; ++level) {
    below.set_guest(level, below.guest(level) | x86::kAccessed | x86::kDirty);
  }
  CHECK(below.run(kWrite).end == NestedEnd::Misconfiguration);

  EptCase above;  // the upper entry is malformed, the leaf absent
  above.change(kPage, 2, ept::kRead);
  CHECK(above.run(kWrite).end == NestedEnd::Misconfiguration);
}

TEST_CASE("what makes an EPT entry misconfigured") {
  const auto end = [](unsigned level, u64 clear, u64 set, bool execute_only = true) {
    EptCase t;
    t.root.rules.execute_only = execute_only;
    t.change(kPage, level, clear, set);
    const auto r = t.run(kFetch);
    return r.end;
  };
  using enum NestedEnd;
  CHECK(end(1, ept::kRead, 0) == Misconfiguration);               // -wx
  CHECK(end(1, ept::kRead | ept::kExec, 0) == Misconfiguration);  // -w-
  CHECK(end(1, ept::kRead | ept::kWrite, 0) == Ok);               // --x
  CHECK(end(1, ept::kRead | ept::kWrite, 0, false) == Misconfiguration);
  for (const u64 type : {2, 3, 7})
    CHECK(end(1, ept::kMemoryTypeMask, type << 3) == Misconfiguration);
  for (const u64 type : {0, 1, 4, 5, 6}) CHECK(end(1, ept::kMemoryTypeMask, type << 3) == Ok);
  CHECK(end(1, 0, u64{1} << 46) == Misconfiguration);
  CHECK(end(1, 0, u64{1} << 52) == Ok);
  CHECK(end(1, 0, ept::kLarge) == Ok);                // ignored in a PTE
  CHECK(end(4, 0, ept::kLarge) == Misconfiguration);  // reserved in a PML4E
  CHECK(end(3, 0, ept::kWriteBack) == Misconfiguration);
}

TEST_CASE("the guest's fault of a level goes before the second dimension of the next") {
  EptCase t;
  t.change(kPage, 1, EptTables::kAllRights);
  t.set_guest(1, 0x5000 | x86::kPresent | x86::kUser);  // read-only
  auto r = t.run(kWrite);
  CHECK(r.end == NestedEnd::GuestFault);
  CHECK(r.error_code == (pf::kPresent | pf::kWrite | pf::kUser));
  t.set_guest(1, 0);
  CHECK(t.run(kRead).end == NestedEnd::GuestFault);
  t.set_guest(3, 0x3000);  // not present; the table below it is not mapped either
  t.change(Gpa(0x3000), 1, EptTables::kAllRights);
  CHECK(t.run(kRead).end == NestedEnd::GuestFault);
}

TEST_CASE("no flag is set in guest tables on a guest fault and all are before the final address") {
  EptCase fault;
  fault.set_guest(1, 0x5000 | x86::kPresent);
  CHECK(fault.run(kRead).end == NestedEnd::GuestFault);
  for (unsigned level = 1; level <= 4; ++level) CHECK(!(fault.guest(level) & x86::kAccessed));

  EptCase last;
  last.change(kPage, 1, EptTables::kAllRights);
  CHECK(last.run(kWrite).end == NestedEnd::Violation);
  for (unsigned level = 1; level <= 4; ++level) CHECK((last.guest(level) & x86::kAccessed) != 0);
  CHECK((last.guest(1) & x86::kDirty) != 0);
  CHECK(!(last.guest(2) & x86::kDirty));
}

TEST_CASE("flags of the second dimension") {
  const u64 both = ept::kAccessed | ept::kDirty;
  for (const bool flags : {false, true}) {
    EptCase t(flags);
    for (u64 frame = 1; frame <= 5; ++frame) t.change(Gpa(frame << 12), 1, both);
    t.change(kPage, 2, both);
    CHECK(t.run(kRead).end == NestedEnd::Ok);
    CHECK((t.second(Gpa(0x4000)) & both) == (flags ? both : 0));
    CHECK((t.second(kPage) & both) == (flags ? ept::kAccessed : 0));
    CHECK((t.second(kPage, 2) & both) == (flags ? ept::kAccessed : 0));
    CHECK(t.run(kWrite).end == NestedEnd::Ok);
    CHECK((t.second(kPage) & both) == (flags ? both : 0));
  }
  EptCase stopped;
  stopped.change(kPage, 1, both | ept::kWrite);
  CHECK(stopped.run(kWrite).end == NestedEnd::Violation);
  CHECK((stopped.second(kPage) & both) == 0);
}

TEST_CASE("a guest-physical address beyond 48 bits is not translated") {
  EptCase t;
  t.set_guest(1, u64{1} << 50 | 0x5000 | kUser);  // its low 48 bits are mapped
  const auto r = t.run(kRead, {}, 52);
  CHECK(r.end == NestedEnd::Violation);
  CHECK(r.gpa == (u64{1} << 50 | 0x5678));
  CHECK(r.qualification == (kFinal | kLinear | 1));
}

TEST_CASE("EXITINFO1 is a page-fault code of a user access with the dimension on top") {
  const u64 last = u64{1} << 32, table = u64{1} << 33;
  const auto code = [](Gpa at, Access access, u64 clear, u64 set = 0) {
    NptCase t;
    t.change(at, 1, clear, set);
    const auto r = t.run(access);
    CHECK(r.end == NestedEnd::Violation);
    return r.qualification;
  };
  CHECK(code(kPage, kRead, x86::kPresent) == (last | pf::kUser));
  CHECK(code(kPage, kFetch, x86::kPresent) == (last | pf::kUser | pf::kFetch));
  CHECK(code(kPage, kWrite, x86::kWrite) == (last | pf::kUser | pf::kWrite | pf::kPresent));
  CHECK(code(kPage, kRead, x86::kUser) == (last | pf::kUser | pf::kPresent));
  CHECK(code(kPage, kFetch, 0, x86::kNoExec) == (last | pf::kUser | pf::kFetch | pf::kPresent));
  CHECK(code(kPage, kRead, 0, u64{1} << 50) == (last | pf::kUser | pf::kPresent | pf::kReserved));
  CHECK(code(Gpa(0x2000), kRead, x86::kPresent) == (table | pf::kUser | pf::kWrite));
  CHECK(code(Gpa(0x2000), kRead, x86::kWrite) == (table | pf::kUser | pf::kWrite | pf::kPresent));
}

TEST_CASE(
    "in NPT bit 63 is reserved without the host's NXE and the guest's controls do not matter") {
  NptCase t;
  t.change(kPage, 1, 0, x86::kNoExec);
  CHECK(t.run(kRead).end == NestedEnd::Ok);
  t.root.rules.nxe = false;
  CHECK(t.run(kRead).end == NestedEnd::Violation);
  CHECK((t.run(kRead).qualification & pf::kReserved) != 0);

  NptCase supervisor;
  supervisor.change(kPage, 1, x86::kWrite);
  Controls c;
  c.wp = false;
  CHECK(supervisor.run({AccessKind::Write, Privilege::Supervisor}, c).end == NestedEnd::Violation);
}
