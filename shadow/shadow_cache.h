#pragma once

#include <deque>
#include <vector>

#include "core/memory.h"
#include "shadow/shadow_page.h"

namespace mmuscope {

/// All shadow pages of a virtual machine: found by (guest frame, role), kept in order of age.
/// KVM's kvm->arch.mmu_page_hash and active_mmu_pages.
class ShadowCache {
 public:
  explicit ShadowCache(PhysicalMemory& memory);
  ~ShadowCache();

  /// The live page of exactly this frame and role, or null.
  ShadowPage* find(Gfn gfn, const Role& role);
  /// The live pages of the frame that shadow a table in it, as they are now.
  std::vector<ShadowPage*> shadows_of(Gfn gfn) const;
  /// A new live page with an empty table; the youngest.
  ShadowPage& create(Gfn gfn, const Role& role);
  /// Takes the page out of the hash and the order of age. It stays allocated until release().
  void retire(ShadowPage& page);
  /// The page's table and the page itself go back to where they came from; it must be retired,
  /// empty and referred to by nothing.
  void release(ShadowPage& page);

  /// Live pages, oldest first.
  PageList& by_age() { return by_age_; }
  const PageList& by_age() const { return by_age_; }

 private:
  struct FrameOf {
    using type = Gfn;
    const Gfn& operator()(const ShadowPage& p) const { return p.gfn; }
  };
  struct FrameHash {
    std::size_t operator()(Gfn g) const { return g.raw() * 0x9e37'79b9'7f4a'7c15 >> 20; }
  };
  using Hash = boost::intrusive::unordered_multiset<
      ShadowPage,
      boost::intrusive::member_hook<ShadowPage, boost::intrusive::unordered_set_member_hook<>,
                                    &ShadowPage::frame_hook>,
      boost::intrusive::key_of_value<FrameOf>, boost::intrusive::hash<FrameHash>,
      boost::intrusive::power_2_buckets<true>>;
  void grow();

  PhysicalMemory& memory_;
  std::deque<ShadowPage> arena_;
  std::vector<ShadowPage*> unused_;
  std::vector<Hash::bucket_type> buckets_;
  Hash hash_;
  PageList by_age_;
};

}  // namespace mmuscope
