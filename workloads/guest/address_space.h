#pragma once

#include <vector>

#include "core/address.h"
#include "workloads/guest/vma.h"

namespace mmuscope {

/// One process's (or several threads') memory: Linux's mm_struct. Plain data of the guest kernel;
/// whoever changes mappings or tables holds its lock, since a vCPU may give way inside any access.
struct AddressSpace {
  AddressSpace(Gpa root_table, unsigned vcpus) : root(root_table), loaded_on(vcpus, 0) {}

  Gpa root;
  VmaList vmas;
  Gva heap_start = Gva(0), heap_end = Gva(0);
  u64 table_pages = 1;  ///< its own tables, root included
  u32 users = 1;        ///< processes and threads that live in it
  bool locked = false;
  /// By vCPU: its TLB may hold translations of this address space. Linux, mm_cpumask.
  std::vector<u8> loaded_on;
  /// Goes up with every flush, so that a vCPU that slept through some knows. Linux, tlb_gen.
  u64 generation = 0;
};

}  // namespace mmuscope
