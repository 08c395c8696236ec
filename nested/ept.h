#pragma once

#include <array>
#include <optional>

#include "core/entry.h"
#include "core/memory.h"

namespace mmuscope {

/// The format of the second dimension's tables: Intel's EPT or AMD's nested paging.
enum class NestedFormat : u8 { Ept, Npt };

/// The tables of one VM's second dimension, as its hypervisor keeps them: real entries in host
/// frames, filled as the guest reaches its memory. "EPT" stands for both formats here.
class Ept {
 public:
  /// Bytes that Linux keeps about each table beside it (struct kvm_mmu_page).
  static constexpr u64 kHeaderBytes = 184;

  /// `levels`: 4 or 5. `flags`: entries carry A and D (always true for NPT).
  Ept(PhysicalMemory& memory, NestedFormat format, unsigned levels, bool flags);

  NestedFormat format() const { return format_; }
  unsigned levels() const { return levels_; }
  Hpa root() const { return root_.base(); }

  /// Maps the page of `size` around the frame, with all rights, to the host page that holds
  /// `backing`. A and D are set at once, as Linux does where nothing watches them (make_spte): a
  /// writable page counts as dirty. True if an entry changed; no flush is owed, since rights only
  /// grow. A larger page that is there already stays.
  bool map(Gfn g, Hfn backing, PageSize size);
  /// The same for a 4K page that may not be written.
  bool map_read_only(Gfn g, Hfn backing);
  /// Empties the leaf that maps the frame, whatever its size; false if there was none.
  bool unmap(Gfn g);

  // Dirty logging: pages are watched by taking a flag (W or D) from their 4K leaves.

  /// Splits every large page into 4K ones and takes the flag from all leaves. Linux, eager page
  /// splitting.
  void watch_all(u64 flag);
  /// Takes the flag from the 4K leaf of the frame; true if it had it.
  bool take(Gfn g, u64 flag);
  /// Gives the 4K leaf of the frame the write right back; true if it is there and lacked it.
  bool allow_write(Gfn g);
  /// Puts a page of that size where smaller ones are mapped; true if it did. Linux rebuilds large
  /// pages so when logging ends.
  bool merge(Gfn g, Hfn backing, PageSize size);

  u64 pages(PageSize size) const { return pages_[static_cast<unsigned>(size)]; }
  u64 table_pages() const { return table_pages_; }
  u64 table_pages_peak() const { return table_pages_peak_; }

 private:
  Hfn new_table();
  bool put_leaf(Gfn g, u64 leaf, PageSize size);
  u64 table_entry(Hfn table) const;
  u64 leaf_entry(Hpa page, PageSize size) const;
  bool present(u64 entry) const;
  bool is_table(u64 entry, unsigned level) const {
    return level > 1 && present(entry) && !(entry & ept::kLarge);
  }
  void watch_below(Hpa table, unsigned level, u64 flag);
  /// In place of a large leaf of this level: a table of leaves of the next.
  void split(Hpa where, unsigned level);
  void free_below(u64 entry, unsigned level);
  /// The present 4K leaf of the frame.
  std::optional<Hpa> small_leaf(Gfn g) const;
  /// The entry of the level on the way to the frame, if there are tables so far.
  std::optional<Hpa> entry_at(Gfn g, unsigned level) const;

  PhysicalMemory& memory_;
  NestedFormat format_;
  unsigned levels_;
  bool flags_;
  u64 table_pages_ = 0, table_pages_peak_ = 0;
  std::array<u64, kPageSizes> pages_{};
  Hfn root_;
};

}  // namespace mmuscope
