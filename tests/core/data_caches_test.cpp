#include "core/data_caches.h"

#include <doctest/doctest.h>

#include "core/machine.h"
#include "core/native_pager.h"
#include "tests/support/guest_tables.h"

using namespace mmuscope;

TEST_CASE("a cache of lines drops the oldest of a set") {
  LineCache cache({1, 2});  // 16 lines: 8 sets of 2
  CHECK_FALSE(cache.touch(3));
  CHECK_FALSE(cache.touch(3 + 8));
  CHECK(cache.touch(3));
  CHECK_FALSE(cache.touch(3 + 16));  // in place of 3 + 8
  CHECK(cache.touch(3));
  CHECK_FALSE(cache.touch(3 + 8));
  CHECK(cache.touch(3));
  CHECK_FALSE(cache.touch(4));  // another set
}

TEST_CASE("a line is found in the nearest level that has it, and then in all") {
  CpuModel cpu = cpu_model("cascade-lake");
  cpu.l1_lines = {1, 2};
  cpu.l2_lines = {2, 4};
  cpu.llc_lines = {4, 8};
  LineCache llc(cpu.llc_lines);
  DataCaches one(cpu, llc), other(cpu, llc);
  CHECK(one.read(Hpa(0x1000)) == Found::Memory);
  CHECK(one.read(Hpa(0x103f)) == Found::L1);  // the same line
  CHECK(one.read(Hpa(0x1040)) == Found::Memory);
  CHECK(other.read(Hpa(0x1000)) == Found::Llc);  // shared
  CHECK(other.read(Hpa(0x1000)) == Found::L1);
  for (u64 i = 1; i <= 2; ++i) (void)one.read(Hpa(0x1000 + i * 512));  // the same set of L1 and L2
  CHECK(one.read(Hpa(0x1000)) == Found::L2);
  for (u64 i = 3; i <= 6; ++i) (void)one.read(Hpa(0x1000 + i * 512));
  CHECK(one.read(Hpa(0x1000)) == Found::Llc);
  for (u64 i = 7; i <= 15; ++i) (void)one.read(Hpa(0x1000 + i * 512));
  CHECK(one.read(Hpa(0x1000)) == Found::Memory);
}

TEST_CASE("every model's data caches have whole sets and grow with the level") {
  for (const CpuModel& cpu : cpu_models()) {
    CAPTURE(cpu.name);
    for (const LineCacheGeometry& g : {cpu.l1_lines, cpu.l2_lines, cpu.llc_lines}) {
      REQUIRE(g.ways != 0);
      CHECK((g.kib << 10) % (64u * g.ways) == 0);
    }
    CHECK(cpu.l1_lines.kib < cpu.l2_lines.kib);
    CHECK(cpu.l2_lines.kib < cpu.llc_lines.kib);
  }
}

namespace {

/// A native machine with `pages` pages mapped at 1 GiB, each of them at 4 MiB + its offset.
struct Native {
  static constexpr Gva kVa{u64{1} << 30};
  explicit Native(bool lines, u64 pages, unsigned vcpus = 1)
      : machine(config(lines, vcpus), make_native_pager), tables(machine, Gpa(1 << 20)) {
    root = tables.new_table();
    tables.map_range(root, kVa, Gpa(4 << 20), pages * kPageBytes,
                     GuestTables::kUserRw | GuestTables::kTouched);
    for (unsigned i = 0; i < vcpus; ++i) {
      machine.vcpu(i).set_controls({});
      machine.vcpu(i).write_cr3(root.raw());
    }
  }
  static MachineConfig config(bool lines, unsigned vcpus) {
    MachineConfig c;
    c.virtualized = false;
    c.walk_caches = WalkCaches::Off;
    c.table_lines = lines;
    c.vcpus = vcpus;
    return c;
  }
  /// References of a load by where they hit: L1, L2, LLC, memory.
  std::array<u64, 4> refs_of(unsigned vcpu, u64 page) {
    Vcpu& v = machine.vcpu(vcpu);
    const Counters before = v.counters;
    v.load(kVa + page * kPageBytes);
    const Counters d = v.counters - before;
    const std::array<u64, 4> refs = {d[Event::TableRefL1], d[Event::TableRefL2],
                                     d[Event::TableRefLlc], d[Event::TableRefMemory]};
    CHECK(refs[0] + refs[1] + refs[2] + refs[3] == d[Event::TableRefGuest]);
    return refs;
  }
  Machine machine;
  GuestTables tables;
  Gpa root;
};

}  // namespace

TEST_CASE("where a walk's references hit") {
  using Refs = std::array<u64, 4>;
  Native t(true, 16, 2);
  CHECK(t.refs_of(0, 0) == Refs{0, 0, 0, 4});
  CHECK(t.refs_of(0, 1) == Refs{4, 0, 0, 0});  // eight entries of the leaf table share a line
  CHECK(t.refs_of(0, 8) == Refs{3, 0, 0, 1});
  CHECK(t.refs_of(1, 0) == Refs{0, 0, 4, 0});  // another vCPU, the same last level
}

TEST_CASE("the data of accesses that walk competes with table entries") {
  // 4096 pages under 64 lines of L1 each: their data alone fill it, one line a page.
  Native t(true, 4096);
  for (u64 page = 0; page < 4096; ++page) (void)t.refs_of(0, page);
  const auto refs = t.refs_of(0, 0);
  CHECK(refs[0] == 3);  // the upper tables' lines are used by every walk
  CHECK(refs[1] + refs[2] == 1);
}

TEST_CASE("without the model nothing is counted") {
  Native t(false, 1);
  t.machine.vcpu(0).load(Native::kVa);
  CHECK(t.machine.counters()[Event::TableRefGuest] == 4);
  CHECK(t.machine.counters()[Event::TableRefMemory] == 0);
}
