#include "shadow/audit.h"

#include <algorithm>

#include "shadow/shadow_mmu.h"

namespace mmuscope {

namespace {

std::string hex(u64 v) {
  std::string s;
  do {
    s.insert(s.begin(), "0123456789abcdef"[v % 16]);
    v /= 16;
  } while (v != 0);
  return "0x" + s;
}

/// One pass over all shadow pages. Each check returns what is wrong, or nullptr.
class Audit {
 public:
  Audit(Machine& machine, const ShadowTables& tables) : machine_(machine), tables_(tables) {}

  std::string run() {
    u64 unsync = 0, pages = 0;
    for (const ShadowPage& page : tables_.cache().by_age()) {
      ++pages;
      unsync += page.unsync;
      if (const char* wrong = page_wrong(page)) return say(page, 0, wrong);
      for (unsigned i = 0; i < kEntriesPerTable; ++i) {
        if (const char* wrong = entry_wrong(page, i)) return say(page, i, wrong);
      }
    }
    for (unsigned s = 0; s < kPageSizes; ++s) {
      if (leaves_[s] != tables_.leaves(static_cast<PageSize>(s))) return "leaf entries miscounted";
    }
    if (unsync != tables_.unsync_pages()) return "pages out of sync miscounted";
    if (pages > tables_.used()) return "shadow pages miscounted";
    return {};
  }

 private:
  const char* page_wrong(const ShadowPage& page) const {
    if (page.unsync && (page.role.level != 1 || page.role.direct)) return "may not be out of sync";
    if (page.unsync_child.count() != page.unsync_children) return "marks miscounted";
    for (const EntryNote& from : page.parents) {
      const ShadowPage& parent = from.page();
      if (!(parent.entry(from.index()) & x86::kPresent)) return "linked from an empty entry";
      if (&from.child() != &page) return "linked from an entry that points elsewhere";
      const bool marked = parent.unsync_child.test(from.index());
      if ((page.unsync || page.unsync_children != 0) && !marked) {
        return "out of sync below, which a parent does not know";
      }
    }
    return nullptr;
  }

  const char* entry_wrong(const ShadowPage& page, unsigned i) {
    const u64 e = page.entry(i);
    if (e == 0) return nullptr;
    if (!(e & x86::kPresent)) return "neither present nor empty";
    return page.is_leaf(e) ? leaf_wrong(page, i, e) : table_wrong(page, i, e);
  }

  const char* table_wrong(const ShadowPage& page, unsigned i, u64 e) {
    const ShadowPage& child = page.notes[i].child();
    if (child.table.base().raw() != (e & x86::kAddressMask)) return "points to no shadow page";
    if (child.invalid) return "points to a page that was taken down";
    if (child.role.level + 1 != page.role.level) return "points to a page of the wrong level";
    if (page.role.direct) {
      const bool part = child.role.direct && child.gfn == frame_of(page, i) &&
                        child.role.access == page.role.access;
      return part ? nullptr : "the child is not that part of a large page";
    }
    const u64 guest = machine_.guest_read(page.gfn.base() + 8 * i);
    const u64 granted = GuestFormat::rights_of(guest) & page.role.access;
    if (!(guest & x86::kPresent)) return "the guest's entry is not present";
    const bool large = guest & x86::kLarge;
    if (child.role.direct != large) return "table and large page confused";
    const Gfn target = Gpa(guest & x86::kAddressMask).frame();
    if (!large && child.gfn != target) return "the guest's entry points to another table";
    if (!large && child.role.access != granted) return "the child's role has other rights";
    if (large && (child.role.access & ~granted & ~lent_rights(page.role)) != 0) {
      return "more rights than the guest's large page";
    }
    return nullptr;
  }

  /// A kernel that writes without CR0.WP is lent the right to.
  static u8 lent_rights(const Role& role) { return role.wp ? 0 : rights::kWrite; }

  static Gfn frame_of(const ShadowPage& page, unsigned i) {
    return page.gfn + (u64{i} << (9 * (page.role.level - 1)));
  }

  const char* leaf_wrong(const ShadowPage& page, unsigned i, u64 e) {
    const EntryNote& note = page.notes[i];
    const PageSize size = leaf_size(page.role.level);
    ++leaves_[static_cast<unsigned>(size)];
    const auto backing = machine_.map().find(note.gfn());
    if (!backing || backing->frame.base().raw() != (e & x86::kAddressMask)) {
      return "not where the memory map has the frame";
    }
    if (backing->size < size) return "larger than the host's page";
    if (size != PageSize::k4K && (e & x86::kWrite) && tables_.large_page_barred(note.gfn(), size)) {
      return "a writable large page with a table inside";
    }
    if ((e & x86::kWrite) && !(e & spte::kMayWrite)) return "writable against the notes";
    if ((e & x86::kWrite) && write_barred(note.gfn())) return "a table in sync may be written";
    const u64 held = ShadowFormat::rights_of(e);
    if ((held & ~u64{note.access()}) != 0) return "more rights than the notes say";
    if (page.role.direct) {
      return note.gfn() == frame_of(page, i) ? nullptr : "the wrong part of a large page";
    }
    return page.unsync ? nullptr : guest_leaf_wrong(page, i, held);
  }

  bool write_barred(Gfn gfn) const {
    if (tables_.write_tracked(gfn)) return true;
    const auto shadows = tables_.cache().shadows_of(gfn);
    return std::any_of(shadows.begin(), shadows.end(), [](auto* p) { return !p->unsync; });
  }

  const char* guest_leaf_wrong(const ShadowPage& page, unsigned i, u64 held) const {
    const u64 guest = machine_.guest_read(page.gfn.base() + 8 * i);
    if (!(guest & x86::kPresent)) return "the guest's entry is not present";
    if (!(guest & x86::kAccessed)) return "the guest's page was not accessed";
    if (page.role.level > 1 && !(guest & x86::kLarge)) return "the guest's entry is no large page";
    const PageSize size = leaf_size(page.role.level);
    const u64 target = guest & x86::kAddressMask & ~(page_bytes(size) - 1);
    if (page.notes[i].gfn().base().raw() != target) return "the guest's page is another";
    const u64 granted = GuestFormat::rights_of(guest) & page.role.access;
    if ((held & ~granted & ~lent_rights(page.role)) != 0)
      return "more rights than the guest's page";
    if ((held & rights::kWrite) && !(guest & x86::kDirty)) return "writable, but the page is clean";
    return nullptr;
  }

  static std::string say(const ShadowPage& page, unsigned i, const char* wrong) {
    return "shadow of frame " + hex(page.gfn.raw()) + (page.role.direct ? " (direct)" : "") +
           ", level " + std::to_string(page.role.level) + ", entry " + std::to_string(i) + " = " +
           hex(page.entry(i)) + ": " + wrong;
  }

  Machine& machine_;
  const ShadowTables& tables_;
  std::array<u64, kPageSizes> leaves_{};
};

}  // namespace

std::string audit_shadow(Machine& machine) {
  const auto* mmu = dynamic_cast<const ShadowMmu*>(&machine.pager());
  return mmu == nullptr ? std::string{} : Audit(machine, mmu->tables()).run();
}

}  // namespace mmuscope
