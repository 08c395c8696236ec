#include "core/entry_cache.h"

namespace mmuscope {

EntryCache::Entry* EntryCache::find_entry(const Key& key) {
  for (Entry& e : entries_) {
    if (e.key.where == key.where && e.key.context == key.context && e.key.side == key.side &&
        e.key.level == key.level) {
      return &e;
    }
  }
  return nullptr;
}

const u64* EntryCache::find(const Key& key) {
  if (!on_[static_cast<unsigned>(key.side)] || live_ == 0) return nullptr;
  Entry* e = find_entry(key);
  if (e == nullptr) return nullptr;
  e->key.address = key.address;
  e->stamp = ++now_;
  return &e->value;
}

void EntryCache::insert(const Key& key, u64 value) {
  if (!on_[static_cast<unsigned>(key.side)] || entries_.empty()) return;
  Entry* victim = find_entry(key);
  if (victim == nullptr) {
    victim = &entries_.front();
    for (Entry& e : entries_) {
      if (e.stamp < victim->stamp) victim = &e;  // a free entry has stamp 0
    }
    if (victim->key.context == kNoContext) ++live_;
  }
  *victim = {key, value, ++now_};
}

void EntryCache::invalidate(Side side, const FlushMatch& match) {
  if (live_ == 0) return;
  for (Entry& e : entries_) {
    if (e.key.context == kNoContext || e.key.side != side || !match.covers(e.key.context)) continue;
    e = Entry{};
    --live_;
  }
}

void EntryCache::invalidate_way(Side side, u64 address, const FlushMatch& match) {
  if (live_ == 0) return;
  for (Entry& e : entries_) {
    if (e.key.context == kNoContext || e.key.side != side || !match.covers(e.key.context)) continue;
    if ((e.key.address ^ address) >> (kPageShift + 9 * (e.key.level - 1)) != 0) continue;
    e = Entry{};
    --live_;
  }
}

}  // namespace mmuscope
