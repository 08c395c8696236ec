#include "core/memory_map.h"

#include <string>

#include "core/error.h"

namespace mmuscope {

namespace {

constexpr u64 frames_in(PageSize size) { return page_bytes(size) / kPageBytes; }

}  // namespace

MemoryMap::MemoryMap(PhysicalMemory& memory, u64 bytes) : memory_(&memory), bytes_(bytes) {}

MemoryMap::MemoryMap(PhysicalMemory& memory, u64 bytes, PageSize page) : MemoryMap(memory, bytes) {
  page_ = page;
  const u64 chunk_bytes = page_bytes(page) * kEntriesPerTable;
  chunks_.resize((bytes + chunk_bytes - 1) / chunk_bytes);
}

MemoryMap MemoryMap::identity(PhysicalMemory& memory, u64 bytes) {
  MemoryMap map(memory, bytes);
  map.identity_ = true;
  return map;
}

std::optional<Backing> MemoryMap::find(Gfn g) const {
  if (!contains(g)) return std::nullopt;
  if (identity_) return Backing{Hfn(g.raw()), page_};
  const u64 unit = g.raw() / frames_in(page_);
  const auto& chunk = chunks_[unit / kEntriesPerTable];
  if (!chunk) return std::nullopt;
  const u64 entry = (*chunk)[unit % kEntriesPerTable];
  if (entry == 0) return std::nullopt;
  return Backing{Hfn(entry - 1 + g.raw() % frames_in(page_)), page_};
}

Backing MemoryMap::back(Gfn g) {
  if (const auto found = find(g)) return *found;
  if (!contains(g)) {
    throw RunError("the guest used frame " + std::to_string(g.raw()) + ", beyond its memory of " +
                   std::to_string(bytes_ >> kPageShift) + " frames");
  }
  const u64 unit = g.raw() / frames_in(page_);
  auto& chunk = chunks_[unit / kEntriesPerTable];
  if (!chunk) chunk = std::make_unique<Chunk>();
  (*chunk)[unit % kEntriesPerTable] = memory_->allocate_backing(page_).raw() + 1;
  return *find(g);
}

}  // namespace mmuscope
