#pragma once

#include <array>
#include <memory>
#include <vector>

#include "shadow/shadow_page.h"

namespace mmuscope {

/// What the shadow tables do with a guest frame, or with the large frame around it.
struct FrameUse {
  EntryList mappings;  ///< leaf entries of exactly this size that map it
  /// 4K: shadow pages for whose sake it stays read-only as long as they live.
  /// 2M, 1G: shadow pages of tables inside, for whose sake nothing maps it as one page.
  u32 tables = 0;
};

/// From guest frames to the shadow entries that map them, by page size. KVM's rmap, write_track and
/// lpage_info arrays.
class ReverseMap {
 public:
  explicit ReverseMap(u64 memory_bytes);
  ~ReverseMap();

  /// The record of the frame of that size around gfn.
  FrameUse& at(Gfn gfn, PageSize size);
  /// The same if there has ever been one, else null.
  FrameUse* find(Gfn gfn, PageSize size) const;

 private:
  static constexpr u64 kChunk = 64;
  using Chunk = std::array<FrameUse, kChunk>;
  static u64 unit(Gfn gfn, PageSize size) { return gfn.raw() >> (page_shift(size) - kPageShift); }

  std::array<std::vector<std::unique_ptr<Chunk>>, kPageSizes> chunks_;
};

}  // namespace mmuscope
