#pragma once

#include "workloads/guest/page_tables.h"

namespace mmuscope {

/// The flags that a mapping's rights give an entry. Of private mappings writing is not among them:
/// it is granted page by page, to pages that are nobody else's. Linux, protection_map and
/// vm_get_page_prot; files that must be told of a page's first write do not exist here.
inline u64 entry_flags(const Vma& vma) {
  if (vma.rights == prot::kNone) return pte::kNoRights | x86::kAccessed;
  const bool write = vma.source.shared && (vma.rights & prot::kWrite);
  return x86::kPresent | x86::kUser | x86::kAccessed | (write ? x86::kWrite : 0) |
         (vma.rights & prot::kExec ? 0 : x86::kNoExec);
}

inline constexpr u64 kWritten = x86::kWrite | x86::kDirty;

inline u64 make_entry(Gfn frame, const Vma& vma, u64 more) {
  return frame.base().raw() | entry_flags(vma) | more |
         (vma.page() == PageSize::k2M ? x86::kLarge : 0);
}

/// True if [start, start+bytes) is not empty, page-aligned and below the end of user addresses.
inline bool is_user_range(Gva start, u64 bytes) {
  return bytes > 0 && start.page_offset() == 0 && start < kUserEnd && bytes <= kUserEnd - start;
}

}  // namespace mmuscope
