#include "core/entry_cache.h"

#include <doctest/doctest.h>

#include <functional>

#include "core/machine.h"
#include "core/native_pager.h"
#include "tests/support/guest_tables.h"

using namespace mmuscope;

namespace {

constexpr Gva kVa{u64{1} << 30};
constexpr u64 kUser = GuestTables::kUserRw | GuestTables::kTouched;

EntryCache::Key key(u64 where, u8 level = 2, Side side = Side::First, u64 address = 0,
                    Context context = make_context(1, 0)) {
  return {Hpa(where), level, side, address, context};
}

MachineConfig config(const char* cpu, WalkCacheKind kind = WalkCacheKind::Entry) {
  MachineConfig c;
  c.cpu = cpu;
  c.virtualized = false;
  c.walk_cache_kind = kind;
  return c;
}

/// A native machine whose walks are cached by entry, two neighbouring pages mapped and nothing
/// cached.
struct Native {
  explicit Native(const MachineConfig& c)
      : machine(c, make_native_pager), tables(machine, Gpa(1 << 20)), root(tables.new_table()) {
    tables.map_range(root, kVa, Gpa(4 << 20), 2 * kPageBytes, kUser);
    vcpu().set_controls({});
    vcpu().write_cr3(root.raw());
  }
  Vcpu& vcpu() { return machine.vcpu(0); }
  /// Entries read from memory, and answered by the cache.
  std::pair<u64, u64> refs_of(Gva va) {
    const Counters before = vcpu().counters;
    (void)vcpu().try_access(va, AccessKind::Read);
    const Counters d = vcpu().counters - before;
    return {d[Event::TableRefGuest], d[Event::WalkCacheHit]};
  }
  Machine machine;
  GuestTables tables;
  Gpa root;
};
using Refs = std::pair<u64, u64>;

}  // namespace

TEST_CASE("the page-entry cache holds what a CPU's does and drops the least recently used") {
  EntryCache cache(cpu_model("barcelona"));
  cache.enable(true, true);
  for (u64 i = 0; i < 24; ++i) cache.insert(key(i * 8), i);
  REQUIRE(cache.find(key(0)) != nullptr);
  cache.insert(key(1000), 7);
  CHECK(cache.find(key(8)) == nullptr);
  CHECK(*cache.find(key(0)) == 0);
  CHECK(*cache.find(key(1000)) == 7);
  cache.insert(key(1000), 9);  // in its own place
  CHECK(*cache.find(key(1000)) == 9);
  CHECK(cache.find(key(16)) != nullptr);
}

TEST_CASE("a page-entry cache tells dimensions and tags apart and can be off for either") {
  EntryCache cache(cpu_model("barcelona"));
  cache.enable(true, false);
  cache.insert(key(8), 1);
  cache.insert(key(8, 2, Side::Second), 2);
  CHECK(*cache.find(key(8)) == 1);
  CHECK(cache.find(key(8, 2, Side::Second)) == nullptr);
  CHECK(cache.find(key(8, 2, Side::First, 0, make_context(2, 0))) == nullptr);
  cache.enable(true, true);
  cache.insert(key(8, 2, Side::Second), 2);
  cache.invalidate(Side::First, FlushMatch::space(make_context(1, 0)));
  CHECK(cache.find(key(8)) == nullptr);
  CHECK(*cache.find(key(8, 2, Side::Second)) == 2);
}

TEST_CASE("a fault drops the entries that its walk used last") {
  EntryCache cache(cpu_model("barcelona"));
  cache.enable(true, true);
  cache.insert(key(8, 2, Side::First, kVa.raw()), 1);
  cache.insert(key(16, 3, Side::First, kVa.raw()), 1);
  const Gva beside = kVa + page_bytes(PageSize::k2M);
  cache.invalidate_way(Side::First, beside.raw(), FlushMatch::all());
  CHECK(cache.find(key(8, 2, Side::First, kVa.raw())) != nullptr);
  CHECK(cache.find(key(16, 3, Side::First, kVa.raw())) == nullptr);      // its GiB is the same
  REQUIRE(cache.find(key(8, 2, Side::First, beside.raw())) != nullptr);  // an alias
  cache.invalidate_way(Side::First, kVa.raw(), FlushMatch::all());
  CHECK(cache.find(key(8)) != nullptr);
}

