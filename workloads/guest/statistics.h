#pragma once

#include "core/types.h"

namespace mmuscope {

/// What the guest kernel did. For tests and for people; no part of any result.
struct KernelStatistics {
  u64 first_touches = 0;     ///< entries set for pages touched first, the zero page included
  u64 mapped_around = 0;     ///< entries set for their neighbours in a file
  u64 copies = 0;            ///< pages copied on write, the zero page included
  u64 reuses = 0;            ///< write faults on a page that had no other user left
  u64 spurious_faults = 0;   ///< the tables permitted the access by the time they were looked at
  u64 segfaults = 0;         ///< processes killed
  u64 huge_faults = 0;       ///< of the first touches, those that a 2-MByte page answered
  u64 huge_fallbacks = 0;    ///< those that one would have, had there been a free one
  u64 huge_splits = 0;       ///< huge pages that were mapped by small ones instead
  u64 huge_unused = 0;       ///< of these, because memory was short and nobody used them
  u64 collapses = 0;         ///< small pages made one by khugepaged or MADV_COLLAPSE
  u64 tables_moved = 0;      ///< tables or huge pages that mremap moved as they were
  u64 swapped_out = 0;       ///< pages written to swap, whoever had them
  u64 swapped_in = 0;        ///< pages read back, by a fault each
  u64 page_flushes = 0;      ///< INVLPG, on any vCPU
  u64 full_flushes = 0;      ///< CR3 written in order to flush
  u64 shootdowns = 0;        ///< flushes for which other vCPUs were interrupted
  u64 context_switches = 0;  ///< CR3 written in order to run in other tables
};

}  // namespace mmuscope
