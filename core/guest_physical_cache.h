#pragma once

#include <vector>

#include "core/walk_cache.h"

namespace mmuscope {

/// Translations of whole guest-physical addresses, those of guest tables alone: the final address
/// goes into the TLB with the linear one. Bhargava et al., *Accelerating Two-Dimensional Page Walks
/// for Virtualized Systems* (ASPLOS 2008). Fully associative, least recently used replaced.
class NestedTlb {
 public:
  explicit NestedTlb(const CpuModel& cpu) : entries_(cpu.nested_tlb.entries) {}

  struct Entry {
    Gpa base;
    Hpa page;
    u64 rights = 0;  ///< of the second dimension's format
    Context context = kNoContext;
    PageSize size = PageSize::k4K;
    bool dirty = false;  ///< a write has no flag left to set
    u64 stamp = 0;

    Hpa translate(Gpa a) const { return page + a.offset_in(size); }
  };
  /// The entry for the address, or nullptr. Rights are not judged.
  const Entry* find(Gpa a, Context context);
  /// In place of one for the same page, or of the least recently used.
  void insert(const Entry& entry);
  void invalidate(const FlushMatch& match);
  void invalidate_address(Gpa a, const FlushMatch& match);

 private:
  u64 now_ = 0;
  std::vector<Entry> entries_;
};

/// What a CPU caches of the second dimension alone: the guest-physical mappings of SDM vol. 3,
/// *Caching Translation Information*. Linear addresses, VPID and PCID mean nothing here.
class GuestPhysicalCache {
 public:
  explicit GuestPhysicalCache(const CpuModel& cpu) : tables_(cpu), pages_(cpu) {
    enable(false, false);
  }

  void enable(bool tables, bool pages) {
    tables_.set_enabled(tables);
    use_pages_ = pages;
    on_ = tables || pages;
  }
  bool on() const { return on_; }

  PrefixCache<GuestPhysical>& tables() { return tables_; }
  const NestedTlb::Entry* find_page(Gpa a, Context context) {
    return use_pages_ ? pages_.find(a, context) : nullptr;
  }
  void insert_page(const NestedTlb::Entry& entry) {
    if (use_pages_) pages_.insert(entry);
  }
  void invalidate(const FlushMatch& match) {
    tables_.invalidate(match);
    pages_.invalidate(match);
  }
  void invalidate_address(Gpa a, const FlushMatch& match) {
    tables_.invalidate_address(a, match);
    pages_.invalidate_address(a, match);
  }

 private:
  PrefixCache<GuestPhysical> tables_;
  NestedTlb pages_;
  bool use_pages_ = false, on_ = false;
};

}  // namespace mmuscope
