#pragma once

#include "core/machine.h"
#include "shadow/reverse_map.h"
#include "shadow/shadow_cache.h"

namespace mmuscope {

/// Shadow pages taken down and the translations that this made stale. The pages are freed only
/// after the flush that the caller owes.
struct Zapped {
  PageList pages;
  Shootdown owed;
  u64 count = 0;      ///< pages taken down, the roots still in use included
  bool root = false;  ///< one of them is a root still in use
};

/// The shadow tables as a data structure: pages, entries and the maps that find them, kept
/// consistent. Knows neither vCPUs nor what guest tables say.
class ShadowTables {
 public:
  /// `unsync_allowed`: leaf tables may become writable again while they are shadowed.
  ShadowTables(Machine& machine, bool unsync_allowed);

  ShadowCache& cache() { return cache_; }
  const ShadowCache& cache() const { return cache_; }
  /// Pages that count against the limit: all but those taken down, roots in use included.
  u64 used() const { return used_; }
  u64 unsync_pages() const { return unsync_; }
  u64 leaves(PageSize size) const { return leaves_[static_cast<unsigned>(size)]; }
  /// Tables and bookkeeping in bytes, by the sizes of KVM's structures.
  u64 bytes() const;
  /// The same of one page alone.
  static u64 page_cost(const ShadowPage& page);

  /// A new page. If it shadows a guest table, no mapping of that table stays writable: for leaf
  /// tables until someone writes, for others (and, unless pages may go out of sync, for all) as
  /// long as the page lives; and none that is left maps it as part of a large page.
  ShadowPage& create(Gfn gfn, const Role& role, Shootdown& owed);
  /// True if some page forbids writes to the frame for as long as it lives.
  bool write_tracked(Gfn gfn) const;
  /// True if a table inside the region forbids mapping it as one page.
  bool large_page_barred(Gfn gfn, PageSize size) const;
  /// Takes the right to write away from every mapping of the frame, of any size. With
  /// `for_tables` until its tables allow it again, else until the next write fault.
  void write_protect(Gfn gfn, bool for_tables, Shootdown& owed);
  /// The same for every frame, until the next write fault; the caller flushes.
  void remove_write_access();
  /// Drops the small leaves of direct pages that backing of this size would allow to be larger.
  void drop_split_leaves(PageSize backing, Shootdown& owed);

  /// Replaces an entry by a leaf; an entry for another frame must have been dropped before.
  void put_leaf(ShadowPage& page, unsigned i, u64 entry, Gfn gfn, u8 access, Shootdown& owed);
  /// Points an empty entry to a shadow page, with all rights.
  void link(ShadowPage& parent, unsigned i, ShadowPage& child);
  /// Empties an entry.
  void drop(ShadowPage& page, unsigned i, Shootdown& owed);
  /// Drops every leaf that maps the frame as a page of that size.
  void drop_mappings(Gfn gfn, PageSize size, Shootdown& owed);
  /// Drops every leaf that maps one of the frames, as a page of whatever size.
  void drop_range(Gfn first, u64 frames, Shootdown& owed);
  std::size_t mapping_count(Gfn gfn, PageSize size) const;

  /// Takes a page down: its entries, the entries that point to it, its claims on the guest frame.
  /// With `unsync_children` also the out-of-sync pages below it.
  void zap(ShadowPage& page, bool unsync_children, Zapped& zapped);
  /// One holder less of a root; a root that was taken down in use goes with the last.
  void put_root(ShadowPage& root, bool unsync_children, Zapped& zapped);
  /// Frees what was taken down, once flushed.
  void release(Zapped& zapped);

  // --- pages out of sync (Linux, mmu.c: kvm_unsync_page, mmu_unsync_walk) -----------------------
  /// The page's guest table may be written from now on; marks the ways to it from every root.
  void mark_unsync(ShadowPage& page);
  void clear_unsync(ShadowPage& page);
  /// An out-of-sync page and the entries on the way to it from where the search began.
  struct UnsyncPath {
    ShadowPage* page = nullptr;
    std::array<ShadowPage*, kMaxLevels + 1> parent{};  // by level, up to where the search began
    std::array<unsigned, kMaxLevels + 1> index{};
  };
  /// Some of the out-of-sync pages below `top`, at most as many as one batch of KVM holds; empty
  /// only if there is none. Clears marks that lead nowhere.
  std::vector<UnsyncPath> find_unsync(ShadowPage& top);
  /// Clears the marks on that way as far as they lead to nothing else.
  void clear_marks(const UnsyncPath& way);

 private:
  struct Batch;
  int find_unsync_below(ShadowPage& page, Batch& batch);
  void mark_parents(ShadowPage& page);
  void mark_entry(EntryNote& note);
  void clear_mark(ShadowPage& page, unsigned i);
  bool protects_for_life(const ShadowPage& page) const;
  void claim_table(const ShadowPage& page, Shootdown& owed);
  void disclaim_table(const ShadowPage& page);
  void add_note(EntryList& list, EntryNote& note);
  void remove_note(EntryList& list, EntryNote& note);

  Machine& machine_;
  ShadowCache cache_;
  ReverseMap reverse_map_;
  bool unsync_allowed_;
  u64 used_ = 0, unsync_ = 0;
  u64 translation_pages_ = 0;  // pages that need a second frame for what they shadow
  u64 chains_ = 0;             // descriptors of reverse-map lists
  std::array<u64, kPageSizes> leaves_{};
};

}  // namespace mmuscope
