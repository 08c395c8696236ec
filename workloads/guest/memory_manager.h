#pragma once

#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "workloads/guest/balloon.h"
#include "workloads/guest/boot.h"
#include "workloads/guest/guest_tlb.h"
#include "workloads/guest/page_tables.h"
#include "workloads/guest/reclaim.h"

namespace mmuscope {

/// Mappings, page faults and copy-on-write of all address spaces: what Linux's mm/ and
/// arch/x86/mm/ do to page tables, access for access as far as the comments say. Takes the locks it
/// needs. Page contents: anonymous memory is zeroed by the CPU when it is given; a file is a
/// ramfs's hole, so its page cache is zeroed, too, on first use and is never given back.
class MemoryManager {
 public:
  MemoryManager(Machine& machine, const BootImage& image, KernelStatistics& statistics);

  /// An empty address space: a zeroed root with the kernel half copied in. Linux, pgd_alloc.
  std::shared_ptr<AddressSpace> create(Vcpu& vcpu);
  /// Clears and frees all that the address space has. Linux, exit_mmap. No one may use it any more.
  void destroy(Vcpu& vcpu, AddressSpace& space);
  /// Gives the empty address space `to` the mappings of `from`, and copies or shares their pages.
  /// Linux, dup_mmap.
  void copy(Vcpu& vcpu, AddressSpace& from, AddressSpace& to);

  /// The top page of a kernel stack; the other three of its 16 KiB (THREAD_SIZE) are never reached.
  /// Linux maps stacks with vmalloc; here they are in the direct map.
  Gfn new_stack(Vcpu& vcpu);
  void free_stack(Vcpu& vcpu, Gfn stack);

  // System calls: see Kernel. Addresses and lengths are judged here.
  std::optional<Gva> map(Vcpu& vcpu, AddressSpace& space, std::optional<Gva> where, u64 bytes,
                         u8 rights, Source source);
  bool unmap(Vcpu& vcpu, AddressSpace& space, Gva start, u64 bytes);
  bool protect(Vcpu& vcpu, AddressSpace& space, Gva start, u64 bytes, u8 rights);
  bool discard(Vcpu& vcpu, AddressSpace& space, Gva start, u64 bytes);
  bool set_heap_end(Vcpu& vcpu, AddressSpace& space, Gva end);
  std::optional<Gva> remap(Vcpu& vcpu, AddressSpace& space, Gva start, u64 old_bytes, u64 new_bytes,
                           std::optional<Gva> to);
  bool toggle_software_bit(Vcpu& vcpu, AddressSpace& space, Gva va);
  bool advise_huge(Vcpu& vcpu, AddressSpace& space, Gva start, u64 bytes, HugeAdvice advice);
  bool collapse(Vcpu& vcpu, AddressSpace& space, Gva start, u64 bytes);

  /// khugepaged's look at the first 2 MBytes at or after `from` that may be a huge page: makes one
  /// of the small pages there if it is worth it. Where to look next; nullopt: nothing was left.
  std::optional<Gva> collapse_next(Vcpu& vcpu, AddressSpace& space, Gva from);

  /// Serves a page fault; false if no mapping permits the access.
  bool fault(Vcpu& vcpu, AddressSpace& space, const GuestFault& fault);

  GuestTlb& tlb() { return tlb_; }
  Balloon& balloon() { return balloon_; }
  const Balloon& balloon() const { return balloon_; }
  const Reclaim& reclaim() const { return reclaim_; }
  FrameAllocator& frames() { return frames_; }
  const FrameAllocator& frames() const { return frames_; }
  Gfn zero_page() const { return zero_page_; }
  /// 2 MBytes of zeros, if they were ever wanted.
  std::optional<Gfn> huge_zero() const { return huge_zero_; }
  /// By file and page number; the cache holds a reference to each.
  const std::map<std::pair<u32, u64>, Gfn>& page_cache() const { return page_cache_; }

 private:
  /// Swaps out if memory is short, for what needs so many frames more than usual; without any lock.
  void make_room(Vcpu& vcpu, u64 more);
  /// One user less of an address space that was kept alive.
  void put(Vcpu& vcpu, const std::shared_ptr<AddressSpace>& space);
  /// Reclaim's look at the next huge page, round all address spaces; false: there is none.
  bool age_next_huge(Vcpu& vcpu);

