#include "nested/ept.h"

#include <algorithm>

namespace mmuscope {

Ept::Ept(PhysicalMemory& memory, NestedFormat format, unsigned levels, bool flags)
    : memory_(memory), format_(format), levels_(levels), flags_(flags), root_(new_table()) {}

Hfn Ept::new_table() {
  table_pages_peak_ = std::max(table_pages_peak_, ++table_pages_);
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
  return put_leaf(g, leaf_entry(backing.base().align_down(size), size), size);
}

bool Ept::map_read_only(Gfn g, Hfn backing) {
  static_assert(x86::kWrite == ept::kWrite);
  return put_leaf(g, leaf_entry(backing.base(), PageSize::k4K) & ~ept::kWrite, PageSize::k4K);
}

bool Ept::unmap(Gfn g) {
  for (unsigned level = 1; level <= kPageSizes; ++level) {
    const auto where = entry_at(g, level);
    if (!where) continue;  // a larger page, or nothing
    const u64 entry = memory_.read(*where);
    if (!present(entry) || is_table(entry, level)) return false;
    memory_.write(*where, 0);
    --pages_[level - 1];
    return true;
  }
  return false;
}

bool Ept::put_leaf(Gfn g, u64 leaf, PageSize size) {
  static_assert(x86::kLarge == ept::kLarge && x86::kAddressMask == ept::kAddressMask);
  Hpa table = root();
  for (unsigned level = levels_;; --level) {
    const Hpa where = table + 8 * table_index(g.base(), level);
    const u64 entry = memory_.read(where);
    if (level == leaf_level(size)) {
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

// --- dirty logging -------------------------------------------------------------------------------

void Ept::watch_all(u64 flag) { watch_below(root(), levels_, flag); }

void Ept::watch_below(Hpa table, unsigned level, u64 flag) {
  for (unsigned i = 0; i < kEntriesPerTable; ++i) {
    const Hpa where = table + 8 * i;
    if (!present(memory_.read(where))) continue;
    if (level > 1 && (memory_.read(where) & ept::kLarge)) split(where, level);
    const u64 entry = memory_.read(where);
    if (level > 1) {
      watch_below(Hpa(entry & ept::kAddressMask), level - 1, flag);
    } else {
      memory_.write(where, entry & ~flag);
    }
  }
}

void Ept::split(Hpa where, unsigned level) {
  const u64 leaf = memory_.read(where);
  const Hfn child = new_table();
  const PageSize size = leaf_size(level - 1);
  // The large bit is no flag of a 4K leaf.
  const u64 flags = leaf & ~ept::kAddressMask & ~(size == PageSize::k4K ? ept::kLarge : 0);
  for (unsigned i = 0; i < kEntriesPerTable; ++i) {
    const u64 page = (leaf & ept::kAddressMask) + i * page_bytes(size);
    memory_.write(child.base() + 8 * i, page | flags);
  }
  memory_.write(where, table_entry(child));
  --pages_[level - 1];
  pages_[level - 2] += kEntriesPerTable;
}

std::optional<Hpa> Ept::entry_at(Gfn g, unsigned level) const {
  Hpa table = root();
  for (unsigned l = levels_; l > level; --l) {
    const u64 entry = memory_.read(table + 8 * table_index(g.base(), l));
    if (!is_table(entry, l)) return std::nullopt;
    table = Hpa(entry & ept::kAddressMask);
  }
  return table + 8 * table_index(g.base(), level);
}

std::optional<Hpa> Ept::small_leaf(Gfn g) const {
  const auto where = entry_at(g, 1);
  return where && present(memory_.read(*where)) ? where : std::nullopt;
}

bool Ept::take(Gfn g, u64 flag) {
  const auto where = small_leaf(g);
  if (!where || !(memory_.read(*where) & flag)) return false;
  memory_.write(*where, memory_.read(*where) & ~flag);
  return true;
}

bool Ept::allow_write(Gfn g) {
  static_assert(x86::kWrite == ept::kWrite);
  const auto where = small_leaf(g);
  if (!where || (memory_.read(*where) & ept::kWrite)) return false;
  memory_.write(*where, memory_.read(*where) | ept::kWrite);
  return true;
}

bool Ept::merge(Gfn g, Hfn backing, PageSize size) {
  const unsigned level = leaf_level(size);
  const auto where = entry_at(g, level);
  if (!where || !is_table(memory_.read(*where), level)) return false;
  free_below(memory_.read(*where), level);
  memory_.write(*where, leaf_entry(backing.base().align_down(size), size));
  ++pages_[level - 1];
  return true;
}

void Ept::free_below(u64 entry, unsigned level) {
  const Hpa table(entry & ept::kAddressMask);
  for (unsigned i = 0; i < kEntriesPerTable; ++i) {
    const u64 e = memory_.read(table + 8 * i);
    if (is_table(e, level - 1)) {
      free_below(e, level - 1);
    } else if (present(e)) {
      --pages_[level - 2];
    }
  }
  memory_.free_table(table.frame());
  --table_pages_;
}

}  // namespace mmuscope
