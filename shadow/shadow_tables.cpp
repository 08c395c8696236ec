#include "shadow/shadow_tables.h"

#include <cassert>

namespace mmuscope {

namespace {

// Linux on x86-64: struct kvm_mmu_page; the gfn and rights of each entry of an indirect page up to
// level 3; descriptors of 14 entries for lists of more than one; the hash; and per memory slot the
// list heads (8 bytes a frame of each size), write tracking (2 a frame), large-page bars (4 each).
constexpr u64 kHeaderBytes = 184;
constexpr u64 kTranslationBytes = 4096;
constexpr u64 kChainBytes = 128;
constexpr u64 kChainEntries = 14;
constexpr u64 kHashBytes = 4096 * 8;

bool needs_translations(const ShadowPage& p) { return p.has_guest_table() && p.role.level <= 3; }

u64 chains(std::size_t entries) {
  return entries < 2 ? 0 : (entries + kChainEntries - 1) / kChainEntries;
}

u64 slot_bytes(u64 memory_bytes) {
  const u64 frames = memory_bytes >> page_shift(PageSize::k4K);
  const u64 large =
      (memory_bytes >> page_shift(PageSize::k2M)) + (memory_bytes >> page_shift(PageSize::k1G));
  return frames * (8 + 2) + large * (8 + 4);
}

constexpr std::array kSizes = {PageSize::k4K, PageSize::k2M, PageSize::k1G};

}  // namespace

ShadowTables::ShadowTables(Machine& machine, bool unsync_allowed)
    : machine_(machine),
      cache_(machine.memory()),
      reverse_map_(machine.map().bytes()),
      unsync_allowed_(unsync_allowed) {}

u64 ShadowTables::page_cost(const ShadowPage& page) {
  return kPageBytes + kHeaderBytes + (needs_translations(page) ? kTranslationBytes : 0);
}

u64 ShadowTables::bytes() const {
  return used_ * (kPageBytes + kHeaderBytes) + translation_pages_ * kTranslationBytes +
         chains_ * kChainBytes + kHashBytes + slot_bytes(machine_.map().bytes());
}

// --- guest tables and the frames they are in -----------------------------------------------------

ShadowPage& ShadowTables::create(Gfn gfn, const Role& role, Shootdown& owed) {
  ShadowPage& page = cache_.create(gfn, role);
  ++used_;
  if (needs_translations(page)) ++translation_pages_;
  if (page.has_guest_table()) claim_table(page, owed);
  return page;
}

bool ShadowTables::protects_for_life(const ShadowPage& page) const {
  return page.role.level > 1 || !unsync_allowed_;
}

void ShadowTables::claim_table(const ShadowPage& page, Shootdown& owed) {
  if (protects_for_life(page)) ++reverse_map_.at(page.gfn, PageSize::k4K).tables;
  ++reverse_map_.at(page.gfn, PageSize::k2M).tables;
  ++reverse_map_.at(page.gfn, PageSize::k1G).tables;
  write_protect(page.gfn, true, owed);
}

void ShadowTables::disclaim_table(const ShadowPage& page) {
  if (protects_for_life(page)) --reverse_map_.at(page.gfn, PageSize::k4K).tables;
  --reverse_map_.at(page.gfn, PageSize::k2M).tables;
  --reverse_map_.at(page.gfn, PageSize::k1G).tables;
}

bool ShadowTables::write_tracked(Gfn gfn) const {
  const FrameUse* use = reverse_map_.find(gfn, PageSize::k4K);
  return use != nullptr && use->tables != 0;
}

bool ShadowTables::large_page_barred(Gfn gfn, PageSize size) const {
  const FrameUse* use = reverse_map_.find(gfn, size);
  return use != nullptr && use->tables != 0;
}

void ShadowTables::write_protect(Gfn gfn, bool for_tables, Shootdown& owed) {
  const u64 taken = x86::kWrite | (for_tables ? spte::kMayWrite : 0);
  for (const PageSize size : kSizes) {
    FrameUse* use = reverse_map_.find(gfn, size);
    if (use == nullptr) continue;
    for (EntryNote& note : use->mappings) {
      const u64 old = note.page().entry(note.index());
      if (!(old & taken)) continue;
      note.page().set_entry(note.index(), old & ~taken);
      // The right to write that dirty logging takes is flushed by who asked for it.
      if (for_tables && (old & spte::kMayWrite)) owed.add();
    }
  }
}

void ShadowTables::remove_write_access() {
  for (ShadowPage& page : cache_.by_age()) {
    for (unsigned i = 0; i < kEntriesPerTable; ++i) {
      const u64 e = page.entry(i);
      if ((e & x86::kPresent) && page.is_leaf(e)) page.set_entry(i, e & ~x86::kWrite);
    }
  }
}

void ShadowTables::drop_split_leaves(PageSize backing, Shootdown& owed) {
  for (ShadowPage& page : cache_.by_age()) {
    if (!page.role.direct || page.role.level > 1 || backing == PageSize::k4K) continue;
    if (large_page_barred(page.gfn, PageSize::k2M)) continue;
    for (unsigned i = 0; i < kEntriesPerTable; ++i) drop(page, i, owed);
  }
}

// --- entries -------------------------------------------------------------------------------------

void ShadowTables::add_note(EntryList& list, EntryNote& note) {
  chains_ -= chains(list.size());
  list.push_front(note);
  chains_ += chains(list.size());
}

void ShadowTables::remove_note(EntryList& list, EntryNote& note) {
  chains_ -= chains(list.size());
  list.erase(list.iterator_to(note));
  chains_ += chains(list.size());
}

void ShadowTables::put_leaf(ShadowPage& page, unsigned i, u64 entry, Gfn gfn, u8 access,
                            Shootdown& owed) {
  const u64 old = page.entry(i);
  assert((entry & x86::kPresent) && page.is_leaf(entry));
  page.set_entry(i, entry);
  EntryNote& note = page.notes[i];
  if (old & x86::kPresent) {
    assert(page.is_leaf(old) && ((old ^ entry) & x86::kAddressMask) == 0 && note.gfn() == gfn);
    // Other rights that went are the guest's to flush; that to write guards tables and dirty logs.
    if ((old & spte::kMayWrite) && !(entry & spte::kMayWrite)) owed.add();
  } else {
    const PageSize size = leaf_size(page.role.level);
    ++leaves_[static_cast<unsigned>(size)];
    add_note(reverse_map_.at(gfn, size).mappings, note);
  }
  note.set_leaf(gfn, access);
}

void ShadowTables::link(ShadowPage& parent, unsigned i, ShadowPage& child) {
  assert(!(parent.entry(i) & x86::kPresent));
  parent.set_entry(
      i, child.table.base().raw() | x86::kPresent | x86::kWrite | x86::kUser | x86::kAccessed);
  parent.notes[i].set_child(child);
  add_note(child.parents, parent.notes[i]);
  if (child.unsync || child.unsync_children != 0) mark_entry(parent.notes[i]);
}

void ShadowTables::drop(ShadowPage& page, unsigned i, Shootdown& owed) {
  const u64 old = page.entry(i);
  if (!(old & x86::kPresent)) return;
  EntryNote& note = page.notes[i];
  page.set_entry(i, 0);
  owed.add();
  if (page.is_leaf(old)) {
    const PageSize size = leaf_size(page.role.level);
    --leaves_[static_cast<unsigned>(size)];
    remove_note(reverse_map_.at(note.gfn(), size).mappings, note);
  } else {
    remove_note(note.child().parents, note);
  }
}

void ShadowTables::drop_mappings(Gfn gfn, PageSize size, Shootdown& owed) {
  EntryList& mappings = reverse_map_.at(gfn, size).mappings;
  while (!mappings.empty()) drop(mappings.front().page(), mappings.front().index(), owed);
}

void ShadowTables::drop_range(Gfn first, u64 frames, Shootdown& owed) {
  for (const PageSize size : kSizes) {
    const u64 step = page_bytes(size) / kPageBytes;
    for (u64 g = first.raw() / step * step; g < first.raw() + frames; g += step) {
      if (mapping_count(Gfn(g), size) != 0) drop_mappings(Gfn(g), size, owed);
    }
  }
}

std::size_t ShadowTables::mapping_count(Gfn gfn, PageSize size) const {
  const FrameUse* use = reverse_map_.find(gfn, size);
  return use == nullptr ? 0 : use->mappings.size();
}

// --- taking pages down ---------------------------------------------------------------------------

void ShadowTables::zap(ShadowPage& page, bool unsync_children, Zapped& zapped) {
  if (unsync_children && page.role.level > 1) {
    for (auto found = find_unsync(page); !found.empty(); found = find_unsync(page)) {
      for (const UnsyncPath& way : found) {
        zap(*way.page, false, zapped);
        clear_marks(way);
      }
    }
  }
  ++zapped.count;
  Shootdown owed;
  for (unsigned i = 0; i < kEntriesPerTable; ++i) drop(page, i, owed);
  while (!page.parents.empty()) {
    EntryNote& from = page.parents.front();
    drop(from.page(), from.index(), owed);
  }
  if (!page.invalid) {
    if (page.has_guest_table()) disclaim_table(page);
    cache_.retire(page);
  }
  if (page.unsync) clear_unsync(page);
  if (page.root_count == 0) {
    zapped.owed.merge(std::move(owed));
    zapped.pages.push_back(page);
    --used_;
    if (needs_translations(page)) --translation_pages_;
  } else {
    zapped.root = true;
    owed.settle();  // the vCPUs that hold it are made to let go of it, which flushes
  }
  page.invalid = true;
}

void ShadowTables::put_root(ShadowPage& root, bool unsync_children, Zapped& zapped) {
  assert(root.root_count > 0);
  if (--root.root_count == 0 && root.invalid) zap(root, unsync_children, zapped);
}

void ShadowTables::release(Zapped& zapped) {
  zapped.pages.clear_and_dispose([this](ShadowPage* p) { cache_.release(*p); });
}

// --- pages out of sync ---------------------------------------------------------------------------

void ShadowTables::mark_unsync(ShadowPage& page) {
  assert(page.role.level == 1 && page.has_guest_table());
  page.unsync = true;
  ++unsync_;
  mark_parents(page);
}

void ShadowTables::clear_unsync(ShadowPage& page) {
  page.unsync = false;
  page.unsync_hook.unlink();
  --unsync_;
}

void ShadowTables::mark_parents(ShadowPage& page) {
  for (EntryNote& note : page.parents) mark_entry(note);
}

void ShadowTables::mark_entry(EntryNote& note) {
  ShadowPage& page = note.page();
  if (page.unsync_child.test(note.index())) return;
  page.unsync_child.set(note.index());
  if (page.unsync_children++ == 0) mark_parents(page);
}

void ShadowTables::clear_mark(ShadowPage& page, unsigned i) {
  --page.unsync_children;
  page.unsync_child.reset(i);
}

/// What one search may note: upper pages on the way and out-of-sync pages share its slots.
struct ShadowTables::Batch {
  static constexpr unsigned kSlots = 16;
  struct Slot {
    ShadowPage* page;
    unsigned index;  // in the page above
  };
  std::vector<Slot> slots;

