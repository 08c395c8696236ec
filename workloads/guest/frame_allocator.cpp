#include "workloads/guest/frame_allocator.h"

#include <algorithm>
#include <cassert>
#include <string>

#include "core/error.h"

namespace mmuscope {

namespace {
constexpr u64 kFramesIn2M = page_bytes(PageSize::k2M) / kPageBytes;
}  // namespace

FrameAllocator::FrameAllocator(Gfn first, Gfn end)
    : end_(end),
      next_small_(first),
      next_large_(std::max(first, Gfn(end.raw() / kFramesIn2M * kFramesIn2M))),
      tail_(end - next_large_),
      counts_(end.raw() / kChunk + 1) {}

Gfn FrameAllocator::allocate(PageSize size) {
  const Gfn frame = size == PageSize::k4K ? take_small() : take_large();
  assert(references(frame) == 0 && "a frame is owned twice");
  count(frame) = 1;
  in_use_ += page_bytes(size) / kPageBytes;
  return frame;
}

Gfn FrameAllocator::allocate_pair() {
  const Gfn first = take_pair();
  assert(references(first) == 0 && references(first + 1) == 0 && "a frame is owned twice");
  count(first) = count(first + 1) = 1;
  in_use_ += 2;
  return first;
}

Gfn FrameAllocator::take_pair() {
  if (!free_pairs_.empty()) {
    const Gfn first = free_pairs_.back();
    free_pairs_.pop_back();
    return first;
  }
  if (next_small_.raw() % 2 == 1 && next_small_ < next_large_) {
    free_small_.push_back(next_small_);
    next_small_ = next_small_ + 1;
  }
  if (next_small_ + 2 <= next_large_) {
    next_small_ = next_small_ + 2;
    return Gfn(next_small_.raw() - 2);
  }
  const Gfn block = take_large();
  for (u64 i = kFramesIn2M; i > 2; i -= 2) free_pairs_.push_back(block + (i - 2));
  return block;
}

Gfn FrameAllocator::take_small() {
  if (free_small_.empty()) {
    if (next_small_ < next_large_) {
      next_small_ = next_small_ + 1;
      return Gfn(next_small_.raw() - 1);
    }
    // What is left of memory above the last whole 2M block, then a free block, cut up.
    if (tail_ > 0) return Gfn(end_.raw() - tail_--);
    if (!free_pairs_.empty()) {
      const Gfn first = free_pairs_.back();
      free_pairs_.pop_back();
      free_small_.push_back(first + 1);
      return first;
    }
    if (free_large_.empty()) out_of_memory();
    const Gfn block = free_large_.back();
    free_large_.pop_back();
    for (u64 i = kFramesIn2M; i-- > 0;) free_small_.push_back(block + i);
  }
  const Gfn frame = free_small_.back();
  free_small_.pop_back();
  return frame;
}

Gfn FrameAllocator::take_large() {
  if (!free_large_.empty()) {
    const Gfn frame = free_large_.back();
    free_large_.pop_back();
    return frame;
  }
  if (next_small_ + kFramesIn2M > next_large_) out_of_memory();
  next_large_ = Gfn(next_large_.raw() - kFramesIn2M);
  return next_large_;
}

void FrameAllocator::out_of_memory() const {
  throw RunError("the guest is out of memory: it has " + std::to_string(end_.base().raw() >> 20) +
                 " MiB, of which " + std::to_string(in_use_ * kPageBytes >> 20) +
                 " MiB are in use");
}

void FrameAllocator::release(Gfn frame, PageSize size) {
  u32& references = count(frame);
  assert(references > 0 && "a free frame is released");
  if (--references > 0) return;
  in_use_ -= page_bytes(size) / kPageBytes;
  (size == PageSize::k4K ? free_small_ : free_large_).push_back(frame);
}

void FrameAllocator::release_pair(Gfn first) {
  assert(references(first) == 1 && references(first + 1) == 1 && "a free frame is released");
  count(first) = count(first + 1) = 0;
  in_use_ -= 2;
  free_pairs_.push_back(first);
}

u32 FrameAllocator::references(Gfn frame) const {
  const auto& chunk = counts_[frame.raw() / kChunk];
  return chunk ? (*chunk)[frame.raw() % kChunk] : 0;
}

u32& FrameAllocator::count(Gfn frame) {
  auto& chunk = counts_[frame.raw() / kChunk];
  if (!chunk) chunk = std::make_unique<Chunk>();
  return (*chunk)[frame.raw() % kChunk];
}

}  // namespace mmuscope
