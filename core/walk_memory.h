#pragma once

#include <algorithm>

#include "core/memory.h"
#include "core/vcpu.h"
#include "core/walk.h"

namespace mmuscope {

// How hardware walkers reach the entries of tables. As a rule their Memory is PhysicalMemory, and
// nothing stands between; where a vCPU has a page-entry cache, or it matters in which data cache an
// entry lies, it is WatchedMemory. Walks are instantiated for both, so that the rule pays nothing.

class WatchedMemory {
 public:
  WatchedMemory(PhysicalMemory& memory, Vcpu& vcpu) : memory_(memory), vcpu_(vcpu) {}

  /// What the page-entry cache holds of the entry of a table of this level, on the way to the
  /// address; or nullptr.
  const u64* find(Hpa where, unsigned level, Side side, u64 address) {
    if (level == 1) return nullptr;
    const u64* value = vcpu_.page_entries().find(key(where, level, side, address));
    if (value == nullptr) return nullptr;
    ++cached_[static_cast<unsigned>(side)];
    ++vcpu_.counters[side == Side::First ? Event::WalkCacheHit : Event::NestedCacheHit];
    return value;
  }
  u64 read(Hpa where) {
    if (DataCaches* caches = vcpu_.data_caches()) {
      constexpr Event kEvent[] = {Event::TableRefL1, Event::TableRefL2, Event::TableRefLlc,
                                  Event::TableRefMemory};
      ++vcpu_.counters[kEvent[static_cast<unsigned>(caches->read(where))]];
    }
    return memory_.read(where);
  }
  void write(Hpa where, u64 value) { memory_.write(where, value); }
  void keep(Hpa where, unsigned level, Side side, u64 address, u64 value) {
    vcpu_.page_entries().insert(key(where, level, side, address), value);
  }
  /// The data of the access competes with tables for the caches.
  void read_data(Hpa where) {
    if (DataCaches* caches = vcpu_.data_caches()) (void)caches->read(where);
  }
  /// Entries that the cache answered.
  u64 cached(Side side) const { return cached_[static_cast<unsigned>(side)]; }

 private:
  EntryCache::Key key(Hpa where, unsigned level, Side side, u64 address) const {
    return {where, static_cast<u8>(level), side, address,
            side == Side::First ? vcpu_.context() : vcpu_.guest_physical_context()};
  }

  PhysicalMemory& memory_;
  Vcpu& vcpu_;
  std::array<u64, 2> cached_{};
};

/// Tells a vCPU's listener, if it has one.
class ToldIfAny {
 public:
  explicit ToldIfAny(WalkListener* listener) : listener_(listener) {}
  void on_entry(const EntryRead& e) const {
    if (listener_ != nullptr) listener_->on_entry(e);
  }
  void on_cached(const CacheUse& c) const {
    if (listener_ != nullptr) listener_->on_cached(c);
  }
  void on_flags(const FlagsSet& f) const {
    if (listener_ != nullptr) listener_->on_flags(f);
  }

 private:
  WalkListener* listener_;
};

/// The entry `e` asks for, on the way to the address: from the page-entry cache, if the memory has
/// one, or read from it. A memory that does not watch has `u64 read(Hpa)`.
template <class Memory, class Listener>
[[gnu::always_inline]] inline u64 read_entry(Memory& memory, Listener& listener, Side side,
                                             u64 address, EntryRead e) {
  if constexpr (requires { memory.find(e.where, e.level, side, address); }) {
    if (const u64* value = memory.find(e.where, e.level, side, address)) {
      listener.on_cached(
          {side == Side::First ? CacheUse::Kind::PageEntry : CacheUse::Kind::SecondPageEntry,
           e.level, e.where.raw(), e.gpa, e.final});
      return *value;
    }
  }
  e.value = memory.read(e.where);
  listener.on_entry(e);
  return e.value;
}
template <class Memory>
inline u64 cached_entries(const Memory& memory, Side side) {
  if constexpr (requires { memory.cached(side); }) {
    return memory.cached(side);
  } else {
    return 0;
  }
}
/// Offers the entries of a successful walk to the page-entry cache, but level 1, a leaf whose D is
/// still to be set, and a global leaf, which would carry one PCID's tag past the INVLPG of another.
/// `where(level)` is their host-physical address.
template <class Format, class Memory, class Where>
inline void keep_entries(Memory& memory, const WalkPath<Format>& path, Side side, u64 address,
                         bool flags, Where&& where) {
  if constexpr (requires { memory.keep(Hpa(), 2u, side, address, u64{}); }) {
    for (unsigned level = path.start_level; level >= std::max(2u, unsigned{path.level}); --level) {
      const bool leaf = level == path.level;
      if (leaf && flags && !(path.entry[level] & Format::kDirty)) continue;
      if (leaf && side == Side::First && (path.entry[level] & x86::kGlobal)) continue;
      memory.keep(where(level), level, side, address, path.entry[level]);
    }
  }
}

/// A walk that is watched; the line of the access comes into the data caches.
template <class Walk>
[[gnu::noinline]] Outcome walk_watched(Vcpu& vcpu, PhysicalMemory& memory, Gva va, Walk& walk) {
  WatchedMemory watched(memory, vcpu);
  const ToldIfAny told(vcpu.listener());
  Outcome o = walk(watched, told);
  if (o.kind == Outcome::Kind::Translated) {
    watched.read_data(o.translation.page + va.offset_in(o.translation.size));
  }
  return o;
}

/// Runs walk(memory, listener) in the memory that is right for the vCPU and with its listener, or
/// with nobody's, which costs nothing.
template <class Walk>
inline Outcome walk_in_memory(Vcpu& vcpu, PhysicalMemory& memory, Gva va, Walk&& walk) {
  if (vcpu.watches_walks()) [[unlikely]]
    return walk_watched(vcpu, memory, va, walk);
  return walk(memory, kNobodyListens);
}

}  // namespace mmuscope
