#include "shadow/reverse_map.h"

namespace mmuscope {

ReverseMap::ReverseMap(u64 memory_bytes) {
  for (unsigned s = 0; s < kPageSizes; ++s) {
    const u64 frames = (memory_bytes >> page_shift(static_cast<PageSize>(s))) + 1;
    chunks_[s].resize(frames / kChunk + 1);
  }
}

ReverseMap::~ReverseMap() {
  // The notes on the lists belong to the shadow pages, which may be gone before.
  for (auto& size : chunks_) {
    for (auto& chunk : size) {
      if (!chunk) continue;
      for (FrameUse& use : *chunk) use.mappings.clear();
    }
  }
}

FrameUse& ReverseMap::at(Gfn gfn, PageSize size) {
  const u64 u = unit(gfn, size);
  auto& chunk = chunks_[static_cast<unsigned>(size)][u / kChunk];
  if (!chunk) chunk = std::make_unique<Chunk>();
  return (*chunk)[u % kChunk];
}

FrameUse* ReverseMap::find(Gfn gfn, PageSize size) const {
  const u64 u = unit(gfn, size);
  const auto& chunk = chunks_[static_cast<unsigned>(size)][u / kChunk];
  return chunk ? &(*chunk)[u % kChunk] : nullptr;
}

}  // namespace mmuscope
