#include "workloads/guest/memory_manager.h"

#include <cassert>

#include "workloads/guest/entry_flags.h"

namespace mmuscope {

namespace {

/// The end of what one page table maps.
Gva next_table(Gva va) { return va.align_down(PageSize::k2M) + page_bytes(PageSize::k2M); }

constexpr u64 round_up(u64 bytes, PageSize size) {
  return (bytes + page_bytes(size) - 1) & ~(page_bytes(size) - 1);
}

/// True if neither end cuts a page of a mapping.
bool cuts_no_page(AddressSpace& space, Gva start, Gva end) {
  for (const Gva edge : {start, end}) {
    const Vma* vma = space.vmas.find(edge);
    if (vma != nullptr && vma->start < edge && edge.offset_in(vma->page()) != 0) return false;
  }
  return true;
}

/// True if a TLB that holds the old entry permits what the new one does not. Linux,
/// pte_flags_need_flush.
bool loses_rights(u64 old, u64 now) {
  if (!(old & x86::kPresent)) return false;
  const u64 granted = old & ~now & (x86::kPresent | x86::kWrite | x86::kUser);
  return granted != 0 || (now & ~old & x86::kNoExec) != 0;
}

}  // namespace

MemoryManager::MemoryManager(Machine& machine, const BootImage& image, KernelStatistics& statistics)
    : kernel_root_(image.root),
      kernel_user_root_(image.user_root),
      zero_page_(image.zero_page),
      thp_(machine.config().thp),
      statistics_(statistics),
      frames_at_hand_(machine.vcpu_count()),
      frames_(image.first_free, image.end_free),
      tables_(frames_, machine.config().guest_levels),
      tlb_(machine, image, statistics),
      balloon_(frames_),
      reclaim_(frames_, tlb_, statistics, image.swap, image.swap_pages) {}

void MemoryManager::make_room(Vcpu& vcpu, u64 more) {
  const auto count_huge = [this] {
    u64 all = 0;
    for (const auto& [id, space] : spaces_) all += space->spare_tables.size();
    return all;
  };
  reclaim_.make_room(
      vcpu, more, [this](Vcpu& v, const std::shared_ptr<AddressSpace>& space) { put(v, space); },
      count_huge, [this](Vcpu& v) { return age_next_huge(v); });
}

void MemoryManager::put(Vcpu& vcpu, const std::shared_ptr<AddressSpace>& space) {
  if (--space->users == 0) destroy(vcpu, *space);
}

// --- address spaces ------------------------------------------------------------------------------

std::shared_ptr<AddressSpace> MemoryManager::create(Vcpu& vcpu) {
  constexpr u64 kHalf = kPageBytes / 2;
  const auto copy_kernel_half = [&vcpu](Gpa to, Gpa from) {
    vcpu.copy(direct_map(to) + kHalf, direct_map(from) + kHalf, kHalf);
  };
  const bool kpti = kernel_user_root_ != Gpa(0);
  const Gpa root = kpti ? tables_.allocate_pair(vcpu) : tables_.allocate(vcpu);
  const Gpa user_root = kpti ? root + kPageBytes : Gpa(0);
  copy_kernel_half(root, kernel_root_);
  if (kpti) copy_kernel_half(user_root, kernel_user_root_);
  auto space = std::make_shared<AddressSpace>(next_id_++, root, user_root);
  if (kpti) ++space->table_pages;
  spaces_.emplace(space->id, space.get());
  return space;
}

void MemoryManager::destroy(Vcpu& vcpu, AddressSpace& space) {
  spaces_.erase(space.id);
  TlbGather gather(tlb_, space);
  const std::vector<Vma> all = space.vmas.remove(Gva(0), kLowerHalfEnd);
  for (const Vma& vma : all) clear(vcpu, space, gather, vma, true);
  for (const Vma& vma : all) change_reverse_map(vcpu, vma);
  if (!all.empty()) {
    tables_.unlink(vcpu, space, all.front().start, all.back().end, Gva(0), kTablesEnd,
                   gather.tables());
  }
  gather.finish_teardown(vcpu, frames_);
  if (space.user_root != Gpa(0)) {
    frames_.release_pair(space.root.frame());
  } else {
    frames_.release(space.root.frame());
  }
  write_page_struct(vcpu, frames_, space.root.frame());
}

void MemoryManager::copy(Vcpu& vcpu, AddressSpace& from, AddressSpace& to) {
  make_room(vcpu, from.table_pages);
  const SpaceLock lock(vcpu, from);
  to.heap_start = from.heap_start;
  to.heap_end = from.heap_end;
  for (const auto& [start, vma] : from.vmas.all()) {
    to.vmas.insert(vma);
    change_reverse_map(vcpu, vma);
    // Pages of a file come back by faults if none was replaced. Linux, vma_needs_copy.
    if (vma.source.kind != Source::Kind::File || vma.has_copies) copy_entries(vcpu, from, to, vma);
  }
  // Linux flushes whether an entry was changed or not.
  tlb_.flush(vcpu, from, {Gva(0), kLowerHalfEnd, PageSize::k4K, true, false});
}

void MemoryManager::copy_entries(Vcpu& vcpu, AddressSpace& from, AddressSpace& to, const Vma& vma) {
  const unsigned level = leaf_level(vma.page());
  const u64 table_reach = page_bytes(vma.page()) * kEntriesPerTable;
  Gpa table;
  u64 table_for = ~u64{0};
  const auto copy_large = [&](Gpa where, Gva va, u64 entry, bool) {
    copy_huge(vcpu, to, va, where, entry);
    return false;
  };
  const auto copy_entry = [&](Gpa where, Gva va, u64 entry) {
    if (!pte::is_mapped(entry) && !pte::is_swapped(entry)) return;
    if (va.raw() / table_reach != table_for) {
      table_for = va.raw() / table_reach;
      const Gpa first = tables_.make(vcpu, to, va, level);
      table = first - first.page_offset();
    }
    const Gpa copy = table + 8 * table_index(va, level);
    if (pte::is_swapped(entry)) {
      reclaim_.share(entry);
      PageTables::write(vcpu, copy, entry);
      return;
    }
    if (reclaim_.knows(pte::frame_of(entry))) reclaim_.note(pte::frame_of(entry), to, copy);
    // Linux, copy_present_pte: both lose W, and the child's page is not young.
    if (entry & x86::kWrite) PageTables::clear_bits(vcpu, where, entry, x86::kWrite);
    if (!(entry & pte::kSpecial)) share(vcpu, pte::frame_of(entry));
    PageTables::write(vcpu, copy, entry & ~(x86::kWrite | x86::kAccessed));
  };
  tables_.for_each(vcpu, from, vma.start, vma.end, level, copy_entry, copy_large);
}

/// A file knows who maps it: all that map it or stop to, one at a time. Linux, i_mmap_rwsem.
void MemoryManager::change_reverse_map(Vcpu& vcpu, const Vma& vma) {
  constexpr u64 kTreeCycles = 300;  // an interval tree's insertion or removal, assumed
  if (vma.source.kind != Source::Kind::File) return;
  const GuestLock::Hold mappings(vcpu, file_locks_[vma.source.file]);
  vcpu.compute(kTreeCycles);
}

Gfn MemoryManager::new_stack(Vcpu& vcpu) {
  const Gfn stack = frames_.allocate();
  write_page_struct(vcpu, frames_, stack);
  return stack;
}

void MemoryManager::free_stack(Vcpu& vcpu, Gfn stack) {
  frames_.release(stack);
  write_page_struct(vcpu, frames_, stack);
}

// --- mappings ------------------------------------------------------------------------------------

std::optional<Gva> MemoryManager::map(Vcpu& vcpu, AddressSpace& space, std::optional<Gva> where,
                                      u64 bytes, u8 rights, Source source) {
  Vma vma;
  vma.rights = rights;
  vma.source = source;
  bytes = round_up(bytes, vma.page());
  const SpaceLock lock(vcpu, space);
  if (where) {
    if (!is_user_range(*where, bytes) || where->offset_in(vma.page()) != 0 ||
        !cuts_no_page(space, *where, *where + bytes)) {
      return std::nullopt;
    }
    unmap_locked(vcpu, space, *where, *where + bytes);
  } else {
    if (bytes == 0) return std::nullopt;
    // Linux, thp_get_unmapped_area: what could be huge pages begins where one does.
    const bool huge = thp_ != HugePages::Never && bytes % page_bytes(PageSize::k2M) == 0;
    where = space.vmas.find_free(bytes, huge ? PageSize::k2M : vma.page());
    if (*where == Gva(0)) return std::nullopt;
  }
  vma.start = *where;
  vma.end = *where + bytes;
  space.vmas.insert(vma);
  return where;
}

bool MemoryManager::unmap(Vcpu& vcpu, AddressSpace& space, Gva start, u64 bytes) {
  bytes = round_up(bytes, PageSize::k4K);
  const SpaceLock lock(vcpu, space);
  if (!is_user_range(start, bytes) || !cuts_no_page(space, start, start + bytes)) return false;
  unmap_locked(vcpu, space, start, start + bytes);
  return true;
}

void MemoryManager::unmap_locked(Vcpu& vcpu, AddressSpace& space, Gva start, Gva end) {
  const std::vector<Vma> removed = space.vmas.remove(start, end);
  if (removed.empty()) return;
  // Linux, vms_clear_ptes: clear the entries, unlink the tables, flush, free.
  TlbGather gather(tlb_, space);
  for (const Vma& vma : removed) clear(vcpu, space, gather, vma, false);
  for (const Vma& vma : removed) change_reverse_map(vcpu, vma);
  tables_.unlink(vcpu, space, removed.front().start, removed.back().end,
                 space.vmas.end_before(start), space.vmas.start_from(end), gather.tables());
  gather.finish(vcpu, frames_);
}

void MemoryManager::clear(Vcpu& vcpu, AddressSpace& space, TlbGather& gather, const Vma& vma,
                          bool teardown) {
  const PageSize size = vma.page();
  const auto clear_large = [&](Gpa where, Gva va, u64 entry, bool whole) {
    if (whole) {
      clear_huge(vcpu, space, gather, va, where, teardown);
    } else {
      split_huge(vcpu, space, va, where, entry);
    }
    return !whole;
  };
  const auto clear_entry = [&](Gpa where, Gva va, u64 entry) {
    // Nobody sets flags any more at the end: a plain store will do. Linux, ptep_get_and_clear_full.
    if (teardown) {
      PageTables::write(vcpu, where, 0);
    } else {
      entry = PageTables::take(vcpu, where);
    }
    if (entry & x86::kPresent) gather.changed(va, size);
    if (pte::is_swapped(entry)) {
      reclaim_.put(entry);
    } else if (!(entry & pte::kSpecial)) {
      reclaim_.forget(pte::frame_of(entry), where);
      gather.release(pte::frame_of(entry));
    }
  };
  tables_.for_each(vcpu, space, vma.start, vma.end, leaf_level(size), clear_entry, clear_large);
}

bool MemoryManager::discard(Vcpu& vcpu, AddressSpace& space, Gva start, u64 bytes) {
  bytes = round_up(bytes, PageSize::k4K);
  const SpaceLock lock(vcpu, space);
  const Gva end = start + bytes;
  if (!is_user_range(start, bytes) || !cuts_no_page(space, start, end) ||
      !space.vmas.covers(start, end)) {
    return false;
  }
  // Linux, zap_page_range_single: the tables stay.
  TlbGather gather(tlb_, space);
  for (const Vma& vma : space.vmas.parts(start, end)) clear(vcpu, space, gather, vma, false);
  gather.finish(vcpu, frames_);
  return true;
}

bool MemoryManager::protect(Vcpu& vcpu, AddressSpace& space, Gva start, u64 bytes, u8 rights) {
  bytes = round_up(bytes, PageSize::k4K);
  const SpaceLock lock(vcpu, space);
  if (!is_user_range(start, bytes) || !cuts_no_page(space, start, start + bytes) ||
      !space.vmas.covers(start, start + bytes)) {
    return false;
  }
  TlbGather gather(tlb_, space);
  for (Vma vma : space.vmas.remove(start, start + bytes)) {
    const bool same = vma.rights == rights;
    vma.rights = rights;
    space.vmas.insert(vma);
    if (!same) protect_entries(vcpu, space, gather, vma);
  }
  gather.finish(vcpu, frames_);
  return true;
}

void MemoryManager::protect_entries(Vcpu& vcpu, AddressSpace& space, TlbGather& gather,
                                    const Vma& vma) {
  constexpr u64 kKept = x86::kAddressMask | x86::kLarge | x86::kAccessed | x86::kDirty |
                        pte::kSpecial | pte::kSoftware;
  // Linux, change_pte_range: taken out and put back, so that no flag is lost; writable again at
  // once if the page is the process's own (can_change_pte_writable).
  const auto change = [&](Gpa where, Gva va, PageSize size) {
    const u64 old = PageTables::take(vcpu, where);
    u64 now = (old & kKept) | entry_flags(vma);
    if ((vma.rights & prot::kWrite) && is_exclusive(old)) now |= x86::kWrite;
    PageTables::write(vcpu, where, now);
    if (loses_rights(old, now)) gather.changed(va, size);
  };
  const auto change_large = [&](Gpa where, Gva va, u64 entry, bool whole) {
    if (whole) {
      change(where, va, PageSize::k2M);  // Linux, change_huge_pmd
    } else {
      split_huge(vcpu, space, va, where, entry);
    }
    return !whole;
  };
  tables_.for_each(
      vcpu, space, vma.start, vma.end, leaf_level(vma.page()),
      [&](Gpa where, Gva va, u64 entry) {
        if (!pte::is_swapped(entry)) change(where, va, vma.page());
      },
      change_large);
}

bool MemoryManager::advise_huge(Vcpu& vcpu, AddressSpace& space, Gva start, u64 bytes,
                                HugeAdvice advice) {
  bytes = round_up(bytes, PageSize::k4K);
  const SpaceLock lock(vcpu, space);
  if (!is_user_range(start, bytes) || !cuts_no_page(space, start, start + bytes) ||
      !space.vmas.covers(start, start + bytes)) {
    return false;
  }
  // Linux, hugepage_madvise: it changes what faults and khugepaged do, not what is mapped; but
  // where a mapping is cut, a huge page is.
  split_at(vcpu, space, start);
  split_at(vcpu, space, start + bytes);
  for (Vma vma : space.vmas.remove(start, start + bytes)) {
    vma.advice = advice;
    space.vmas.insert(vma);
  }
  return true;
}

bool MemoryManager::set_heap_end(Vcpu& vcpu, AddressSpace& space, Gva end) {
  const SpaceLock lock(vcpu, space);
  if (space.heap_end == Gva(0)) {
    if (!is_user_range(end.align_down(PageSize::k4K), 1)) return false;
    space.heap_start = space.heap_end = end;
    return true;
  }
  if (end < space.heap_start || end >= kUserEnd) return false;
  const Gva old_top(round_up(space.heap_end.raw(), PageSize::k4K));
  const Gva new_top(round_up(end.raw(), PageSize::k4K));
  if (new_top > old_top) {
    if (!space.vmas.is_free(old_top, new_top)) return false;
    Vma heap;
    heap.start = old_top;
    heap.end = new_top;
    heap.rights = prot::kRead | prot::kWrite;
    space.vmas.insert(heap);
  } else if (new_top < old_top) {
    unmap_locked(vcpu, space, new_top, old_top);
  }
  space.heap_end = end;
  return true;
}

std::optional<Gva> MemoryManager::remap(Vcpu& vcpu, AddressSpace& space, Gva start, u64 old_bytes,
                                        u64 new_bytes, std::optional<Gva> to) {
  make_room(vcpu, space.table_pages);
  const SpaceLock lock(vcpu, space);
  const Vma* vma = space.vmas.find(start);
  if (vma == nullptr) return std::nullopt;
  old_bytes = round_up(old_bytes, vma->page());
  new_bytes = round_up(new_bytes, vma->page());
  if (start.offset_in(vma->page()) != 0 || old_bytes == 0 || new_bytes == 0 ||
      old_bytes > vma->end - start || (to && !is_user_range(*to, new_bytes)) ||
      (to && to->offset_in(vma->page()) != 0)) {
    return std::nullopt;
  }
  if (to && *to < start + old_bytes && start < *to + new_bytes)
    return std::nullopt;  // they overlap
  if (to && !cuts_no_page(space, *to, *to + new_bytes)) return std::nullopt;
  if (new_bytes < old_bytes) {
    unmap_locked(vcpu, space, start + new_bytes, start + old_bytes);
    old_bytes = new_bytes;
  }
  if (!to && new_bytes == old_bytes) return start;
  Vma old = *space.vmas.find(start);
  if (old.source.kind == Source::Kind::File) old.source.offset += start - old.start;
  old.start = start;
  old.end = start + old_bytes;
  return remap_locked(vcpu, space, old, new_bytes, to);
}

std::optional<Gva> MemoryManager::remap_locked(Vcpu& vcpu, AddressSpace& space, Vma old,
                                               u64 new_bytes, std::optional<Gva> to) {
  const Gva grown_end = old.start + new_bytes;
  Vma now = old;
  if (!to && grown_end <= kUserEnd && space.vmas.is_free(old.end, grown_end)) {
    space.vmas.remove(old.start, old.end);
    now.end = grown_end;
    space.vmas.insert(now);
    return old.start;
  }
  if (!to) to = space.vmas.find_free(new_bytes, old.page());
  if (*to == Gva(0)) return std::nullopt;
  // Linux, move_vma: what is mapped is moved, then the old range is unmapped.
  unmap_locked(vcpu, space, *to, *to + new_bytes);
  now.start = *to;
  now.end = *to + new_bytes;
  space.vmas.insert(now);
  TlbGather gather(tlb_, space);
  move_entries(vcpu, space, gather, old, *to);
  gather.finish(vcpu, frames_);
  unmap_locked(vcpu, space, old.start, old.end);
  return to;
}

void MemoryManager::move_entries(Vcpu& vcpu, AddressSpace& space, TlbGather& gather,
                                 const Vma& from, Gva to) {
  const unsigned level = leaf_level(from.page());
  const auto move_entry = [&](Gpa where, Gva va, u64) {
    const Gpa target = tables_.make(vcpu, space, to + (va - from.start), level);
    const u64 entry = PageTables::take(vcpu, where);
    PageTables::write(vcpu, target, entry);
    if (entry & x86::kPresent) gather.changed(va, from.page());
    if (pte::is_mapped(entry) && reclaim_.knows(pte::frame_of(entry))) {
      reclaim_.forget(pte::frame_of(entry), where);
      reclaim_.note(pte::frame_of(entry), space, target);
    }
  };
  const auto split = [&](Gpa where, Gva va, u64 entry, bool) {
    split_huge(vcpu, space, va, where, entry);
    return true;
  };
  for (Gva va = from.start; va < from.end;) {
    const Gva target = to + (va - from.start);
    u64 moved = level > 1 ? 0 : move_table(vcpu, space, 3, va, from.end, target);
    if (moved == 0 && level == 1) moved = move_table(vcpu, space, 2, va, from.end, target);
    if (moved == 0) {
      moved = std::min(next_table(va) - va, std::min(next_table(target) - target, from.end - va));
      tables_.for_each(vcpu, space, va, va + moved, level, move_entry, split);
    }
    va = va + moved;
  }
}

u64 MemoryManager::move_table(Vcpu& vcpu, AddressSpace& space, unsigned level, Gva va, Gva end,
                              Gva to) {
  const PageSize size = leaf_size(level);
  if (va.offset_in(size) != 0 || to.offset_in(size) != 0 || end - va < page_bytes(size)) return 0;
  const auto where = tables_.find(vcpu, space, va, level);
  if (!where) return page_bytes(size);
  const u64 entry = PageTables::read(vcpu, *where);
  if (entry == 0) return page_bytes(size);
  const Gpa target = tables_.make(vcpu, space, to, level);
  if (PageTables::read(vcpu, target) != 0) return 0;
  // Linux, move_normal_pmd, move_normal_pud, move_huge_pmd: with its table, or its huge page. All
  // flush at once.
  ++statistics_.tables_moved;
  PageTables::take(vcpu, *where);
  PageTables::write(vcpu, target, entry);
  const auto first = space.spare_tables.lower_bound(va);
  const auto last = space.spare_tables.lower_bound(va + page_bytes(size));
  std::map<Gva, Gpa> spare;
  for (auto it = first; it != last; ++it) spare.emplace(to + (it->first - va), it->second);
  space.spare_tables.erase(first, last);
  space.spare_tables.merge(spare);
  tlb_.flush(vcpu, space, {va, va + page_bytes(size), PageSize::k4K});
  return page_bytes(size);
}

bool MemoryManager::toggle_software_bit(Vcpu& vcpu, AddressSpace& space, Gva va) {
  const SpaceLock lock(vcpu, space);
  const Vma* vma = space.vmas.find(va);
  if (vma == nullptr) return false;
  auto where = tables_.find(vcpu, space, va, 2);
  if (!where) return false;
  const u64 above = PageTables::read(vcpu, *where);
  if (!(above & x86::kLarge)) {
    if (!(above & x86::kPresent)) return false;
    where = Gpa(above & x86::kAddressMask) + 8 * table_index(va, 1);
  }
  const u64 entry = PageTables::read(vcpu, *where);
  if (!pte::is_mapped(entry)) return false;
  PageTables::write(vcpu, *where, entry ^ pte::kSoftware);
  return true;
}

// --- faults --------------------------------------------------------------------------------------

bool MemoryManager::fault(Vcpu& vcpu, AddressSpace& space, const GuestFault& fault) {
  const bool write = (fault.error_code & pf::kWrite) != 0;
  const bool fetch = (fault.error_code & pf::kFetch) != 0;
  const bool small = thp_ == HugePages::Never;
  make_room(vcpu, small ? 0 : kEntriesPerTable);
  const SpaceLock lock(vcpu, space, small ? GuestLock::Use::Shared : GuestLock::Use::Alone);
  Vma* vma = space.vmas.find(fault.address);
  if (vma == nullptr) return false;
  // On x86 what can be written or run can be read. Linux, access_error.
  const u8 wanted = write ? prot::kWrite : fetch ? prot::kExec : u8{7};
  if (!(vma->rights & wanted)) return false;
  const Gva va = fault.address.align_down(vma->page());
  const bool is_thp = !small && vma->source.kind == Source::Kind::Anonymous;
  Gpa where = tables_.make(vcpu, space, va, is_thp ? 2 : leaf_level(vma->page()));
  if (is_thp) {
    if (huge_fault(vcpu, space, *vma, va, where, write)) return true;
    where = tables_.table_below(vcpu, space, where) + 8 * table_index(va, 1);
  }
  serve_entry(vcpu, space, *vma, va, where, write);
  return true;
}

void MemoryManager::serve_entry(Vcpu& vcpu, AddressSpace& space, Vma& vma, Gva va, Gpa where,
                                bool write) {
  // Linux, handle_pte_fault: a page is made ready before the table's lock is taken. If the entry
  // has changed by then, somebody else was quicker, and the access is tried again.
  const u64 entry = PageTables::read(vcpu, where);
  const auto ready = write ? page_to_write(vcpu, vma, va, entry) : std::nullopt;
  const GuestLock::Hold table(vcpu, space.table_locks[va.raw() >> page_shift(PageSize::k2M)]);
  if (PageTables::read(vcpu, where) != entry) {
    ++statistics_.spurious_faults;
  } else if (pte::is_swapped(entry)) {
    swap_in(vcpu, space, vma, where, entry, write);
  } else if (!pte::is_mapped(entry)) {
    if (first_touch(vcpu, space, vma, va, where, ready, write)) return;
  } else if (write && !(entry & x86::kWrite)) {
    if (write_to_shared(vcpu, space, vma, va, where, entry, ready)) return;
  } else {
    ++statistics_.spurious_faults;
  }
  if (ready) drop(vcpu, *ready);
}

/// The private page that a write to what the entry maps needs, with its contents; nullopt: none.
std::optional<Gfn> MemoryManager::page_to_write(Vcpu& vcpu, const Vma& vma, Gva va, u64 entry) {
  if (pte::is_swapped(entry)) return std::nullopt;
  if (!pte::is_mapped(entry)) {
    if (vma.source.kind == Source::Kind::Anonymous) return zeroed(vcpu, PageSize::k4K);
    // Linux, hugetlb_no_page: there is no zero page of that size for explicit huge pages.
    if (vma.source.kind == Source::Kind::Huge) return std::nullopt;
    if (vma.source.shared) return std::nullopt;
    return copied(vcpu, file_page(vcpu, vma, va), PageSize::k4K);
  }
  if ((entry & x86::kWrite) || is_exclusive(entry)) return std::nullopt;
  if (entry & pte::kSpecial) return zeroed(vcpu, vma.page());
  return copied(vcpu, pte::frame_of(entry), vma.page());
}

void MemoryManager::swap_in(Vcpu& vcpu, AddressSpace& space, const Vma& vma, Gpa where, u64 entry,
                            bool write) {
  // Linux, do_swap_page. There is no swap cache: of a page that several had each gets a copy.
  ++statistics_.swapped_in;
  const Gfn frame = frames_.allocate();
  write_page_struct(vcpu, frames_, frame);
  reclaim_.read(vcpu, entry, frame);
  reclaim_.put(entry);
  const u64 own = (vma.rights & prot::kWrite) ? x86::kWrite : 0;
  PageTables::write(vcpu, where, make_entry(frame, vma, own | (write ? x86::kDirty : 0)));
  reclaim_.note(frame, space, where);
}

bool MemoryManager::first_touch(Vcpu& vcpu, AddressSpace& space, Vma& vma, Gva va, Gpa where,
                                std::optional<Gfn> ready, bool write) {
  ++statistics_.first_touches;
  const u64 more = write ? kWritten : 0;
  if (ready) {
    // Linux, do_anonymous_page and do_cow_fault: its entry is dirty from the start.
    vma.has_copies |= vma.source.kind == Source::Kind::File;
    PageTables::write(vcpu, where, make_entry(*ready, vma, more));
    reclaim_.note(*ready, space, where);
    return true;
  }
  switch (vma.source.kind) {
    case Source::Kind::Anonymous:
      // A read maps the zero page, which is not counted.
      PageTables::write(vcpu, where, make_entry(zero_page_, vma, pte::kSpecial));
      break;
    case Source::Kind::Huge:
      PageTables::write(vcpu, where, make_entry(zeroed(vcpu, PageSize::k2M), vma, more));
      break;
    case Source::Kind::File:
      map_file_page(vcpu, vma, va, where, more & x86::kDirty);
      break;
  }
  return false;
}

void MemoryManager::map_file_page(Vcpu& vcpu, Vma& vma, Gva va, Gpa where, u64 more) {
  const Gfn page = file_page(vcpu, vma, va);
  share(vcpu, page);
  PageTables::write(vcpu, where, make_entry(page, vma, more));
  if (more != 0) return;  // a write maps no neighbours. Linux, do_shared_fault
  // Linux, do_fault_around: the neighbours among 16 that are in the page cache are mapped as well.
  constexpr u64 kAround = 16 * kPageBytes;
  const Gva first(va.raw() & ~(kAround - 1));
  const Gpa first_entry = where - (va - first) / kPageBytes * 8;
  for (Gva near = first; near < first + kAround; near = near + kPageBytes) {
    if (near == va || !vma.contains(near)) continue;
    const u64 number = (vma.source.offset + (near - vma.start)) >> kPageShift;
    const auto cached = page_cache_.find({vma.source.file, number});
    if (cached == page_cache_.end()) continue;
    const Gpa entry = first_entry + (near - first) / kPageBytes * 8;
    if (PageTables::read(vcpu, entry) != 0) continue;
    ++statistics_.mapped_around;
    share(vcpu, cached->second);
    PageTables::write(vcpu, entry, make_entry(cached->second, vma, 0));
  }
}

bool MemoryManager::write_to_shared(Vcpu& vcpu, AddressSpace& space, Vma& vma, Gva va, Gpa where,
                                    u64 entry, std::optional<Gfn> ready) {
  const PageSize size = vma.page();
  // Linux, wp_page_reuse: no flush, since rights only grow. That others gave the page up while a
  // copy was made changes nothing: theirs is not ours to wait for.
  if (!ready) {
    ++statistics_.reuses;
    PageTables::write(vcpu, where, entry | x86::kAccessed | kWritten);
    return false;
  }
  // Linux, wp_page_copy: the new page is ready before the old entry goes, and between the two
  // entries every TLB forgets the old one.
  ++statistics_.copies;
  const bool special = (entry & pte::kSpecial) != 0;
  vma.has_copies |= vma.source.kind == Source::Kind::File;
  TlbGather gather(tlb_, space);
  PageTables::take(vcpu, where);
  gather.changed(va, size);
  if (!special) {
    reclaim_.forget(pte::frame_of(entry), where);
    gather.release(pte::frame_of(entry));
  }
  gather.finish(vcpu, frames_);
  PageTables::write(vcpu, where, make_entry(*ready, vma, kWritten));
  reclaim_.note(*ready, space, where);
  return true;
}

bool MemoryManager::is_exclusive(u64 entry) const {
  // The page cache holds a reference of its own, so a page with one is anonymous.
  if (entry & pte::kSpecial) return false;
  const Gfn frame = pte::frame_of(entry);
  // Of a large page that is mapped by small ones the count says nothing about one of these.
  if (frames_.is_large(frame) && !(entry & x86::kLarge)) return frames_.is_exclusive(frame);
  return frames_.references(frame) == 1;
}

void MemoryManager::share(Vcpu& vcpu, Gfn frame) {
  frames_.share(frame);
  if (frames_.is_large(frame)) frames_.set_exclusive(frame, false);
  write_page_struct(vcpu, frames_, frame);
}

void MemoryManager::drop(Vcpu& vcpu, Gfn frame) {
  const Gfn first = frames_.head(frame);
  frames_.release(frame);
  write_page_struct(vcpu, frames_, first);
}

/// Each CPU keeps some free frames at hand, so that the zone's lock is taken for a batch of them.
/// Linux, rmqueue_bulk; pcp->batch is 63 on large zones.
Gfn MemoryManager::take_frame(Vcpu& vcpu, PageSize size) {
  constexpr u64 kBatch = 63;
  constexpr u64 kRefillCycles = 63 * 20;  // list handling, assumed
  u64& at_hand = frames_at_hand_[vcpu.index()];
  if (size == PageSize::k2M || at_hand == 0) {
    const GuestLock::Hold zone(vcpu, zone_lock_);
    vcpu.compute(kRefillCycles);
    if (size == PageSize::k4K) at_hand = kBatch;
  }
  if (size == PageSize::k4K) --at_hand;
  return frames_.allocate(size);
}

void MemoryManager::zero_frame(Vcpu& vcpu, Gfn frame, PageSize size) {
  vcpu.note(Event::GuestFrame);
  write_page_struct(vcpu, frames_, frame);
  for (u64 at = 0; at < page_bytes(size); at += kPageBytes) {
    vcpu.zero(direct_map(frame.base()) + at, kPageBytes);
  }
}

Gfn MemoryManager::zeroed(Vcpu& vcpu, PageSize size) {
  const Gfn frame = take_frame(vcpu, size);
  zero_frame(vcpu, frame, size);
  return frame;
}

Gfn MemoryManager::copied(Vcpu& vcpu, Gfn from, PageSize size) {
  const Gfn frame = take_frame(vcpu, size);
  vcpu.note(Event::GuestFrame);
  write_page_struct(vcpu, frames_, frame);
  for (u64 at = 0; at < page_bytes(size); at += kPageBytes) {
    vcpu.copy(direct_map(frame.base()) + at, direct_map(from.base()) + at, kPageBytes);
  }
  return frame;
}

Gfn MemoryManager::file_page(Vcpu& vcpu, const Vma& vma, Gva va) {
  const u64 number = (vma.source.offset + (va - vma.start)) >> kPageShift;
  const std::pair key(vma.source.file, number);
  if (const auto cached = page_cache_.find(key); cached != page_cache_.end()) return cached->second;
  const Gfn fresh = zeroed(vcpu, PageSize::k4K);
  // Another vCPU may have brought the page meanwhile.
  const auto [entry, inserted] = page_cache_.emplace(key, fresh);
  if (!inserted) frames_.release(fresh);
  return entry->second;
}

}  // namespace mmuscope
