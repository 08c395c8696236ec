#pragma once

#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "core/vcpu.h"
#include "workloads/guest/direct_map.h"

namespace mmuscope {

/// Gives out the guest's frames and counts the references to them. What was freed last is given
/// out first, so frames soon have a second life, as data or as a table. Memory it needs follows the
/// number of frames in use. 2M blocks are cut into small frames where these run out, and put
/// together again when a large one is wanted and all its frames are free.
///
/// A large frame has one count, that of its first frame, whichever of its frames is named (Linux's
/// folio).
class FrameAllocator {
 public:
  /// Frames [first, end) are free.
  FrameAllocator(Gfn first, Gfn end);

  /// A frame (4K), or the first of 512 that are naturally aligned (2M), with one reference. Its
  /// contents are whatever they were. Throws RunError when the guest has no memory left.
  Gfn allocate(PageSize size = PageSize::k4K);
  /// Makes 512 frames with a reference each of a large one with one reference.
  void split(Gfn first);
  /// A 2M frame, if there is one.
  std::optional<Gfn> try_allocate_large();
  /// Two frames whose address is a multiple of both (Linux, alloc_pages of order 1), a reference
  /// each.
  Gfn allocate_pair();
  void release_pair(Gfn first);
  /// References more to an allocated frame.
  void share(Gfn frame, u32 more = 1) { count(head(frame)) += more; }
  /// One reference less; without any the frame is free again.
  void release(Gfn frame);
  u32 references(Gfn frame) const { return word(head(frame)) & ~kExclusive; }
  /// True if the frame belongs to a large one; which begins at head().
  bool is_large(Gfn frame) const { return large_[frame.raw() / kFramesInLarge]; }
  Gfn head(Gfn frame) const {
    return is_large(frame) ? Gfn(frame.raw() / kFramesInLarge * kFramesInLarge) : frame;
  }
  /// Of one of a large frame's frames, mapped by itself: nobody else has it (PageAnonExclusive).
  bool is_exclusive(Gfn frame) const { return (word(frame) & kExclusive) != 0; }
  void set_exclusive(Gfn frame, bool on);
  /// At most so many free 2M blocks that have been in use since they were last named here.
  std::vector<Gfn> take_unreported(std::size_t most);
  /// 4K frames allocated now, and free.
  u64 in_use() const { return in_use_; }
  u64 free() const { return frames_ - in_use_; }

 private:
  static constexpr unsigned kChunk = 4096;
  static constexpr u64 kFramesInLarge = page_bytes(PageSize::k2M) / kPageBytes;
  static constexpr u32 kExclusive = u32{1} << 31;
  using Chunk = std::array<u32, kChunk>;
  u32& count(Gfn frame);
  u32 word(Gfn frame) const;
  void push_small(Gfn frame);
  void push_pair(Gfn first);
  Gfn pop_small();
  Gfn pop_pair();
  /// `change` frames more in the lists of free small ones, of the frame's block.
  void note_free(Gfn frame, int change);
  /// Puts blocks together whose frames are all free.
  void unite();
  /// Puts pairs together whose frames are both free.
  void unite_pairs();
  Gfn take_small();
  std::optional<Gfn> take_large();
  Gfn pop_large();
  Gfn take_pair();
  [[noreturn]] void out_of_memory() const;

  Gfn end_;
  u64 frames_;
  /// Never used yet: [next_small_, next_large_). Small frames grow up, 2M ones down.
  Gfn next_small_, next_large_;
  u64 tail_;  ///< frames never used above the last whole 2M block
  std::vector<Gfn> free_small_, free_pairs_, free_large_;
  std::vector<std::unique_ptr<Chunk>> counts_;
  std::vector<bool> large_;         // by 2M block: it is allocated as one
  std::vector<u16> free_in_block_;  // by 2M block: its frames in free_small_ and free_pairs_
  std::vector<bool> reported_;      // by 2M block: it is free, and the host knows
  u64 whole_blocks_ = 0;            // those of which all frames are
  u64 in_use_ = 0;
};

/// The kernel takes or drops a reference: a store to the frame's struct page, where Linux counts.
inline void write_page_struct(Vcpu& vcpu, const FrameAllocator& frames, Gfn frame) {
  vcpu.store<u64>(page_struct(frames.head(frame)), frames.references(frame));
}

}  // namespace mmuscope
