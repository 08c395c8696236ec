#pragma once

#include "core/machine.h"

namespace mmuscope {

/// What is in guest memory before the first instruction.
struct BootImage {
  Gpa root;  ///< the kernel's PML4 or PML5: a kernel half and no user half
  u64 table_pages = 0;
  Gfn zero_page;   ///< never written
  Gfn first_free;  ///< all frames from here on are unused
};

/// Writes the kernel's tables, uncounted: the direct map of all guest memory in 1-GByte pages where
/// a whole one fits and the CPU has them, else in 2-MByte pages, else in small ones, as Linux's
/// init_mem_mapping chooses; global, and with A and D set from the start (Linux, PAGE_KERNEL).
/// Throws RunError when the memory is too small for that.
BootImage write_boot_image(Machine& machine);

/// The controls under which the kernel runs: write protection, NX, SMEP, global pages, and tables
/// of 4 or 5 levels.
Controls kernel_controls(unsigned levels);

}  // namespace mmuscope
