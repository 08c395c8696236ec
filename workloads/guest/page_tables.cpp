#include "workloads/guest/page_tables.h"

namespace mmuscope {

namespace {

// Upper entries of the user half grant everything; the leaves decide. Linux, _PAGE_TABLE.
constexpr u64 kUserTable = x86::kPresent | x86::kWrite | x86::kUser | x86::kAccessed | x86::kDirty;

}  // namespace

Gpa PageTables::allocate(Vcpu& vcpu) {
  vcpu.note(Event::GuestFrame);
  const Gfn table = frames_.allocate();
  write_page_struct(vcpu, frames_, table);
  vcpu.zero(direct_map(table.base()), kPageBytes);
  return table.base();
}

Gpa PageTables::allocate_pair(Vcpu& vcpu) {
  vcpu.note(Event::GuestFrame, 2);
  const Gfn first = frames_.allocate_pair();
  write_page_struct(vcpu, frames_, first);
  vcpu.zero(direct_map(first.base()), kPageBytes);
  vcpu.zero(direct_map(first.base()) + kPageBytes, kPageBytes);
  return first.base();
}

void PageTables::link(Vcpu& vcpu, const AddressSpace& space, Gpa where, u64 entry) {
  if (space.user_root != Gpa(0) && where.frame() == space.root.frame()) {
    // Linux, pti_set_user_pgtbl: user mode's copy first; the kernel's cannot be run, so that an
    // exit which forgets to change CR3 fails at once.
    write(vcpu, where + kPageBytes, entry);
    if (entry & x86::kPresent) entry |= x86::kNoExec;
  }
  write(vcpu, where, entry);
}

std::optional<Gpa> PageTables::find(Vcpu& vcpu, const AddressSpace& space, Gva va, unsigned level) {
  Gpa table = space.root;
  for (unsigned l = levels_; l > level; --l) {
    const u64 entry = read(vcpu, table + 8 * table_index(va, l));
    if (!(entry & x86::kPresent) || (entry & x86::kLarge)) return std::nullopt;
    table = Gpa(entry & x86::kAddressMask);
  }
  return table + 8 * table_index(va, level);
}

Gpa PageTables::make(Vcpu& vcpu, AddressSpace& space, Gva va, unsigned level) {
  Gpa table = space.root;
  for (unsigned l = levels_; l > level; --l) {
    table = table_below(vcpu, space, table + 8 * table_index(va, l));
  }
  return table + 8 * table_index(va, level);
}

Gpa PageTables::table_below(Vcpu& vcpu, AddressSpace& space, Gpa where) {
  u64 entry = read(vcpu, where);
  assert(!(entry & x86::kLarge) && "a table is wanted where a large page is mapped");
  if (!(entry & x86::kPresent)) {
    // Linux, __pte_alloc: it is ready before the lock is taken, and of no use if another vCPU was
    // quicker.
    const Gpa fresh = allocate(vcpu);
    const GuestLock::Hold lock(vcpu, space.upper_lock);
    entry = read(vcpu, where);
    if (entry & x86::kPresent) {
      frames_.release(fresh.frame());
      write_page_struct(vcpu, frames_, fresh.frame());
    } else {
      entry = fresh.raw() | kUserTable;
      ++space.table_pages;
      link(vcpu, space, where, entry);
    }
  }
  return Gpa(entry & x86::kAddressMask);
}

void PageTables::link(Vcpu& vcpu, Gpa where, Gpa table) {
  write(vcpu, where, table.raw() | kUserTable);
}

void PageTables::unlink(Vcpu& vcpu, AddressSpace& space, Gva start, Gva end, Gva floor, Gva ceiling,
                        std::vector<Gfn>& freed) {
  unlink_below(vcpu, space, space.root, levels_, start, end, floor, ceiling, freed);
}

void PageTables::unlink_below(Vcpu& vcpu, AddressSpace& space, Gpa table, unsigned level, Gva start,
                              Gva end, Gva floor, Gva ceiling, std::vector<Gfn>& freed) {
  for (Gva va = start_of_region(start, level); va < end; va = va + region_bytes(level)) {
    const Gpa where = table + 8 * table_index(va, level);
    const u64 entry = read(vcpu, where);
    if (!(entry & x86::kPresent) || (entry & x86::kLarge)) continue;
    const Gpa below(entry & x86::kAddressMask);
    if (level > 2) {
      unlink_below(vcpu, space, below, level - 1, std::max(va, start),
                   std::min(va + region_bytes(level), end), floor, ceiling, freed);
    }
    if (va < floor || va + region_bytes(level) > ceiling) continue;
    link(vcpu, space, where, 0);
    freed.push_back(below.frame());
    --space.table_pages;
  }
}

void PageTables::clear_bits(Vcpu& vcpu, Gpa where, u64 seen, u64 bits) {
  // Linux does this by a locked AND or a compare-and-exchange loop. An exchange that finds flags
  // set since `seen` was read puts them back.
  u64 wanted = seen & ~bits;
  for (u64 old = vcpu.exchange(direct_map(where), wanted); (old & ~bits & ~wanted) != 0;) {
    wanted |= old & ~bits;
    old = vcpu.exchange(direct_map(where), wanted);
  }
}

}  // namespace mmuscope
