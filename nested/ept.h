#pragma once

#include <array>

#include "core/entry.h"
#include "core/memory.h"

namespace mmuscope {

/// The format of the second dimension's tables: Intel's EPT or AMD's nested paging.
enum class NestedFormat : u8 { Ept, Npt };

/// The tables of one VM's second dimension, as its hypervisor keeps them: real entries in host
/// frames, filled as the guest reaches its memory. "EPT" stands for both formats here.
class Ept {
 public:
  /// Bytes that Linux keeps about each table beside it (struct kvm_mmu_page).
  static constexpr u64 kHeaderBytes = 184;
  static constexpr unsigned kLevels = 4;

  /// `flags`: entries carry A and D (always true for NPT).
  Ept(PhysicalMemory& memory, NestedFormat format, bool flags);

  NestedFormat format() const { return format_; }
  Hpa root() const { return root_.base(); }

  /// Maps the page of `size` around the frame, with all rights, to the host page that holds
  /// `backing`. A and D are set at once, as Linux does where nothing watches them (make_spte): a
  /// writable page counts as dirty. True if an entry changed; no flush is owed, since rights only
  /// grow. A larger page that is there already stays.
  bool map(Gfn g, Hfn backing, PageSize size);

  u64 pages(PageSize size) const { return pages_[static_cast<unsigned>(size)]; }
  u64 table_pages() const { return table_pages_; }

 private:
  Hfn new_table();
  u64 table_entry(Hfn table) const;
  u64 leaf_entry(Hpa page, PageSize size) const;
  bool present(u64 entry) const;

  PhysicalMemory& memory_;
  NestedFormat format_;
  bool flags_;
  u64 table_pages_ = 0;
  std::array<u64, kPageSizes> pages_{};
  Hfn root_;
};

}  // namespace mmuscope
