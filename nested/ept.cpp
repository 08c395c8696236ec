#include "nested/ept.h"

namespace mmuscope {

Ept::Ept(PhysicalMemory& memory, NestedFormat format, bool flags)
    : memory_(memory), format_(format), flags_(flags), root_(new_table()) {}

Hfn Ept::new_table() {
  ++table_pages_;
  return memory_.allocate_table();
}

u64 Ept::table_entry(Hfn table) const {
  if (format_ == NestedFormat::Npt) {
    return table.base().raw() | x86::kPresent | x86::kWrite | x86::kUser | x86::kAccessed;
  }
  return table.base().raw() | EptTables::kAllRights | (flags_ ? ept::kAccessed : 0);
}

u64 Ept::leaf_entry(Hpa page, PageSize size) const {
  const bool large = size != PageSize::k4K;
  if (format_ == NestedFormat::Npt) {
    return page.raw() | x86::kPresent | x86::kWrite | x86::kUser | x86::kAccessed | x86::kDirty |
           (large ? x86::kLarge : 0);
  }
  return page.raw() | EptTables::kAllRights | ept::kWriteBack |
         (flags_ ? ept::kAccessed | ept::kDirty : 0) | (large ? ept::kLarge : 0);
}

bool Ept::present(u64 entry) const {
  return entry & (format_ == NestedFormat::Npt ? x86::kPresent : EptTables::kAllRights);
}

bool Ept::map(Gfn g, Hfn backing, PageSize size) {
  static_assert(x86::kLarge == ept::kLarge && x86::kAddressMask == ept::kAddressMask);
  Hpa table = root();
  for (unsigned level = kLevels;; --level) {
    const Hpa where = table + 8 * table_index(g.base(), level);
    const u64 entry = memory_.read(where);
    if (level == leaf_level(size)) {
      const u64 leaf = leaf_entry(backing.base().align_down(size), size);
      if (entry == leaf) return false;
      if (!present(entry)) ++pages_[static_cast<unsigned>(size)];
      memory_.write(where, leaf);
      return true;
    }
    if (!present(entry)) {
      const Hfn child = new_table();
      memory_.write(where, table_entry(child));
      table = child.base();
      continue;
    }
    if (entry & ept::kLarge) return false;
    table = Hpa(entry & ept::kAddressMask);
  }
}

}  // namespace mmuscope
