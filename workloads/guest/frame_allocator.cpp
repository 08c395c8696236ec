#include "workloads/guest/frame_allocator.h"

#include <algorithm>
#include <cassert>
#include <string>

#include "core/error.h"

namespace mmuscope {

FrameAllocator::FrameAllocator(Gfn first, Gfn end)
    : end_(end),
      frames_(end - first),
      next_small_(first),
      next_large_(std::max(first, Gfn(end.raw() / kFramesInLarge * kFramesInLarge))),
      tail_(end - next_large_),
      counts_(end.raw() / kChunk + 1),
      large_(end.raw() / kFramesInLarge + 1),
      free_in_block_(end.raw() / kFramesInLarge + 1),
      reported_(end.raw() / kFramesInLarge + 1) {}

Gfn FrameAllocator::allocate(PageSize size) {
  if (size == PageSize::k2M) {
    const auto frame = try_allocate_large();
    if (!frame) out_of_memory();
    return *frame;
  }
  const Gfn frame = take_small();
  assert(word(frame) == 0 && "a frame is owned twice");
  count(frame) = 1;
  ++in_use_;
  return frame;
}

std::optional<Gfn> FrameAllocator::try_allocate_large() {
  const auto first = take_large();
  if (!first) return std::nullopt;
  assert(word(*first) == 0 && "a frame is owned twice");
  large_[first->raw() / kFramesInLarge] = true;
  count(*first) = 1;
  in_use_ += kFramesInLarge;
  return first;
}

void FrameAllocator::split(Gfn first) {
  assert(is_large(first) && head(first) == first && references(first) == 1);
  large_[first.raw() / kFramesInLarge] = false;
  for (u64 i = 0; i < kFramesInLarge; ++i) count(first + i) = 1;
}

Gfn FrameAllocator::allocate_pair() {
  const Gfn first = take_pair();
  assert(word(first) == 0 && word(first + 1) == 0 && "a frame is owned twice");
  count(first) = count(first + 1) = 1;
  in_use_ += 2;
  return first;
}

Gfn FrameAllocator::take_pair() {
  if (!free_pairs_.empty()) return pop_pair();
  if (next_small_.raw() % 2 == 1 && next_small_ < next_large_) {
    push_small(next_small_);
    next_small_ = next_small_ + 1;
  }
  if (next_small_ + 2 <= next_large_) {
    next_small_ = next_small_ + 2;
    return Gfn(next_small_.raw() - 2);
  }
  if (const auto block = take_large()) {
    for (u64 i = kFramesInLarge; i > 2; i -= 2) push_pair(*block + (i - 2));
    return *block;
  }
  unite_pairs();
  if (free_pairs_.empty()) out_of_memory();
  return pop_pair();
}

void FrameAllocator::unite_pairs() {
  for (; tail_ > 0; --tail_) push_small(Gfn(end_.raw() - tail_));
  std::vector<Gfn> sorted = free_small_;
  std::sort(sorted.begin(), sorted.end());
  const auto is_free = [&sorted](Gfn f) {
    return std::binary_search(sorted.begin(), sorted.end(), f);
  };
  const auto other = [](Gfn f) { return Gfn(f.raw() ^ 1); };
  const auto paired = [&](Gfn f) { return is_free(other(f)); };
  for (const Gfn f : sorted) {
    if (f.raw() % 2 == 0 && paired(f)) free_pairs_.push_back(f);
  }
  free_small_.erase(std::remove_if(free_small_.begin(), free_small_.end(), paired),
                    free_small_.end());
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
      const Gfn first = pop_pair();
      push_small(first + 1);
      return first;
    }
    if (free_large_.empty()) out_of_memory();
    const Gfn block = pop_large();
    for (u64 i = kFramesInLarge; i-- > 0;) push_small(block + i);
  }
  return pop_small();
}

std::optional<Gfn> FrameAllocator::take_large() {
  if (free_large_.empty() && next_small_ + kFramesInLarge > next_large_) unite();
  if (!free_large_.empty()) return pop_large();
  if (next_small_ + kFramesInLarge > next_large_) return std::nullopt;
  next_large_ = Gfn(next_large_.raw() - kFramesInLarge);
  return next_large_;
}

