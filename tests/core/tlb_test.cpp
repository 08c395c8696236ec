#include "core/tlb.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <list>
#include <string>

#include "core/random.h"
#include "core/walk_cache.h"

namespace mmuscope {
namespace {

TlbEntry entry_for(Gva va, PageSize size, Context context, bool global = false) {
  TlbEntry e;
  e.va = va.align_down(size).raw();
  e.offset_mask = static_cast<u32>(page_bytes(size) - 1);
  e.context_mask = global ? ~kPcidBits : ~Context{0};
  e.context = context & e.context_mask;
  e.size = e.mapped = size;
  e.global = global;
  return e;
}

/// A set-associative array the simple way: each set a list, most recently used first.
class NaiveTlb {
 public:
  NaiveTlb(u32 sets, u32 ways) : sets_(sets), ways_(ways) {}

  bool find(Gva va, PageSize size, Context c) {
    auto& set = set_of(va, size);
    const auto it = std::find_if(set.begin(), set.end(), [&](const TlbEntry& e) {
      return e.size == size && e.va == va.align_down(size).raw() && e.context == c;
    });
    if (it == set.end()) return false;
    set.splice(set.begin(), set, it);
    return true;
  }
  void insert(const TlbEntry& e) {
    auto& set = set_of(Gva(e.va), e.size);
    set.push_front(e);
    if (set.size() > ways_) set.pop_back();
  }
  template <class Drop>
  void drop_if(Drop drop) {
    for (auto& set : lists_) set.remove_if(drop);
  }