  /// False when that was the last free slot.
  bool add(ShadowPage& page, unsigned index) {
    if (page.unsync) {
      for (const Slot& s : slots) {
        if (s.page == &page) return true;
      }
    }
    slots.push_back({&page, index});
    return slots.size() < kSlots;
  }
};

/// Number of out-of-sync pages found, or -1 when the batch is full.
int ShadowTables::find_unsync_below(ShadowPage& page, Batch& batch) {
  int found = 0;
  for (unsigned i = 0; i < kEntriesPerTable && page.unsync_children != 0; ++i) {
    if (!page.unsync_child.test(i)) continue;
    const u64 e = page.entry(i);
    if (!(e & x86::kPresent) || page.is_leaf(e)) {
      clear_mark(page, i);
      continue;
    }
    ShadowPage& child = page.notes[i].child();
    if (child.unsync_children != 0) {
      if (!batch.add(child, i)) return -1;
      const int below = find_unsync_below(child, batch);
      if (below < 0) return below;
      if (below == 0) clear_mark(page, i);
      found += below;
    } else if (child.unsync) {
      ++found;
      if (!batch.add(child, i)) return -1;
    } else {
      clear_mark(page, i);
    }
  }
  return found;
}

std::vector<ShadowTables::UnsyncPath> ShadowTables::find_unsync(ShadowPage& top) {
  std::vector<UnsyncPath> found;
  if (top.unsync_children == 0) return found;
  // A batch full of upper pages with stale marks holds no page out of sync, yet there may be some.
  while (found.empty()) {
    Batch batch;
    batch.add(top, 0);
    if (find_unsync_below(top, batch) == 0) break;
    UnsyncPath way;
    way.parent[top.role.level] = &top;
    for (std::size_t n = 1; n < batch.slots.size(); ++n) {
      const auto [page, index] = batch.slots[n];
      way.index[page->role.level] = index;
      if (page->role.level > 1) {
        way.parent[page->role.level] = page;
      } else {
        way.page = page;
        found.push_back(way);
      }
    }
  }
  return found;
}

void ShadowTables::clear_marks(const UnsyncPath& way) {
  for (unsigned level = 2; level <= kMaxLevels; ++level) {
    ShadowPage* parent = way.parent[level];
    if (parent == nullptr) return;
    const unsigned i = way.index[level - 1];
    if (parent->unsync_child.test(i)) clear_mark(*parent, i);
    if (parent->unsync_children != 0) return;
  }
}

}  // namespace mmuscope
