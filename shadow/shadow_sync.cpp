// Leaf tables that the guest may write without an exit, brought up to date when it flushes.

#include "shadow/shadow_mmu.h"

namespace mmuscope {

void ShadowMmu::sync_roots(Vcpu& v) {
  ShadowPage* root = state(v).root.page;
  if (root == nullptr) return;
  if (policy_.unsync_pages != 0) {
    // So few that all are brought up to date, whichever root they are below; those of other vCPUs
    // stay writable.
    sync_own_pages(v, 0);
    Shootdown weakened;
    for (PerVcpu& s : vcpus_) {
      for (ShadowPage& page : s.unsync) sync_page(v, page, weakened);
    }
    flush_owed(&v, weakened);
    return;
  }
  if (root->unsync_children == 0) return;
  const auto held = lock_.write(&v, root->gfn);
  sync_children(v, *root);
}

/// Brings the oldest of the pages that the vCPU took out of sync up to date and traps the next
/// write to their tables again, until only so many are left.
void ShadowMmu::sync_own_pages(Vcpu& v, std::size_t keep) {
  UnsyncList& own = state(v).unsync;
  while (own.size() > keep) {
    ShadowPage& page = own.front();
    Shootdown owed;
    tables_.write_protect(page.gfn, true, owed);
    flush_owed(&v, owed);
    tables_.clear_unsync(page);
    sync_page(v, page, owed);
    flush_owed(&v, owed);
  }
}

/// Brings every page out of sync below `top` up to date and traps the next write to its table
/// again. By batches: all tables of one are protected first, with one flush for all.
void ShadowMmu::sync_children(Vcpu& v, ShadowPage& top) {
  Shootdown weakened;
  for (auto batch = tables_.find_unsync(top); !batch.empty(); batch = tables_.find_unsync(top)) {
    Shootdown protect;
    for (const auto& way : batch) tables_.write_protect(way.page->gfn, true, protect);
    if (protect.owed()) {
      protect.merge(std::move(weakened));
      flush_owed(&v, protect);
    }
    for (const auto& way : batch) {
      tables_.clear_unsync(*way.page);
      sync_page(v, *way.page, weakened);
      tables_.clear_marks(way);
    }
  }
  flush_owed(&v, weakened);
}

void ShadowMmu::sync_page(Vcpu& v, ShadowPage& page, Shootdown& owed) {
  for (unsigned i = 0; i < kEntriesPerTable; ++i) {
    if (page.entry(i) != 0) sync_entry(v, page, i, owed);
  }
}

/// Makes an entry that exists what the guest's entry allows now, or drops it. Never makes one.
void ShadowMmu::sync_entry(Vcpu& v, ShadowPage& page, unsigned i, Shootdown& owed) {
  const u64 old = page.entry(i);
  if (old == 0) return;
  ++v.counters[Event::MmuEntrySynced];
  const auto leaf = read_guest_leaf(v, page, i);
  const EntryNote& note = page.notes[i];
  if (!leaf || leaf->gfn != note.gfn()) {
    tables_.drop(page, i, owed);
    return;
  }
  if (leaf->rights == note.access()) return;
  LeafWish wish{leaf->gfn, Hpa(old & x86::kAddressMask).frame(), leaf->rights};
  wish.prefetch = wish.synchronizing = true;
  bool write_protected = false;
  tables_.put_leaf(page, i, make_leaf(v, page, old, wish, write_protected), wish.gfn, wish.rights,
                   owed);
}

}  // namespace mmuscope
