// Transparent huge pages: what Linux's mm/huge_memory.c and mm/khugepaged.c do to page tables.

#include <cassert>

#include "workloads/guest/entry_flags.h"
#include "workloads/guest/memory_manager.h"

namespace mmuscope {

namespace {

constexpr u64 kHuge = page_bytes(PageSize::k2M);

/// On x86 a range of small pages is flushed for a huge page, too (flush_pmd_tlb_range), which is
/// more than are flushed one by one. Only what mmu_gather collects is flushed by huge pages.
FlushRange flush_of(Gva first) { return {first, first + kHuge, PageSize::k4K}; }

// Linux, Documentation/admin-guide/mm/transhuge.rst, *Khugepaged controls*, and khugepaged_init:
// of the 512 entries so many may have no page, or pages that others share.
constexpr unsigned kMaxNone = kEntriesPerTable - 1;
constexpr unsigned kMaxShared = kEntriesPerTable / 2;

}  // namespace

bool MemoryManager::may_be_huge(const Vma& vma, Gva first) const {
  if (vma.source.kind != Source::Kind::Anonymous || vma.advice == HugeAdvice::Refused) return false;
  if (thp_ == HugePages::Never ||
      (thp_ == HugePages::Madvise && vma.advice != HugeAdvice::Wanted)) {
    return false;
  }
  return vma.start <= first && first < vma.end && kHuge <= vma.end - first;
}

void MemoryManager::add_spare_table(Vcpu& vcpu, AddressSpace& space, Gva first) {
  space.spare_tables.emplace(first, tables_.allocate(vcpu));
  ++space.table_pages;
}

void MemoryManager::free_spare_table(Vcpu& vcpu, AddressSpace& space, Gva first) {
  const auto spare = space.spare_tables.find(first);
  assert(spare != space.spare_tables.end());
  const Gfn table = spare->second.frame();
  space.spare_tables.erase(spare);
  --space.table_pages;
  // No TLB knows it: it was linked nowhere.
  frames_.release(table);
  write_page_struct(vcpu, frames_, table);
}

// --- faults --------------------------------------------------------------------------------------

bool MemoryManager::huge_fault(Vcpu& vcpu, AddressSpace& space, const Vma& vma, Gva va, Gpa where,
                               bool write) {
  const Gva first = va.align_down(PageSize::k2M);
  const u64 entry = PageTables::read(vcpu, where);
  if (entry == 0) {
    return may_be_huge(vma, first) && first_huge_touch(vcpu, space, vma, first, where, write);
  }
  if (!(entry & x86::kLarge)) return false;
  if (write && !(entry & x86::kWrite)) return write_to_huge(vcpu, space, vma, first, where, entry);
  ++statistics_.spurious_faults;
  return true;
}

bool MemoryManager::first_huge_touch(Vcpu& vcpu, AddressSpace& space, const Vma& vma, Gva first,
                                     Gpa where, bool write) {
  // Linux, do_huge_pmd_anonymous_page.
  const auto frame = write ? frames_.try_allocate_large() : huge_zero_page(vcpu);
  if (!frame) {
    ++statistics_.huge_fallbacks;
    return false;
  }
  if (write) zero_frame(vcpu, *frame, PageSize::k2M);
  add_spare_table(vcpu, space, first);
  ++statistics_.first_touches;
  ++statistics_.huge_faults;
  PageTables::write(vcpu, where,
                    make_entry(*frame, vma, x86::kLarge | (write ? kWritten : pte::kSpecial)));
  return true;
}

std::optional<Gfn> MemoryManager::huge_zero_page(Vcpu& vcpu) {
  if (huge_zero_) return huge_zero_;
  // Linux, get_huge_zero_folio. It is kept from then on; Linux would give it up short of memory.
  const auto fresh = frames_.try_allocate_large();
  if (!fresh) return fresh;
  zero_frame(vcpu, *fresh, PageSize::k2M);
  // Another vCPU may have been as quick.
  if (huge_zero_) {
    frames_.release(*fresh);
  } else {
    huge_zero_ = fresh;
  }
  return huge_zero_;
}

bool MemoryManager::write_to_huge(Vcpu& vcpu, AddressSpace& space, const Vma& vma, Gva first,
                                  Gpa where, u64 entry) {
  if (is_exclusive(entry)) {
    // Linux, do_huge_pmd_wp_page.
    ++statistics_.reuses;
    PageTables::write(vcpu, where, entry | x86::kAccessed | kWritten);
    return true;
  }
  const auto fresh = (entry & pte::kSpecial) ? frames_.try_allocate_large() : std::nullopt;
  if (!fresh) {
    // A shared huge page is never copied whole: it is mapped by small pages, and one is copied.
    split_huge(vcpu, space, first, where, entry);
    return false;
  }
  // Linux, do_huge_zero_wp_pmd.
  ++statistics_.copies;
  zero_frame(vcpu, *fresh, PageSize::k2M);
  PageTables::take(vcpu, where);
  tlb_.flush(vcpu, space, flush_of(first));
  PageTables::write(vcpu, where, make_entry(*fresh, vma, x86::kLarge | kWritten));
  return true;
}

// --- splitting -----------------------------------------------------------------------------------

void MemoryManager::split_huge(Vcpu& vcpu, AddressSpace& space, Gva first, Gpa where, u64 entry) {
  // Linux, __split_huge_pmd_locked: the huge page stays one (a folio with one count); only this
  // mapping of it becomes small. No access comes between, so that no flag is lost.
  ++statistics_.huge_splits;
  const u64 old = vcpu.exchange(direct_map(where), entry & ~x86::kPresent);
  tlb_.flush(vcpu, space, flush_of(first));
  const auto spare = space.spare_tables.find(first);
  assert(spare != space.spare_tables.end());
  const Gpa table = spare->second;
  space.spare_tables.erase(spare);

  const bool special = (old & pte::kSpecial) != 0, alone = is_exclusive(old);
  const u64 flags = old & ~x86::kAddressMask & ~u64{x86::kLarge};
  const Gfn frame = pte::frame_of(old);
  // What can be swapped out must be small frames. Linux makes them of it when memory is short
  // (deferred_split_scan, __split_huge_page), here at once.
  const bool breaks = !special && alone && reclaim_.on();
  if (breaks) {
    frames_.split(frame);
  } else if (!special) {
    frames_.share(frame, kEntriesPerTable - 1);
    write_page_struct(vcpu, frames_, frame);
  }
  for (unsigned i = 0; i < kEntriesPerTable; ++i) {
    // With the rights that the huge page had: the mapping's may be others already.
    const Gfn page = special ? zero_page_ : frame + i;
    if (breaks) {
      write_page_struct(vcpu, frames_, page);
      reclaim_.note(page, space, table + 8 * i);
    } else if (!special) {
      frames_.set_exclusive(page, alone);
    }
    PageTables::write(vcpu, table + 8 * i, page.base().raw() | flags);
  }
  PageTables::link(vcpu, where, table);
}

void MemoryManager::split_at(Vcpu& vcpu, AddressSpace& space, Gva edge) {
  if (edge.offset_in(PageSize::k2M) == 0 || thp_ == HugePages::Never) return;
  // Linux, vma_adjust_trans_huge.
  const Vma* vma = space.vmas.find(edge);
  if (vma == nullptr || vma->source.kind != Source::Kind::Anonymous) return;
  const auto where = tables_.find(vcpu, space, edge, 2);
  if (!where) return;
  const u64 entry = PageTables::read(vcpu, *where);
  if (!(entry & x86::kLarge)) return;
  split_huge(vcpu, space, edge.align_down(PageSize::k2M), *where, entry);
}

// --- memory is short -----------------------------------------------------------------------------

/// After the hand, round all address spaces: where a huge page is mapped.
std::optional<std::pair<u64, Gva>> MemoryManager::next_huge() const {
  const auto [id, last] = huge_hand_;
  for (auto at = spaces_.lower_bound(id); at != spaces_.end(); ++at) {
    const auto& huge = at->second->spare_tables;
    const auto next = at->first == id ? huge.upper_bound(last) : huge.begin();
    if (next != huge.end() && at->second->users > 0) return std::pair(at->first, next->first);
  }
  for (const auto& [other, space] : spaces_) {
    if (other > id) break;
    const auto first = space->spare_tables.begin();
    if (first != space->spare_tables.end() && space->users > 0) {
      return std::pair(other, first->first);
    }
  }
  return std::nullopt;
}

bool MemoryManager::age_next_huge(Vcpu& vcpu) {
  const auto next = next_huge();
  if (!next) return false;
  huge_hand_ = *next;
  const auto space = spaces_.at(next->first)->shared_from_this();
  ++space->users;
  {
    const SpaceLock lock(vcpu, *space);
    age_huge(vcpu, *space, next->second);
  }
  put(vcpu, space);
  return true;
}

void MemoryManager::age_huge(Vcpu& vcpu, AddressSpace& space, Gva first) {
  // Linux, shrink_folio_list: one that nobody used is split (split_folio_to_list), and its pages
  // are swapped out when their turn comes. One that several processes have stays.
  if (space.spare_tables.count(first) == 0) return;  // gone while the lock was waited for
  const auto where = tables_.find(vcpu, space, first, 2);
  const u64 entry = PageTables::read(vcpu, *where);
  if (!is_exclusive(entry)) return;
  if ((entry & x86::kAccessed) && (entry & x86::kPresent)) {
    PageTables::clear_bits(vcpu, *where, entry, x86::kAccessed);
    tlb_.flush(vcpu, space, flush_of(first));
    return;
  }
  ++statistics_.huge_unused;
  split_huge(vcpu, space, first, *where, entry);
}

// --- whole huge pages ----------------------------------------------------------------------------

void MemoryManager::clear_huge(Vcpu& vcpu, AddressSpace& space, TlbGather& gather, Gva first,
                               Gpa where, bool teardown) {
  // Linux, zap_huge_pmd.
  u64 entry = PageTables::read(vcpu, where);
  if (teardown) {
    PageTables::write(vcpu, where, 0);
  } else {
    entry = PageTables::take(vcpu, where);
  }
  if (entry & x86::kPresent) gather.changed(first, PageSize::k2M);
  if (!(entry & pte::kSpecial)) gather.release(pte::frame_of(entry));
  free_spare_table(vcpu, space, first);
}

void MemoryManager::copy_huge(Vcpu& vcpu, AddressSpace& to, Gva first, Gpa where, u64 entry) {
  // Linux, copy_huge_pmd.
  add_spare_table(vcpu, to, first);
  const Gpa copy = tables_.make(vcpu, to, first, 2);
  if (entry & x86::kWrite) PageTables::clear_bits(vcpu, where, entry, x86::kWrite);
  if (!(entry & pte::kSpecial)) share(vcpu, pte::frame_of(entry));
  PageTables::write(vcpu, copy, entry & ~(x86::kWrite | x86::kAccessed));
}

// --- khugepaged ----------------------------------------------------------------------------------

bool MemoryManager::collapse(Vcpu& vcpu, AddressSpace& space, Gva start, u64 bytes) {
  const SpaceLock lock(vcpu, space);
  if (!is_user_range(start, bytes) || !space.vmas.covers(start, start + bytes)) return false;
  bool all = true;
  for (Gva first = (start + (kHuge - 1)).align_down(PageSize::k2M); first + kHuge <= start + bytes;
       first = first + kHuge) {
    const Vma* vma = space.vmas.find(first);
    all = may_be_huge(*vma, first) && collapse_one(vcpu, space, *vma, first) && all;
  }
  return all;
}

std::optional<Gva> MemoryManager::collapse_next(Vcpu& vcpu, AddressSpace& space, Gva from) {
  const SpaceLock lock(vcpu, space);
  for (const auto& [start, vma] : space.vmas.all()) {
    const Gva begin = std::max(vma.start, from);
    const Gva first = (begin + (kHuge - 1)).align_down(PageSize::k2M);
    if (!may_be_huge(vma, first)) continue;
    collapse_one(vcpu, space, vma, first);
    return first + kHuge;
  }
  return std::nullopt;
}

bool MemoryManager::is_worth_collapsing(Vcpu& vcpu, Gpa table) {
  // Linux, hpage_collapse_scan_pmd.
  unsigned none = 0, shared = 0;
  bool writable = false, young = false;
  for (unsigned i = 0; i < kEntriesPerTable; ++i) {
    const u64 entry = PageTables::read(vcpu, table + 8 * i);
    if (entry == 0 || (entry & pte::kSpecial)) {
      if (++none > kMaxNone) return false;
      continue;
    }
    if (!(entry & x86::kPresent)) return false;
    if (!is_exclusive(entry) && ++shared > kMaxShared) return false;
    writable |= (entry & x86::kWrite) != 0;
    young |= (entry & x86::kAccessed) != 0;
  }
  return writable && young;
}

bool MemoryManager::collapse_one(Vcpu& vcpu, AddressSpace& space, const Vma& vma, Gva first) {
  const auto where = tables_.find(vcpu, space, first, 2);
  if (!where) return false;
  const u64 link = PageTables::read(vcpu, *where);
  if (!(link & x86::kPresent) || (link & x86::kLarge)) return false;
  const Gpa table(link & x86::kAddressMask);
  if (!is_worth_collapsing(vcpu, table)) return false;
  const auto fresh = frames_.try_allocate_large();
  if (!fresh) return false;
  // Linux, collapse_huge_page: without the table no CPU reaches the small pages
  // (pmdp_collapse_flush); then they are copied, then they go. The table is kept for the day of a
  // split.
  ++statistics_.collapses;
  PageTables::take(vcpu, *where);
  tlb_.flush(vcpu, space, flush_of(first));
  write_page_struct(vcpu, frames_, *fresh);
  for (unsigned i = 0; i < kEntriesPerTable; ++i) {
    const u64 entry = PageTables::read(vcpu, table + 8 * i);
    const Gva to = direct_map((*fresh + i).base());
    if (entry == 0 || (entry & pte::kSpecial)) {
      vcpu.zero(to, kPageBytes);
    } else {
      vcpu.copy(to, direct_map(pte::frame_of(entry).base()), kPageBytes);
    }
  }
  for (unsigned i = 0; i < kEntriesPerTable; ++i) {
    const u64 entry = PageTables::read(vcpu, table + 8 * i);
    if (entry == 0) continue;
    PageTables::write(vcpu, table + 8 * i, 0);
    if (entry & pte::kSpecial) continue;
    reclaim_.forget(pte::frame_of(entry), table + 8 * i);
    drop(vcpu, pte::frame_of(entry));
  }
  space.spare_tables.emplace(first, table);
  u64 entry = make_entry(*fresh, vma, x86::kLarge | x86::kDirty);
  if (vma.rights & prot::kWrite) entry |= x86::kWrite;
  PageTables::write(vcpu, *where, entry);
  return true;
}

}  // namespace mmuscope
