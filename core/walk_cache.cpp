#include "core/walk_cache.h"

namespace mmuscope {

template <class Space>
PrefixCache<Space>::PrefixCache(const CpuModel& cpu) {
  const auto add = [this](unsigned level, const WalkCacheGeometry& g) {
    if (g.entries == 0) return;
    levels_[level] = {u32{g.entries} / g.ways, g.ways, 0, std::vector<Entry>(g.entries)};
  };
  add(2, cpu.pde);
  add(3, cpu.pdpte);
  add(4, cpu.pml4e);
  add(5, cpu.pml5e);
}

template <class Space>
typename PrefixCache<Space>::Entry* PrefixCache<Space>::find_entry(Level& l, u64 prefix,
                                                                   Context context) {
  Entry* set = l.entries.data() + prefix % l.sets * l.ways;
  for (Entry* e = set; e < set + l.ways; ++e) {
    if (e->prefix == prefix && e->context == context) return e;
  }
  return nullptr;
}

template <class Space>
typename PrefixCache<Space>::Hit PrefixCache<Space>::find(Address<Space> a, Context context) {
  if (!enabled_) return {};
  for (unsigned level = 2; level <= kMaxLevels; ++level) {
    Level& l = levels_[level];
    if (l.live == 0) continue;
    if (Entry* e = find_entry(l, prefix(a, level), context)) {
      e->stamp = ++now_;
      return {e->table, e->rights, static_cast<u8>(level - 1)};
    }
  }
  return {};
}

template <class Space>
void PrefixCache<Space>::insert(Address<Space> a, unsigned level, Context context, u64 table,
                                u64 rights) {
  Level& l = levels_[level];
  if (!enabled_ || l.entries.empty()) return;
  const u64 wanted = prefix(a, level);
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

template <class Space>
void PrefixCache<Space>::invalidate(const FlushMatch& match) {
  for (Level& l : levels_) {
    if (l.live == 0) continue;
    for (Entry& e : l.entries) {
      if (e.context == kNoContext || !match.covers(e.context)) continue;
      e = Entry{};
      --l.live;
    }
  }
}

template <class Space>
void PrefixCache<Space>::invalidate_address(Address<Space> a, const FlushMatch& match) {
  for (unsigned level = 2; level <= kMaxLevels; ++level) {
    Level& l = levels_[level];
    if (l.live == 0) continue;
    Entry* set = l.entries.data() + prefix(a, level) % l.sets * l.ways;
    for (Entry* e = set; e < set + l.ways; ++e) {
      if (e->context == kNoContext || e->prefix != prefix(a, level) || !match.covers(e->context)) {
        continue;
      }
      *e = Entry{};
      --l.live;
    }
  }
}

template class PrefixCache<GuestVirtual>;
template class PrefixCache<GuestPhysical>;

}  // namespace mmuscope
