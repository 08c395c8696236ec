#pragma once

#include <array>
#include <vector>

#include "core/tlb.h"

namespace mmuscope {

/// Which tables a walk is in: those that translate linear addresses, or those of the second
/// dimension.
enum class Side : u8 { First, Second };

/// The other kind of walk cache, AMD's: entries of page tables by their own host-physical address,
/// of every level but 1. A walk that starts at the root as ever finds some of its steps here and
/// need not read memory for them. Bhargava et al., *Accelerating Two-Dimensional Page Walks for
/// Virtualized Systems* (ASPLOS 2008). Fully associative,
/// least recently used replaced.
class EntryCache {
 public:
  explicit EntryCache(const CpuModel& cpu) : entries_(cpu.page_entries.entries) {}

  void enable(bool first, bool second) { on_ = {first, second}; }
  bool on() const { return on_[0] || on_[1]; }

  struct Key {
    Hpa where;  ///< of the entry
    u8 level;   ///< of the table it is in
    Side side;
    u64 address;  ///< that the walk translates, by which faults drop what they used
    Context context;
  };
  /// The value of the entry, or nullptr.
  const u64* find(const Key& key);
  /// In place of the least recently used. Only entries in which no flag is left to set.
  void insert(const Key& key, u64 value);
  void invalidate(Side side, const FlushMatch& match);
  /// Those that a walk for this address used last.
  void invalidate_way(Side side, u64 address, const FlushMatch& match);

 private:
  struct Entry {
    Key key{Hpa(), 0, Side::First, 0, kNoContext};
    u64 value = 0, stamp = 0;
  };
  Entry* find_entry(const Key& key);

  std::array<bool, 2> on_{};
  u64 now_ = 0;
  u64 live_ = 0;
  std::vector<Entry> entries_;
};

}  // namespace mmuscope
