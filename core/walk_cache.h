#pragma once

#include <array>
#include <vector>

#include "core/tlb.h"

namespace mmuscope {

/// Paging-structure caches: for a prefix of an address, where the next table is and what
/// the entries above it permit. An entry at level L (2 = a PDE, 3 = a PDPTE, 4 = a PML4E, 5 = a
/// PML5E) lets a walk begin by reading the table of level L-1. SDM vol. 3, *Paging-Structure
/// Caches*.
template <class Space>
class PrefixCache {
 public:
  explicit PrefixCache(const CpuModel& cpu);

  struct Hit {
    u64 table = 0;   ///< address of the table to read next, in the space the walk reads
    u64 rights = 0;  ///< AND of the entries skipped
    u8 level = 0;    ///< of `table`; 0 when nothing was found
  };
  /// The deepest entry for the address; nothing when switched off.
  Hit find(Address<Space> a, Context context);
  /// Remembers that the entry of `level` (2 or more) on the way to `a` points to `table`.
  void insert(Address<Space> a, unsigned level, Context context, u64 table, u64 rights);
  void invalidate(const FlushMatch& match);
  /// Those on the way to the address alone.
  void invalidate_address(Address<Space> a, const FlushMatch& match);
  void set_enabled(bool on) { enabled_ = on; }

 private:
  struct Entry {
    u64 prefix = 0;
    Context context = kNoContext;
    u64 table = 0, rights = 0, stamp = 0;
  };
  struct Level {
    u32 sets = 0, ways = 0;
    u64 live = 0;
    std::vector<Entry> entries;
  };
  static u64 prefix(Address<Space> a, unsigned level) {
    return a.raw() >> (kPageShift + 9 * (level - 1));
  }
  Entry* find_entry(Level& l, u64 prefix, Context context);

  bool enabled_ = true;
  u64 now_ = 0;
  std::array<Level, kMaxLevels + 1> levels_;  // by level of the entry cached; 2..5 are used
};

/// By linear address: linear mappings, or combined ones where there is a second dimension.
using WalkCache = PrefixCache<GuestVirtual>;

}  // namespace mmuscope