  // Ranges, with the lock held.
  void unmap_locked(Vcpu& vcpu, AddressSpace& space, Gva start, Gva end);
  void clear(Vcpu& vcpu, AddressSpace& space, TlbGather& gather, const Vma& vma, bool teardown);
  void protect_entries(Vcpu& vcpu, AddressSpace& space, TlbGather& gather, const Vma& vma);
  void copy_entries(Vcpu& vcpu, AddressSpace& from, AddressSpace& to, const Vma& vma);
  void move_entries(Vcpu& vcpu, AddressSpace& space, TlbGather& gather, const Vma& from, Gva to);
  /// Moves the table or huge page that an entry of the level maps all of, if both addresses allow
  /// it; how many bytes are done with, 0: they do not.
  u64 move_table(Vcpu& vcpu, AddressSpace& space, unsigned level, Gva va, Gva end, Gva to);
  std::optional<Gva> remap_locked(Vcpu& vcpu, AddressSpace& space, Vma old, u64 new_bytes,
                                  std::optional<Gva> to);
  // Faults, with the lock shared; below serve_entry with the table's lock held.
  void serve_entry(Vcpu& vcpu, AddressSpace& space, Vma& vma, Gva va, Gpa where, bool write);
  std::optional<Gfn> page_to_write(Vcpu& vcpu, const Vma& vma, Gva va, u64 entry);
  // True if the page that is ready was used.
  bool first_touch(Vcpu& vcpu, AddressSpace& space, Vma& vma, Gva va, Gpa where,
                   std::optional<Gfn> ready, bool write);
  bool write_to_shared(Vcpu& vcpu, AddressSpace& space, Vma& vma, Gva va, Gpa where, u64 entry,
                       std::optional<Gfn> ready);
  void swap_in(Vcpu& vcpu, AddressSpace& space, const Vma& vma, Gpa where, u64 entry, bool write);
  void map_file_page(Vcpu& vcpu, Vma& vma, Gva va, Gpa where, u64 more);
  void share(Vcpu& vcpu, Gfn frame);
  void drop(Vcpu& vcpu, Gfn frame);
  void change_reverse_map(Vcpu& vcpu, const Vma& vma);
  Gfn take_frame(Vcpu& vcpu, PageSize size);
  Gfn zeroed(Vcpu& vcpu, PageSize size);
  void zero_frame(Vcpu& vcpu, Gfn frame, PageSize size);
  Gfn copied(Vcpu& vcpu, Gfn from, PageSize size);
  Gfn file_page(Vcpu& vcpu, const Vma& vma, Gva va);
  /// True if no one but the entry refers to the page, which is anonymous then.
  bool is_exclusive(u64 entry) const;

  // Transparent huge pages: huge_pages.cpp. `where`: the entry of level 2; `first`: what it maps.
  bool may_be_huge(const Vma& vma, Gva first) const;
  void add_spare_table(Vcpu& vcpu, AddressSpace& space, Gva first);
  void free_spare_table(Vcpu& vcpu, AddressSpace& space, Gva first);
  std::optional<Gfn> huge_zero_page(Vcpu& vcpu);
  /// Serves a fault by a huge page; false if small pages are to.
  bool huge_fault(Vcpu& vcpu, AddressSpace& space, const Vma& vma, Gva va, Gpa where, bool write);
  bool first_huge_touch(Vcpu& vcpu, AddressSpace& space, const Vma& vma, Gva first, Gpa where,
                        bool write);
  bool write_to_huge(Vcpu& vcpu, AddressSpace& space, const Vma& vma, Gva first, Gpa where,
                     u64 entry);
  /// Maps by small pages what was mapped as a huge one.
  void split_huge(Vcpu& vcpu, AddressSpace& space, Gva first, Gpa where, u64 entry);
  /// The same if a huge page lies across the address.
  void split_at(Vcpu& vcpu, AddressSpace& space, Gva edge);
  void clear_huge(Vcpu& vcpu, AddressSpace& space, TlbGather& gather, Gva first, Gpa where,
                  bool teardown);
  void copy_huge(Vcpu& vcpu, AddressSpace& to, Gva first, Gpa where, u64 entry);
  std::optional<std::pair<u64, Gva>> next_huge() const;
  void age_huge(Vcpu& vcpu, AddressSpace& space, Gva first);
  bool is_worth_collapsing(Vcpu& vcpu, Gpa table);
  bool collapse_one(Vcpu& vcpu, AddressSpace& space, const Vma& vma, Gva first);

  Gpa kernel_root_, kernel_user_root_;
  u64 next_id_ = 2;  // of address spaces; 1 is the kernel's own
  Gfn zero_page_;
  std::optional<Gfn> huge_zero_;
  std::map<u64, AddressSpace*> spaces_;       // that live, by number
  std::pair<u64, Gva> huge_hand_{0, Gva(0)};  // the last one that was aged
  HugePages thp_;
  KernelStatistics& statistics_;
  std::vector<u64> frames_at_hand_;  // by vCPU
  FrameAllocator frames_;
  PageTables tables_;
  GuestTlb tlb_;
  Balloon balloon_;
  Reclaim reclaim_;
  std::map<std::pair<u32, u64>, Gfn> page_cache_;
  std::map<u32, GuestLock> file_locks_;
  GuestLock zone_lock_;
};

}  // namespace mmuscope
