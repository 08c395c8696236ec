// Page faults: telling the guest's own from hidden ones, and filling shadow entries for the latter.

#include <algorithm>

#include "core/error.h"
#include "shadow/shadow_mmu.h"

namespace mmuscope {

namespace {

constexpr u64 kMinFree = 5;  // KVM_MIN_FREE_MMU_PAGES
constexpr u64 kRefill = 25;  // KVM_REFILL_PAGES

u64 frames_in(PageSize size) { return page_bytes(size) / kPageBytes; }

Gfn align_down(Gfn g, PageSize size) { return Gfn(g.raw() & ~(frames_in(size) - 1)); }

/// Without its dirty flag a page may not be written by way of its shadow: the first write must be
/// seen, so that the flag can be set.
u8 rights_while_clean(u8 granted, u64 guest_entry) {
  const bool clean = !(guest_entry & x86::kDirty);
  return clean ? static_cast<u8>(granted & ~rights::kWrite) : granted;
}

}  // namespace

Resume ShadowMmu::page_fault(Vcpu& v, const VmExit& exit) {
  ++v.counters[Event::PfTaken];
  const Controls& controls = v.controls();
  const SoftwareWalk guest = machine_.walk_guest(v.root(), exit.gva, exit.access, controls);
  if (!guest.ok) {
    ++v.counters[Event::PfGuest];
    const u32 cause = guest.error_code & (pf::kPresent | pf::kReserved);
    if (policy_.unsync && cause == pf::kPresent) invalidate_before_fault(v, exit.gva);
    return Resume::reflect({GuestFault::Kind::PageFault, guest.error_code, exit.gva});
  }
  if (guest.flagged != 0) {
    for (unsigned l = guest.path.level; l <= guest.path.start_level; ++l) {
      if (guest.flagged & (1u << l)) mark_dirty(guest.path.where[l].frame());
    }
  }
  const Gpa gpa = guest.path.translate(exit.gva);
  Fault f{v, exit.gva, exit.access, guest.path, gpa.frame()};
  f.rights = static_cast<u8>(guest.path.rights);
  if (!exit.access.is_write()) {
    f.rights = rights_while_clean(f.rights, guest.path.entry[guest.path.level]);
  }
  // What the host has merged is written by one who gets a copy first.
  if (exit.access.is_write() && machine_.map().is_merged(f.gfn)) machine_.unmerge(f.gfn, &v);
  const bool trapped = exit.access.is_write() && (exit.error_code & pf::kPresent);
  if (trapped && tables_.write_tracked(f.gfn)) {
    clear_flood_counts(v, exit.gva);
    return write_protected(v, exit, gpa);
  }
  if (exit.access.is_write() && !(f.rights & rights::kWrite)) {
    // CR0.WP=0: the kernel writes to a read-only page. The hardware runs with WP=1, so the page
    // becomes a writable page of the kernel's until a user touches it. Not executable if the guest
    // has SMEP, and not so at all under SMAP, which would no longer protect it: then the one write
    // is emulated. KVM does not do the latter; string instructions are not emulated here either.
    if (controls.smap && !exit.store->string) return write_protected(v, exit, gpa);
    f.rights = static_cast<u8>((f.rights | rights::kWrite) & ~rights::kUser);
    if (controls.smep) f.rights &= static_cast<u8>(~rights::kExec);
  }
  if (fill_locked(f) == Filled::WriteProtected) return write_protected(v, exit, gpa);
  return Resume::retry();
}

ShadowMmu::Filled ShadowMmu::fill_locked(Fault& f) {
  Vcpu& v = f.vcpu;
  const auto held = lock_.write(&v, f.path.where[f.path.level].frame());
  make_room(v);
  const Filled filled = fill(f);
  if (filled == Filled::Fixed) ++v.counters[Event::PfFixed];
  if (filled == Filled::Spurious) ++v.counters[Event::PfSpurious];
  return filled;
}

// --- the path to the leaf ------------------------------------------------------------------------

ShadowMmu::Filled ShadowMmu::fill(Fault& f) {
  ShadowPage* page = state(f.vcpu).root.page;
  u64 access = kAllAccess;
  for (unsigned level = page->role.level;; --level) {
    page->writes_emulated = 0;
    if (level == f.path.level) break;
    const Gfn table = Gpa(f.path.table_below(level)).frame();
    access &= GuestFormat::rights_of(f.path.entry[level]);
    const unsigned i = table_index(f.va, level);
    page = &child_for(f.vcpu, *page, i, table, false, static_cast<u8>(access));
  }
  LeafWish wish{f.gfn, {}, f.rights, f.access.is_write()};
  const PageSize size = leaf_size_for(f, wish.frame);
  while (page->role.level > leaf_level(size)) {
    const Gfn first = align_down(f.gfn, leaf_size(page->role.level));
    const unsigned at = table_index(f.va, page->role.level);
    page = &child_for(f.vcpu, *page, at, first, true, f.rights);
  }
  wish.gfn = align_down(f.gfn, size);
  wish.frame = Hfn(wish.frame.raw() - (f.gfn - wish.gfn));
  const unsigned i = table_index(f.va, page->role.level);
  const Filled filled = set_leaf(f.vcpu, *page, i, wish);
  if (filled != Filled::Spurious) prefetch(f.vcpu, *page, i);
  return filled;
}

ShadowPage* ShadowMmu::present_child(const ShadowPage& parent, unsigned i) const {
  const u64 e = parent.entry(i);
  return (e & x86::kPresent) && !parent.is_leaf(e) ? &parent.notes[i].child() : nullptr;
}

/// The page below an entry: the one that it points to, or one found or made and linked there.
ShadowPage& ShadowMmu::child_for(Vcpu& v, ShadowPage& parent, unsigned i, Gfn gfn, bool direct,
                                 u8 access) {
  if (ShadowPage* child = present_child(parent, i)) {
    // The rights of a direct page are those of one guest entry, which may have become dirty.
    if (!direct || child->role.access == access) return *child;
    Shootdown owed;
    tables_.drop(parent, i, owed);
    flush_owed(&v, owed);
  }
  Role role = parent.role;
  --role.level;
  role.direct = direct;
  role.access = access;
  ShadowPage& child = page_for(v, gfn, role);
  // The guest need not flush before it uses an entry that was not present: what the hardware may
  // reach from now on must be as the guest's tables are.
  if (child.unsync_children != 0) sync_children(v, child);
  link(v, parent, i, child);
  return child;
}

void ShadowMmu::link(Vcpu& v, ShadowPage& parent, unsigned i, ShadowPage& child) {
  Shootdown owed;
  tables_.drop(parent, i, owed);  // a large leaf that has to be split
  flush_owed(&v, owed);
  tables_.link(parent, i, child);
}

ShadowPage& ShadowMmu::page_for(Vcpu& v, Gfn gfn, const Role& role) {
  ShadowPage* found = nullptr;
  if (role.direct) {
    found = tables_.cache().find(gfn, role);
  } else {
    Zapped zapped;
    for (ShadowPage* p : tables_.cache().shadows_of(gfn)) {
      if (p->role == role) {
        found = p;
      } else if (role.level > 1 && p->unsync) {
        // The frame was a leaf table, becomes an upper one and will be write-protected.
        zap(&v, *p, zapped);
      }
    }
    if (found != nullptr && found->unsync) {
      Shootdown owed;
      sync_page(v, *found, owed);  // it stays writable: others may still use it so
      flush_owed(&v, owed);
    }
    if (found != nullptr) found->writes_emulated = 0;
    finish(&v, zapped);
  }
  if (found != nullptr) return *found;
  ++v.counters[Event::MmuCacheMiss];
  Shootdown owed;
  ShadowPage& made = tables_.create(gfn, role, owed);
  flush_owed(&v, owed);
  return made;
}

PageSize ShadowMmu::leaf_size_for(const Fault& f, Hfn& frame) {
  const Backing backing = machine_.map().back(f.gfn);
  frame = backing.frame;
  if (logging_dirty_ || !policy_.large_pages) return PageSize::k4K;
  PageSize size = min_size(f.path.size(), backing.size);
  if (!machine_.cpu().pages_1g) size = min_size(size, PageSize::k2M);
  for (auto s = PageSize::k2M; s <= size; s = static_cast<PageSize>(static_cast<unsigned>(s) + 1)) {
    const u64 end = (align_down(f.gfn, s) + frames_in(s)).base().raw();
    if (tables_.large_page_barred(f.gfn, s) || end > machine_.map().bytes()) {
      return static_cast<PageSize>(static_cast<unsigned>(s) - 1);
    }
  }
  return size;
}

// --- leaves --------------------------------------------------------------------------------------

/// True if a mapping of the frame may be writable. Takes leaf tables in it out of sync where the
/// policy and the occasion allow that.
bool ShadowMmu::may_write(Vcpu& v, Gfn gfn, const LeafWish& wish) {
  if (tables_.write_tracked(gfn)) return false;
  if (!policy_.unsync) return true;
  const auto shadows = tables_.cache().shadows_of(gfn);
  // Where few may be out of sync, a table with two shadows would push itself out.
  if (policy_.unsync_pages != 0 && shadows.size() > 1) return false;
  for (ShadowPage* p : shadows) {
    if (wish.synchronizing) return false;
    if (p->unsync) continue;
    if (wish.prefetch) return false;
    tables_.mark_unsync(*p);
    state(v).unsync.push_back(*p);
  }
  return true;
}

u64 ShadowMmu::make_leaf(Vcpu& v, const ShadowPage& page, u64 old, const LeafWish& wish,
                         bool& write_protected) {
  u64 e = wish.frame.base().raw() | x86::kPresent;
  // A guessed entry starts unaccessed, so that its use can be told.
  if (!wish.prefetch || wish.synchronizing) e |= x86::kAccessed;
  if (!(wish.rights & rights::kExec)) e |= x86::kNoExec;
  if (wish.rights & rights::kUser) e |= x86::kUser;
  if (page.role.level > 1) e |= x86::kLarge;
  write_protected = false;
  if ((wish.rights & rights::kWrite) && !machine_.map().is_merged(wish.gfn)) {
    // Where the frame is writable already, its tables are out of sync already.
    if ((old & x86::kWrite) || may_write(v, wish.gfn, wish)) {
      e |= x86::kWrite | spte::kMayWrite | x86::kDirty;
      mark_dirty(wish.gfn);
    } else {
      write_protected = true;
    }
  }
  return e;
}

ShadowMmu::Filled ShadowMmu::set_leaf(Vcpu& v, ShadowPage& page, unsigned i, const LeafWish& wish) {
  Shootdown owed;
  u64 old = page.entry(i);
  const u64 target = wish.frame.base().raw();
  if ((old & x86::kPresent) && (!page.is_leaf(old) || (old & x86::kAddressMask) != target)) {
    tables_.drop(page, i, owed);
    old = 0;
  }
  bool write_protected = false;
  const u64 entry = make_leaf(v, page, old, wish, write_protected);
  const bool same = entry == old;
  tables_.put_leaf(page, i, entry, wish.gfn, wish.rights, owed);
  flush_owed(&v, owed);
  const PageSize size = leaf_size(page.role.level);
  if (policy_.rmap_limit != 0 && tables_.mapping_count(wish.gfn, size) > policy_.rmap_limit) {
    Shootdown all;
    tables_.drop_mappings(wish.gfn, size, all);
    flush_owed(&v, all);
  }
  if (policy_.unsync_pages != 0) sync_own_pages(v, policy_.unsync_pages);
  if (write_protected && wish.write_fault) return Filled::WriteProtected;
  return same ? Filled::Spurious : Filled::Fixed;
}

// --- prefetch ------------------------------------------------------------------------------------

/// Fills the rest of the aligned group around an entry of a 4K table, or the entries after it, up
/// to the first that cannot be used. It gives no memory to a frame that has none, and leaves one
/// that is merged alone: it asks for pages that are there and can be written. Linux,
/// gfn_to_page_many_atomic.
void ShadowMmu::prefetch(Vcpu& v, ShadowPage& page, unsigned i) {
  if (page.role.level > 1) return;
  const unsigned first = policy_.prefetch_forward ? i : i - i % policy_.prefetch;
  const unsigned end = std::min(first + policy_.prefetch, kEntriesPerTable);
  for (unsigned at = first; at < end; ++at) {
    if (at == i || (page.entry(at) & x86::kPresent)) continue;
    if (!(page.role.direct ? prefetch_direct(v, page, at) : prefetch_guest(v, page, at))) return;
  }
}

bool ShadowMmu::prefetch_guest(Vcpu& v, ShadowPage& page, unsigned i) {
  const auto leaf = read_guest_leaf(v, page, i);
  if (!leaf || (logging_dirty_ && (leaf->rights & rights::kWrite))) return false;
  const auto backing = machine_.map().present(leaf->gfn);
  if (!backing || backing->merged) return false;
  set_leaf(v, page, i, {leaf->gfn, backing->frame, leaf->rights, false, true});
  return true;
}

bool ShadowMmu::prefetch_direct(Vcpu& v, ShadowPage& page, unsigned i) {
  const Gfn gfn = page.gfn + i;
  if (!machine_.map().contains(gfn)) return false;
  if (logging_dirty_ && (page.role.access & rights::kWrite)) return false;
  const auto backing = machine_.map().present(gfn);
  if (!backing || backing->merged) return false;
  set_leaf(v, page, i, {gfn, backing->frame, page.role.access, false, true});
  return true;
}

/// How the guest's entries are read for this page, which another vCPU may have made under other
/// controls.
WalkRules ShadowMmu::rules_of(const Vcpu& v, const ShadowPage& page) const {
  WalkRules rules = machine_.guest_rules(v.controls());
  rules.nxe = page.role.nxe;
  return rules;
}

std::optional<ShadowMmu::GuestLeaf> ShadowMmu::read_guest_leaf(Vcpu& v, const ShadowPage& page,
                                                               unsigned i) {
  const WalkRules rules = rules_of(v, page);
  const u64 e = machine_.guest_read(page.gfn.base() + 8 * i);
  const u64 reserved = GuestFormat::reserved_mask(rules);
  if (GuestFormat::state(e, 1, rules, reserved) != EntryState::Leaf) return std::nullopt;
  if (!(e & x86::kAccessed)) return std::nullopt;
  const Gfn gfn = Gpa(e & x86::kAddressMask).frame();
  if (!machine_.map().contains(gfn)) return std::nullopt;
  const u8 granted = static_cast<u8>(GuestFormat::rights_of(e) & page.role.access);
  return GuestLeaf{gfn, rights_while_clean(granted, e)};
}

// --- the limit -----------------------------------------------------------------------------------

void ShadowMmu::make_room(Vcpu& v) {
  const auto room = [this] { return limit_ > tables_.used() ? limit_ - tables_.used() : 0; };
  if (room() >= kMinFree) return;
  v.counters[Event::MmuRecycled] += zap_oldest(&v, kRefill - room());
  if (room() == 0) {
    throw RunError("pager " + std::string(policy_.name) + ": a limit of " + std::to_string(limit_) +
                   " shadow pages is too small: the roots in use take them all");
  }
}

/// Takes down at least that many pages, oldest first, roots in use excepted.
u64 ShadowMmu::zap_oldest(Vcpu* v, u64 pages) {
  Zapped zapped;
  PageList& by_age = tables_.cache().by_age();
  for (auto it = by_age.begin(); it != by_age.end() && zapped.count < pages;) {
    ShadowPage& page = *it;
    if (page.root_count != 0) {
      ++it;
      continue;
    }
    const u64 before = zapped.count;
    ++it;
    zap(v, page, zapped);
    // Its out-of-sync pages went with it, maybe the next in line among them.
    if (zapped.count > before + 1) it = by_age.begin();
  }
  const u64 count = zapped.count;
  finish(v, zapped);
  return count;
}

}  // namespace mmuscope