 private:
  std::list<TlbEntry>& set_of(Gva va, PageSize size) {
    return lists_[(va.raw() >> page_shift(size)) % sets_];
  }
  u32 sets_, ways_;
  std::vector<std::list<TlbEntry>> lists_ = std::vector<std::list<TlbEntry>>(sets_);
};

struct Shape {
  u16 entries, ways;
};

void compare_with_naive(const Shape& shape, u8 sizes) {
  TlbLevel level({{shape.entries, shape.ways, sizes, Confidence::Text}});
  NaiveTlb naive(shape.entries / shape.ways, shape.ways);
  Random random(shape.entries + shape.ways + sizes);
  const u64 pages = u64{shape.entries} * 3 / 4 + 1;
  u64 now = 0, hits = 0, misses = 0;
  for (int i = 0; i < 60000; ++i) {
    ++now;
    const PageSize size = sizes == 3 && random.chance(1, 3) ? PageSize::k2M : PageSize::k4K;
    // The two sizes use different halves of the address space, so that no page has two entries.
    const Gva va((size == PageSize::k2M ? u64{1} << 46 : 0) +
                 random.below(pages) * page_bytes(size));
    const Context context = make_context(1, static_cast<u32>(random.below(2)));
    if (random.chance(1, 5000)) {
      const FlushMatch match = FlushMatch::pcid(context, false);
      level.invalidate(match);
      naive.drop_if([&](const TlbEntry& e) { return e.context == context; });
    } else if (random.chance(1, 20)) {
      level.invalidate_page(va, FlushMatch::pcid(context, false));
      naive.drop_if(
          [&](const TlbEntry& e) { return e.context == context && e.answers(va, context); });
    } else {
      const u32 slot = level.find(va, context);
      const bool hit = slot != TlbLevel::kNone;
      REQUIRE(hit == naive.find(va, size, context));
      if (hit) {
        level.touch(slot, now);
        ++hits;
      } else {
        const TlbEntry e = entry_for(va, size, context);
        level.insert(va, e, now);
        naive.insert(e);
        ++misses;
      }
    }
  }
  CHECK(hits > 5000);
  CHECK(misses > 5000);
}

TEST_CASE("a TLB level replaces as sets of lists do, whatever its geometry") {
  for (const Shape& shape : {Shape{64, 4}, Shape{1536, 8}, Shape{1536, 12}, Shape{2048, 16},
                             Shape{48, 48}, Shape{7, 7}, Shape{96, 6}, Shape{16, 1}}) {
    const std::string name = std::to_string(shape.entries) + "/" + std::to_string(shape.ways);
    INFO(name);
    compare_with_naive(shape, 1);
    compare_with_naive(shape, 3);
  }
}

/// How many of the pages at these distances still hit after each was used once, in order.
u64 survivors(const Shape& shape, u64 stride, u64 count) {
  TlbLevel level({{shape.entries, shape.ways, 1, Confidence::Text}});
  const Context c = make_context(1, 0);
  for (u64 i = 0; i < count; ++i) {
    const Gva va(i * stride * kPageBytes);
    level.insert(va, entry_for(va, PageSize::k4K, c), i + 1);
  }
  u64 hits = 0;
  for (u64 i = 0; i < count; ++i)
    hits += level.find(Gva(i * stride * kPageBytes), c) != TlbLevel::kNone;
  return hits;
}

TEST_CASE("1536 entries in 8 ways are 192 sets, in 12 ways 128") {
  CHECK(survivors({1536, 8}, 192, 8) == 8);
  CHECK(survivors({1536, 8}, 192, 9) == 8);
  CHECK(survivors({1536, 8}, 192, 20) == 8);
  CHECK(survivors({1536, 8}, 128, 24) == 24);  // 128 and 192 share a factor of 64: three sets
  CHECK(survivors({1536, 8}, 128, 25) == 24);
  CHECK(survivors({1536, 12}, 128, 12) == 12);
  CHECK(survivors({1536, 12}, 128, 13) == 12);
  CHECK(survivors({1536, 8}, 1, 1536) == 1536);
  CHECK(survivors({1536, 12}, 1, 1537) == 1536);
}

TEST_CASE("flushes drop what they name and nothing else") {
  const Context mine = make_context(1, 5), other_pcid = make_context(1, 6),
                other_space = make_context(2, 5);
  const Gva va(0x40000000);
  struct Case {
    FlushMatch match;
    bool mine, global, pcid, space;  // what is left
  };
  const Case cases[] = {
      {FlushMatch::all(), false, false, false, false},
      {FlushMatch::space(mine), false, false, false, true},
      {FlushMatch::pcid(mine, false), false, false, true, true},
      {FlushMatch::pcid(mine, true), false, true, true, true},
  };
  for (const Case& c : cases) {
    TlbLevel level({{64, 4, 1, Confidence::Text}});
    u64 now = 0;
    const auto add = [&](u64 page, Context context, bool global) {
      level.insert(va + page * kPageBytes,
                   entry_for(va + page * kPageBytes, PageSize::k4K, context, global), ++now);
    };
    add(0, mine, false);
    add(1, mine, true);
    add(2, other_pcid, false);
    add(3, other_space, false);
    CHECK(level.find(va + kPageBytes, other_pcid) != TlbLevel::kNone);   // a global answers for all
    CHECK(level.find(va + kPageBytes, other_space) == TlbLevel::kNone);  // of its space
    CHECK(level.find(va, other_pcid) == TlbLevel::kNone);
    level.invalidate(c.match);
    CHECK((level.find(va, mine) != TlbLevel::kNone) == c.mine);
    CHECK((level.find(va + kPageBytes, mine) != TlbLevel::kNone) == c.global);
    CHECK((level.find(va + 2 * kPageBytes, other_pcid) != TlbLevel::kNone) == c.pcid);
    CHECK((level.find(va + 3 * kPageBytes, other_space) != TlbLevel::kNone) == c.space);
  }
}

TEST_CASE("what the first level cannot hold is held in parts, and goes as a whole") {
  Tlb tlb(cpu_model("nehalem"));  // no 1G entries anywhere
  const Context c = make_context(1, 0);
  const Gva va(u64{3} << 30);
  const TlbEntry huge = entry_for(va, PageSize::k1G, c);
  const u64 apart = page_bytes(PageSize::k2M);
  u64 now = 0;
  for (u64 i = 0; i < 3; ++i) {
    const TlbEntry& part = tlb.fill(AccessKind::Read, va + i * apart, huge, ++now);
    CHECK(part.size == PageSize::k2M);
    CHECK(part.va == va.raw() + i * apart);
  }
  TlbLevel& l1 = tlb.first(AccessKind::Read);
  CHECK(l1.find(va + 2 * apart + 5, c) != TlbLevel::kNone);
  CHECK(l1.find(va + 3 * apart, c) == TlbLevel::kNone);
  tlb.invalidate_page(va + apart, FlushMatch::pcid(c, false));
  for (u64 i = 0; i < 3; ++i) CHECK(l1.find(va + i * apart, c) == TlbLevel::kNone);
}

TEST_CASE("fetches and data have a first level each and share the second") {
  Tlb tlb(cpu_model("cascade-lake"));
  const Context c = make_context(1, 0);
  const Gva va(0x1000);
  tlb.fill(AccessKind::Read, va, entry_for(va, PageSize::k4K, c), 1);
  CHECK(tlb.first(AccessKind::Read).find(va, c) != TlbLevel::kNone);
  CHECK(tlb.first(AccessKind::Write).find(va, c) != TlbLevel::kNone);
  CHECK(tlb.first(AccessKind::Fetch).find(va, c) == TlbLevel::kNone);
  CHECK(tlb.find_second(AccessKind::Fetch, va, c, 2) != nullptr);
  CHECK(tlb.find_second(AccessKind::Fetch, va + kPageBytes, c, 3) == nullptr);
}

TEST_CASE("a walk begins at the deepest cached entry") {
  WalkCache cache(cpu_model("cascade-lake"));
  const Context c = make_context(1, 0), other = make_context(1, 1);
  const Gva va((u64{1} << 39) | (u64{2} << 30) | (u64{3} << 21));
  CHECK(cache.find(va, c).level == 0);
  cache.insert(va, 4, c, 0x4000, 7);
  CHECK(cache.find(va, c).level == 3);
  cache.insert(va, 3, c, 0x3000, 6);
  cache.insert(va, 2, c, 0x2000, 5);
  const WalkCache::Hit hit = cache.find(va + 0x1ff000, c);
  CHECK(hit.level == 1);
  CHECK(hit.table == 0x2000);
  CHECK(hit.rights == 5);
  CHECK(cache.find(va + (u64{1} << 21), c).level == 2);
  CHECK(cache.find(va + (u64{1} << 30), c).level == 3);
  CHECK(cache.find(va + (u64{1} << 39), c).level == 0);
  CHECK(cache.find(va, other).level == 0);
  cache.invalidate(FlushMatch::pcid(other, false));
  CHECK(cache.find(va, c).level == 1);
  cache.set_enabled(false);
  CHECK(cache.find(va, c).level == 0);
  cache.set_enabled(true);
  cache.invalidate(FlushMatch::pcid(c, false));
  CHECK(cache.find(va, c).level == 0);
}

TEST_CASE("a walk cache forgets the entry least recently used") {
  const CpuModel& cpu = cpu_model("cascade-lake");
  WalkCache cache(cpu);
  const Context c = make_context(1, 0);
  const auto region = [](u64 i) { return Gva(i << 39); };
  for (u64 i = 0; i < cpu.pml4e.entries; ++i) cache.insert(region(i), 4, c, i, 0);
  CHECK(cache.find(region(0), c).level == 3);  // now the most recent
  cache.insert(region(100), 4, c, 100, 0);
  CHECK(cache.find(region(0), c).level == 3);
  CHECK(cache.find(region(1), c).level == 0);
  CHECK(cache.find(region(100), c).table == 100);
}

}  // namespace
}  // namespace mmuscope
