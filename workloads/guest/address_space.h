#pragma once

#include <map>
#include <memory>

#include "core/vcpu.h"
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
  u32 users = 1;  ///< processes and threads that live in it
  bool locked = false;
  /// Goes up with every flush, so that a vCPU that slept through some knows. Linux, tlb_gen.
  u64 flushes = 0;
};

/// Holds an address space's lock for a scope: Linux's mmap_lock. A vCPU may give way inside any
/// access, so mappings and tables change only under it; once held, what was read stays true.
class SpaceLock {
 public:
  SpaceLock(Vcpu& vcpu, AddressSpace& space) : space_(space) {
    while (space_.locked) vcpu.give_way();
    space_.locked = true;
  }
  ~SpaceLock() { space_.locked = false; }
  SpaceLock(const SpaceLock&) = delete;
  SpaceLock& operator=(const SpaceLock&) = delete;

 private:
  AddressSpace& space_;
};

}  // namespace mmuscope
