#pragma once

#include <map>
#include <memory>

#include "workloads/guest/guest_lock.h"
#include "workloads/guest/vma.h"

namespace mmuscope {

/// The memory of one process and its threads: Linux's mm_struct. Plain data of the guest kernel.
struct AddressSpace : std::enable_shared_from_this<AddressSpace> {
  AddressSpace(u64 number, Gpa root_table, Gpa root_for_user)
      : id(number), root(root_table), user_root(root_for_user) {}

  u64 id;         ///< never given twice. Linux, ctx_id
  Gpa root;       ///< that the kernel runs on
  Gpa user_root;  ///< that user mode runs on, the frame after `root`; 0 without KPTI
  VmaList vmas;
  Gva heap_start = Gva(0), heap_end = Gva(0);  ///< both 0: no heap yet
  u64 table_pages = 1;                         ///< its own tables, roots and spare ones included
  /// By the first address of each huge page: a table kept for the time when it is split. Linux,
  /// pgtable_trans_huge_deposit.
  std::map<Gva, Gpa> spare_tables;
  u32 users = 1;   ///< processes and threads that live in it
  GuestLock lock;  ///< Linux: mmap_lock
  /// Of linking tables into those above. Linux: page_table_lock, and the locks of level-2 tables.
  GuestLock upper_lock;
  /// Of each table of leaf entries, by 2 MBytes of addresses. Linux: the lock in its ptdesc.
  std::map<u64, GuestLock> table_locks;
  /// Goes up with every flush, so that a vCPU that slept through some knows. Linux, tlb_gen.
  u64 flushes = 0;
};

/// Holds an address space's lock for a scope. Faults share it, unless there are transparent huge
/// pages; all else has it alone.
class SpaceLock {
 public:
  SpaceLock(Vcpu& vcpu, AddressSpace& space, GuestLock::Use use = GuestLock::Use::Alone)
      : hold_(vcpu, space.lock, use) {}

 private:
  GuestLock::Hold hold_;
};

}  // namespace mmuscope
