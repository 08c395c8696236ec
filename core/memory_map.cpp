#include "core/memory_map.h"

#include <string>

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
  return Backing{Hfn(entry - 1 + g.raw() % frames_in(size)), size};
}

Backing MemoryMap::back(Gfn g) {
  if (const auto found = find(g)) return *found;
  if (!contains(g)) {
    throw RunError("the guest used frame " + std::to_string(g.raw()) + ", beyond its memory of " +
                   std::to_string(bytes_ >> kPageShift) + " frames");
  }
  const PageSize size = size_at(g);
  const u64 unit = g.raw() / frames_in(size);
  auto& chunk = chunks_[static_cast<unsigned>(size)][unit / kEntriesPerTable];
  if (!chunk) chunk = std::make_unique<Chunk>();
  (*chunk)[unit % kEntriesPerTable] = memory_->allocate_backing(size).raw() + 1;
  return *find(g);
}

void MemoryMap::back_all() {
  for (Gfn g(0); contains(g); g = g + frames_in(size_at(g))) (void)back(g);
}

PageSize MemoryMap::size_at(Gfn g) const {
  return regions_.empty() ? page_ : regions_[g.raw() / frames_in(PageSize::k2M)];
}

}  // namespace mmuscope
