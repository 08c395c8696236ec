#include "core/memory_map.h"

#include <string>
#include <utility>

#include "core/error.h"
#include "core/random.h"

namespace mmuscope {

namespace {

constexpr u64 frames_in(PageSize size) { return page_bytes(size) / kPageBytes; }

}  // namespace

MemoryMap::MemoryMap(PhysicalMemory& memory, u64 bytes) : memory_(&memory), bytes_(bytes) {}

MemoryMap::MemoryMap(PhysicalMemory& memory, u64 bytes, const Policy& policy)
    : MemoryMap(memory, bytes) {
  page_ = policy.page;
  for (unsigned size = 0; size <= static_cast<unsigned>(page_); ++size) {
    const u64 chunk_bytes = page_bytes(static_cast<PageSize>(size)) * kEntriesPerTable;
    chunks_[size].resize((bytes + chunk_bytes - 1) / chunk_bytes);
  }
  if (policy.fragmented == 0 || page_ == PageSize::k4K) return;
  Random random(policy.seed);
  const auto fragmented = [&] { return random.chance(policy.fragmented, 1'000'000); };
  const u64 regions = (bytes + page_bytes(PageSize::k2M) - 1) / page_bytes(PageSize::k2M);
  PageSize above = page_;
  for (u64 region = 0; region < regions; ++region) {
    if (page_ == PageSize::k1G && region % kEntriesPerTable == 0) {
      above = fragmented() ? PageSize::k2M : PageSize::k1G;
    }
    regions_.push_back(above == PageSize::k2M && fragmented() ? PageSize::k4K : above);
  }
}

MemoryMap MemoryMap::identity(PhysicalMemory& memory, u64 bytes) {
  MemoryMap map(memory, bytes);
  map.identity_ = true;
  return map;
}

std::optional<Backing> MemoryMap::find(Gfn g) const {
  if (!contains(g)) return std::nullopt;
  if (identity_) return Backing{Hfn(g.raw()), page_};
  const PageSize size = size_at(g);
  const u64 unit = g.raw() / frames_in(size);
  const auto& chunk = chunks_[static_cast<unsigned>(size)][unit / kEntriesPerTable];
  if (!chunk) return std::nullopt;
  const u64 entry = (*chunk)[unit % kEntriesPerTable];
  if (entry == 0) return std::nullopt;
  const Hfn frame(entry - 1 + g.raw() % frames_in(size));
  return Backing{frame, size, !merged_.empty() && merged_.count(frame.raw()) != 0};
}

u64& MemoryMap::entry_of(Gfn g, PageSize size) {
  const u64 unit = g.raw() / frames_in(size);
  auto& chunk = chunks_[static_cast<unsigned>(size)][unit / kEntriesPerTable];
  if (!chunk) chunk = std::make_unique<Chunk>();
  return (*chunk)[unit % kEntriesPerTable];
}

Backing MemoryMap::back(Gfn g) {
  if (const auto found = find(g)) return *found;
  if (!contains(g)) {
    throw RunError("the guest used frame " + std::to_string(g.raw()) + ", beyond its memory of " +
                   std::to_string(bytes_ >> kPageShift) + " frames");
  }
  const PageSize size = size_at(g);
  entry_of(g, size) = memory_->allocate_backing(size).raw() + 1;
  return *find(g);
}

void MemoryMap::split(Gfn g) {
  if (size_at(g) == PageSize::k4K) return;
  if (regions_.empty()) {
    const u64 region = page_bytes(PageSize::k2M);
    regions_.assign((bytes_ + region - 1) / region, page_);
  }
  for (PageSize size = size_at(g); size != PageSize::k4K; size = size_at(g)) {
    const u64 whole = std::exchange(entry_of(g, size), 0);
    const auto smaller = static_cast<PageSize>(static_cast<unsigned>(size) - 1);
    const Gfn first(g.raw() / frames_in(size) * frames_in(size));
    for (u64 at = 0; at < frames_in(size); at += frames_in(smaller)) {
      if (!contains(first + at)) break;
      if (whole != 0) entry_of(first + at, smaller) = whole + at;
      const u64 region = (first + at).raw() / frames_in(PageSize::k2M);
      if (size != PageSize::k2M || at == 0) regions_[region] = smaller;
    }
  }
}

u64 MemoryMap::unback(Gfn first, u64 frames) {
  u64 count = 0;
  for (Gfn g = first; g < first + frames;) {
    PageSize size = size_at(g);
    if (!find(g)) {
      g = Gfn(g.raw() / frames_in(size) * frames_in(size)) + frames_in(size);
      continue;
    }
    if (g.raw() % frames_in(size) != 0 || first + frames < g + frames_in(size)) {
      split(g);
      size = PageSize::k4K;
    }
    if (is_merged(g)) unmerge(g);
    memory_->free_backing(Hfn(std::exchange(entry_of(g, size), 0) - 1), size);
    count += frames_in(size);
    g = g + frames_in(size);
  }
  return count;
}

bool MemoryMap::merge(Gfn keep, Gfn gone) {
  if (!find(keep) || !find(gone) || find(gone)->merged) return false;
  split(keep);
  split(gone);
  const Hfn kept = find(keep)->frame;
  u64& entry = entry_of(gone, PageSize::k4K);
  if (entry == kept.raw() + 1) return false;
  memory_->free_backing(Hfn(entry - 1), PageSize::k4K);
  entry = kept.raw() + 1;
  u32& users = merged_.try_emplace(kept.raw(), 1).first->second;
  ++users;
  return true;
}

void MemoryMap::unmerge(Gfn g) {
  const Hfn shared = find(g)->frame;
  const auto users = merged_.find(shared.raw());
  if (--users->second == 0) {
    merged_.erase(users);  // nobody else is left: it is the frame's own
    return;
  }
  const Hfn own = memory_->allocate_backing(PageSize::k4K);
  std::memcpy(memory_->at(own.base()), memory_->at(shared.base()), kPageBytes);
  entry_of(g, PageSize::k4K) = own.raw() + 1;
}

void MemoryMap::back_all() {
  for (Gfn g(0); contains(g); g = g + frames_in(size_at(g))) (void)back(g);
}

PageSize MemoryMap::size_at(Gfn g) const {
  return regions_.empty() ? page_ : regions_[g.raw() / frames_in(PageSize::k2M)];
}

}  // namespace mmuscope
