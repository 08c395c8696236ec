#include "core/walk_cache.h"

namespace mmuscope {

WalkCache::WalkCache(const CpuModel& cpu) {
  const auto add = [this](unsigned level, const WalkCacheGeometry& g) {
    if (g.entries == 0) return;
    levels_[level] = {u32{g.entries} / g.ways, g.ways, 0, std::vector<Entry>(g.entries)};
  };
  add(2, cpu.pde);
  add(3, cpu.pdpte);
  add(4, cpu.pml4e);
}

WalkCache::Entry* WalkCache::find_entry(Level& l, u64 prefix, Context context) {
  Entry* set = l.entries.data() + prefix % l.sets * l.ways;
  for (Entry* e = set; e < set + l.ways; ++e) {
    if (e->prefix == prefix && e->context == context) return e;
  }
  return nullptr;
}

WalkCache::Hit WalkCache::find(Gva va, Context context) {
  if (!enabled_) return {};
  for (unsigned level = 2; level <= kMaxLevels; ++level) {
    Level& l = levels_[level];
    if (l.live == 0) continue;
    if (Entry* e = find_entry(l, prefix(va, level), context)) {
      e->stamp = ++now_;
      return {e->table, e->rights, static_cast<u8>(level - 1)};
    }
  }
  return {};
}

void WalkCache::insert(Gva va, unsigned level, Context context, u64 table, u64 rights) {
  Level& l = levels_[level];
  if (!enabled_ || l.entries.empty()) return;
  const u64 wanted = prefix(va, level);
  Entry* victim = find_entry(l, wanted, context);
  if (victim == nullptr) {
    Entry* set = l.entries.data() + wanted % l.sets * l.ways;
    victim = set;
    for (Entry* e = set; e < set + l.ways; ++e) {
      if (e->stamp < victim->stamp) victim = e;  // a free entry has stamp 0
    }
    if (victim->context == kNoContext) ++l.live;
  }
  *victim = {wanted, context, table, rights, ++now_};
}

void WalkCache::invalidate(const FlushMatch& match) {
  for (Level& l : levels_) {
    if (l.live == 0) continue;
    for (Entry& e : l.entries) {
      if (e.context == kNoContext || ((e.context ^ match.context) & match.mask) != 0) continue;
      e = Entry{};
      --l.live;
    }
  }
}

}  // namespace mmuscope
