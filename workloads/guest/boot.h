#pragma once

#include "core/machine.h"

namespace mmuscope {

/// What is in guest memory before the first instruction.
struct BootImage {
  Gpa root;             ///< the kernel's PML4 or PML5: a kernel half and no user half
  Gpa user_root{0};     ///< with KPTI the same for user mode, in the frame after it; else 0
  u64 table_pages = 0;  ///< the kernel's tables, roots included
  Gfn zero_page;        ///< never written
  Gfn first_free;       ///< all frames from here on
  Gfn end_free;         ///< up to here are unused
  Gfn swap;             ///< the first of the frames that are a device to swap to
  u64 swap_pages = 0;
};

/// Writes the kernel's tables, uncounted: the direct map of all guest memory in 1-GByte pages where
/// a whole one fits and the CPU has them, else in 2-MByte pages, else in small ones, as Linux's
/// init_mem_mapping chooses; page structs, kernel text and the CPUs' entry areas. All with A and D
/// set from the start (Linux, PAGE_KERNEL). Global, but with KPTI only what user mode maps, too
/// (Linux, pti_init). Throws RunError when the memory is too small for that.
BootImage write_boot_image(Machine& machine);

/// The controls that the kernel begins with: write protection, NX, SMEP, global pages, and tables
/// of 4 or 5 levels.
Controls kernel_controls(unsigned levels);
/// True if this kernel tags its address spaces: the guest is offered PCIDs and the CPU has them.
/// Every CPU here that has PCIDs has INVPCID, too.
bool kernel_uses_pcid(const Machine& machine);

}  // namespace mmuscope
