#pragma once

#include "core/vcpu.h"

namespace mmuscope {

// What hardware walkers of every kind do with the paging-structure caches and with the result of
// a walk through x86 tables.

/// Moves the start of a walk below the root where the vCPU's paging-structure cache knows the way.
template <class Format, class Listener>
inline void start_from_cache(Vcpu& vcpu, Gva va, WalkStart<Format>& start, Listener& listener) {
  const WalkCache::Hit hit = vcpu.walk_cache().find(va, vcpu.context());
  if (hit.level == 0) return;
  ++vcpu.counters[Event::WalkCacheHit];
  listener.on_cached({CacheUse::Kind::PagingStructure, hit.level, hit.table, {}, false});
  start = {typename Format::Out(hit.table), hit.level, hit.rights};
}

/// Remembers the tables that a successful walk went through.
template <class Format>
inline void cache_path(Vcpu& vcpu, Gva va, const WalkPath<Format>& path, u64 start_rights) {
  u64 rights = start_rights;
  for (unsigned level = path.start_level; level > path.level; --level) {
    rights &= Format::rights_of(path.entry[level]);
    vcpu.walk_cache().insert(va, level, vcpu.context(), path.table_below(level), rights);
  }
}

/// The translation that a permitted walk through x86 tables grants, its page left to the caller.
/// A store may use it at once only if the leaf is dirty.
template <class Format>
inline Translation x86_translation(const WalkPath<Format>& path, const Controls& controls) {
  const u64 leaf = path.entry[path.level];
  Translation t;
  t.size = path.size();
  t.mapped = t.size;
  t.rights = translation_rights(path.rights);
  if (leaf & x86::kDirty) t.rights |= rights::kStoreOk;
  t.global = (leaf & x86::kGlobal) && controls.pge;
  return t;
}

}  // namespace mmuscope