Gfn FrameAllocator::pop_large() {
  const Gfn frame = free_large_.back();
  free_large_.pop_back();
  reported_[frame.raw() / kFramesInLarge] = false;
  return frame;
}

std::vector<Gfn> FrameAllocator::take_unreported(std::size_t most) {
  unite();
  std::vector<Gfn> blocks;
  for (const Gfn block : free_large_) {
    if (blocks.size() == most) break;
    if (reported_[block.raw() / kFramesInLarge]) continue;
    reported_[block.raw() / kFramesInLarge] = true;
    blocks.push_back(block);
  }
  return blocks;
}

void FrameAllocator::unite() {
  if (whole_blocks_ == 0) return;
  const auto whole = [this](Gfn f) {
    return free_in_block_[f.raw() / kFramesInLarge] == kFramesInLarge;
  };
  free_small_.erase(std::remove_if(free_small_.begin(), free_small_.end(), whole),
                    free_small_.end());
  free_pairs_.erase(std::remove_if(free_pairs_.begin(), free_pairs_.end(), whole),
                    free_pairs_.end());
  for (u64 block = 0; block < free_in_block_.size(); ++block) {
    if (free_in_block_[block] != kFramesInLarge) continue;
    free_in_block_[block] = 0;
    free_large_.push_back(Gfn(block * kFramesInLarge));
  }
  whole_blocks_ = 0;
}

void FrameAllocator::note_free(Gfn frame, int change) {
  u16& free = free_in_block_[frame.raw() / kFramesInLarge];
  whole_blocks_ -= free == kFramesInLarge;
  free = static_cast<u16>(free + change);
  whole_blocks_ += free == kFramesInLarge;
}

void FrameAllocator::push_small(Gfn frame) {
  free_small_.push_back(frame);
  note_free(frame, 1);
}

void FrameAllocator::push_pair(Gfn first) {
  free_pairs_.push_back(first);
  note_free(first, 2);
}

Gfn FrameAllocator::pop_small() {
  const Gfn frame = free_small_.back();
  free_small_.pop_back();
  note_free(frame, -1);
  return frame;
}

Gfn FrameAllocator::pop_pair() {
  const Gfn first = free_pairs_.back();
  free_pairs_.pop_back();
  note_free(first, -2);
  return first;
}

void FrameAllocator::out_of_memory() const {
  throw RunError("the guest is out of memory: it has " + std::to_string(end_.base().raw() >> 20) +
                 " MiB, of which " + std::to_string(in_use_ * kPageBytes >> 20) +
                 " MiB are in use");
}

void FrameAllocator::release(Gfn frame) {
  const Gfn first = head(frame);
  assert(references(first) > 0 && "a free frame is released");
  --count(first);
  if (references(first) > 0) return;
  if (!is_large(first)) {
    --in_use_;
    push_small(first);
    return;
  }
  for (u64 i = 0; i < kFramesInLarge; ++i) set_exclusive(first + i, false);
  large_[first.raw() / kFramesInLarge] = false;
  in_use_ -= kFramesInLarge;
  free_large_.push_back(first);
}

void FrameAllocator::release_pair(Gfn first) {
  assert(references(first) == 1 && references(first + 1) == 1 && "a free frame is released");
  count(first) = count(first + 1) = 0;
  in_use_ -= 2;
  push_pair(first);
}

void FrameAllocator::set_exclusive(Gfn frame, bool on) {
  if (is_exclusive(frame) != on) count(frame) ^= kExclusive;
}

u32 FrameAllocator::word(Gfn frame) const {
  const auto& chunk = counts_[frame.raw() / kChunk];
  return chunk ? (*chunk)[frame.raw() % kChunk] : 0;
}

u32& FrameAllocator::count(Gfn frame) {
  auto& chunk = counts_[frame.raw() / kChunk];
  if (!chunk) chunk = std::make_unique<Chunk>();
  return (*chunk)[frame.raw() % kChunk];
}

}  // namespace mmuscope
