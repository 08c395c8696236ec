#pragma once

#include <array>
#include <memory>
#include <vector>

#include "core/vcpu.h"
#include "workloads/guest/direct_map.h"

namespace mmuscope {

/// Gives out the guest's frames and counts the references to them. What was freed last is given
/// out first, so frames soon have a second life, as data or as a table. Memory it needs follows the
/// number of frames in use. 2M blocks may be cut into small frames but are not put together again.
class FrameAllocator {
 public:
  /// Frames [first, end) are free.
  FrameAllocator(Gfn first, Gfn end);

  /// A frame (4K), or the first of 512 that are naturally aligned (2M), with one reference. Its
  /// contents are whatever they were. Throws RunError when the guest has no memory left.
  Gfn allocate(PageSize size = PageSize::k4K);
  /// Two frames whose address is a multiple of both (Linux, alloc_pages of order 1), a reference
  /// each.
  Gfn allocate_pair();
  void release_pair(Gfn first);
  /// One reference more to an allocated frame (2M: to its first one).
  void share(Gfn frame) { ++count(frame); }
  /// One reference less; without any the frame is free again.
  void release(Gfn frame, PageSize size = PageSize::k4K);
  u32 references(Gfn frame) const;
  /// 4K frames allocated now.
  u64 in_use() const { return in_use_; }

 private:
  static constexpr unsigned kChunk = 4096;
  using Chunk = std::array<u32, kChunk>;
  u32& count(Gfn frame);
  Gfn take_small();
  Gfn take_large();
  Gfn take_pair();
  [[noreturn]] void out_of_memory() const;

  Gfn end_;
  /// Never used yet: [next_small_, next_large_). Small frames grow up, 2M ones down.
  Gfn next_small_, next_large_;
  u64 tail_;  ///< frames never used above the last whole 2M block
  std::vector<Gfn> free_small_, free_pairs_, free_large_;
  std::vector<std::unique_ptr<Chunk>> counts_;
  u64 in_use_ = 0;
};

/// The kernel takes or drops a reference: a store to the frame's struct page, where Linux counts.
inline void write_page_struct(Vcpu& vcpu, const FrameAllocator& frames, Gfn frame) {
  vcpu.store<u64>(page_struct(frame), frames.references(frame));
}

}  // namespace mmuscope