TEST_CASE("with a page-entry cache a walk starts at the root and reads only what is not cached") {
  Native t(config("barcelona"));
  CHECK(t.refs_of(kVa) == Refs{4, 0});
  CHECK(t.refs_of(kVa + kPageBytes) == Refs{1, 3});  // level 1 is never cached
  Native off(config("barcelona", WalkCacheKind::Prefix));
  CHECK(off.refs_of(kVa) == Refs{4, 0});
  CHECK(off.refs_of(kVa + kPageBytes) == Refs{1, 1});
}

TEST_CASE("the CPU decides the kind: K10's is by entry, others' by prefix") {
  Native k10(config("barcelona", WalkCacheKind::Cpu)), zen(config("zen1", WalkCacheKind::Cpu));
  for (Native* t : {&k10, &zen}) (void)t->refs_of(kVa);
  CHECK(k10.refs_of(kVa + kPageBytes) == Refs{1, 3});
  CHECK(zen.refs_of(kVa + kPageBytes) == Refs{1, 1});
}

TEST_CASE("a large page's entry is cached once its D is set, and never without") {
  Native t(config("barcelona"));
  const Gva large = kVa + page_bytes(PageSize::k1G);
  t.tables.map(t.root, large, Gpa(2 << 20), GuestTables::kUserRw | x86::kAccessed, PageSize::k2M);
  const auto again = [&] {
    t.vcpu().tlb().invalidate(FlushMatch::all());
    return t.refs_of(large);
  };
  (void)again();
  CHECK(again() == Refs{1, 2});
  t.vcpu().store(large, u64{1});
  CHECK(again() == Refs{0, 3});
}

TEST_CASE("a global large page's entry is not cached: it would outlive another PCID's INVLPG") {
  Native t(config("zen3"));
  const Gva large = kVa + page_bytes(PageSize::k1G);
  t.tables.map(t.root, large, Gpa(2 << 20), kUser | x86::kGlobal, PageSize::k2M);
  (void)t.refs_of(large);
  t.vcpu().tlb().invalidate(FlushMatch::all());
  CHECK(t.refs_of(large) == Refs{1, 2});
}

TEST_CASE("one PCID's entries do not answer for another") {
  Native t(config("zen3"));
  Controls c = t.vcpu().controls();
  c.pcide = true;
  t.vcpu().set_controls(c);
  (void)t.refs_of(kVa);
  t.vcpu().write_cr3(u64{1} << 63 | t.root.raw() | 1);
  CHECK(t.refs_of(kVa) == Refs{4, 0});
  t.vcpu().write_cr3(u64{1} << 63 | t.root.raw());
  t.vcpu().tlb().invalidate(FlushMatch::all());
  CHECK(t.refs_of(kVa) == Refs{1, 3});
}

TEST_CASE("what drops a page-entry cache") {
  struct Row {
    const char* name;
    std::function<void(Native&)> run;
    u64 cached;  ///< of the three upper entries of kVa
  };
  const Row rows[] = {
      {"nothing", [](Native&) {}, 3},
      {"MOV CR3", [](Native& t) { t.vcpu().write_cr3(t.root.raw()); }, 0},
      {"INVLPG of another page", [](Native& t) { t.vcpu().invlpg(kVa + (u64{1} << 40)); }, 0},
      {"INVPCID 0", [](Native& t) { t.vcpu().invpcid(InvpcidType::Address, 0, kVa); }, 0},
      {"INVPCID 1 of another PCID",
       [](Native& t) { t.vcpu().invpcid(InvpcidType::Context, 2, kVa); }, 3},
      {"#PF at another GiB",
       [](Native& t) { (void)t.vcpu().try_access(kVa + (u64{1} << 30), AccessKind::Read); }, 2},
      {"INVLPGA", [](Native& t) { t.vcpu().invlpga(kVa, 1); }, 0},
      {"TLB_CONTROL 3", [](Native& t) { t.vcpu().tlb_control(TlbControl::FlushAsid, 1); }, 0},
      {"TLB_CONTROL 3 of another ASID",
       [](Native& t) { t.vcpu().tlb_control(TlbControl::FlushAsid, 2); }, 3},
      {"INVVPID 0", [](Native& t) { t.vcpu().invvpid(InvvpidType::Address, 1, kVa); }, 0},
  };
  for (const Row& row : rows) {
    CAPTURE(row.name);
    Native t(config("zen3"));
    (void)t.refs_of(kVa);
    row.run(t);
    t.vcpu().tlb().invalidate(FlushMatch::all());
    CHECK(t.refs_of(kVa) == Refs{4 - row.cached, row.cached});
  }
}
