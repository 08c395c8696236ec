#pragma once

#include "core/address.h"

namespace mmuscope {

/// Where the guest kernel sees all guest-physical memory, as Linux does with 4-level tables; it
/// stays there with 5 levels, where Linux moves it.
/// Linux, Documentation/arch/x86/x86_64/mm.rst.
inline constexpr u64 kDirectMapBase = 0xffff'8880'0000'0000;

constexpr Gva direct_map(Gpa a) { return Gva(kDirectMapBase + a.raw()); }

// Where else the kernel half has something. Same source.
/// An array of 64-byte descriptions of frames (struct page).
inline constexpr u64 kPageStructs = 0xffff'ea00'0000'0000;
inline constexpr u64 kPageStructBytes = 64;
constexpr Gva page_struct(Gfn f) { return Gva(kPageStructs + kPageStructBytes * f.raw()); }
/// Per CPU what must be mapped in user mode, too: of it the stack that an exception begins on.
/// Linux gives each CPU some 60 pages; here it is one.
inline constexpr u64 kCpuEntryAreas = 0xffff'fe00'0000'0000;
constexpr Gva cpu_entry_area(unsigned cpu) { return Gva(kCpuEntryAreas + kPageBytes * cpu); }
/// The kernel's instructions: a large page of entry code, which user mode needs as well, and one of
/// the rest. Linux, __START_KERNEL_map + CONFIG_PHYSICAL_START; vmlinux.lds.S aligns entry text.
inline constexpr Gva kKernelText{0xffff'ffff'8100'0000};
inline constexpr Gva kEntryText = kKernelText + page_bytes(PageSize::k2M);

/// The first address that is not canonical.
inline constexpr Gva kLowerHalfEnd{u64{1} << 47};
/// The end of the lower half with 5 levels: no table of a user address reaches further.
inline constexpr Gva kTablesEnd{u64{1} << 56};
/// User addresses end here; the top page of the lower half stays unused. Linux, TASK_SIZE_MAX.
inline constexpr Gva kUserEnd = kLowerHalfEnd - kPageBytes;
/// Mappings without a wanted address are placed downwards from here.
inline constexpr Gva kMapTop{0x7fff'f000'0000};
/// Where the heap of a new address space begins.
inline constexpr Gva kHeapStart{0x5555'5580'0000};
/// The root's entries of the kernel's half: the same in every address space.
inline constexpr unsigned kFirstKernelEntry = kEntriesPerTable / 2;

}  // namespace mmuscope
