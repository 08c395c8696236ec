// Writes to guest page tables that the hypervisor performs in the guest's stead.

#include "shadow/shadow_mmu.h"

namespace mmuscope {

namespace {

/// True if a write of this size there does not change one whole entry, or a part as guests do: it
/// crosses entries, or is narrower than 4 bytes (but for the first byte of an entry, where the
/// flags are).
bool is_misaligned(Gpa gpa, unsigned bytes) {
  const u64 offset = gpa.page_offset();
  if (offset % 8 == 0 && bytes == 1) return false;
  return bytes < 4 || offset / 8 != (offset + bytes - 1) / 8;
}

}  // namespace

/// A write that the shadows of a table forbid. One that is likely meant for the table is emulated.
/// For a string instruction the shadows are dropped, and the guest runs it.
Resume ShadowMmu::write_protected(Vcpu& v, const VmExit& exit, Gpa gpa) {
  ++v.counters[Event::PfEmulate];
  assert(exit.store != nullptr);
  const StoreOp& op = *exit.store;
  if (op.string) {
    drop_shadows(v, gpa.frame());
    return Resume::retry();
  }
  std::byte* where = machine_.memory().at(machine_.map().back(gpa));
  u64 old = 0;
  std::memcpy(&old, where, op.bytes);
  std::memcpy(where, &op.value, op.bytes);
  mark_dirty(gpa.frame());
  table_written(v, gpa, op.bytes);
  return Resume::completed(old);
}

/// Drops every shadow of tables in the frame.
void ShadowMmu::drop_shadows(Vcpu& v, Gfn gfn) {
  const auto held = lock_.write(&v, gfn);
  Zapped zapped;
  for (ShadowPage* p : tables_.cache().shadows_of(gfn)) {
    if (!p->invalid) zap(&v, *p, zapped);
  }
  finish(&v, zapped);
}

void ShadowMmu::table_written(Vcpu& v, Gpa gpa, unsigned bytes) {
  const auto held = lock_.write(&v, gpa.frame());
  ++v.counters[Event::MmuPteWrite];
  const u64 now = machine_.guest_read(Gpa(gpa.raw() & ~u64{7}));
  Zapped zapped;
  for (ShadowPage* p : tables_.cache().shadows_of(gpa.frame())) {
    if (p->invalid) continue;
    if (is_misaligned(gpa, bytes) || is_flooded(*p)) {
      zap(&v, *p, zapped);
      ++v.counters[Event::MmuFlooded];
      continue;
    }
    // Dropped, not rewritten: most entries are written before they are used, and a fault brings in
    // what is used.
    const auto i = static_cast<unsigned>(gpa.page_offset() / 8);
    tables_.drop(*p, i, zapped.owed);
    if (policy_.propagate) propagate(v, *p, i);
    if (now != 0 && p->role.level > 1) ++v.counters[Event::MmuPdeZapped];
  }
  finish(&v, zapped);
}

/// Fills an entry that was written from the guest's, as far as nothing new must be made for it: a
/// leaf of a 4K table, or a link to a shadow page that exists.
void ShadowMmu::propagate(Vcpu& v, ShadowPage& page, unsigned i) {
  if (page.role.level == 1) {
    prefetch_guest(v, page, i);
    return;
  }
  const WalkRules rules = rules_of(v, page);
  const u64 e = machine_.guest_read(page.gfn.base() + 8 * i);
  const u64 reserved = GuestFormat::reserved_mask(rules);
  if (GuestFormat::state(e, page.role.level, rules, reserved) != EntryState::Table) return;
  if (!(e & x86::kAccessed)) return;  // the first walk through it must be seen
  Role role = page.role;
  --role.level;
  role.access = static_cast<u8>(GuestFormat::rights_of(e) & page.role.access);
  const Gfn table = Gpa(e & x86::kAddressMask).frame();
  if (tables_.cache().find(table, role) != nullptr) {
    child_for(v, page, i, table, false, role.access);
  }
}

/// Counts one more write to an upper table; true if the guest seems to use the page for something
/// else by now.
bool ShadowMmu::is_flooded(ShadowPage& page) const {
  if (policy_.flood == 0 || page.role.level == 1) return false;
  return ++page.writes_emulated >= policy_.flood;
}

void ShadowMmu::clear_flood_counts(Vcpu& v, Gva va) {
  for (ShadowPage* p = state(v).root.page; p != nullptr;) {
    p->writes_emulated = 0;
    p = present_child(*p, table_index(va, p->role.level));
  }
}

}  // namespace mmuscope
