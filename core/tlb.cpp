#include "core/tlb.h"

#include <algorithm>
#include <bit>

namespace mmuscope {

TlbLevel::TlbLevel(const std::vector<TlbGeometry>& banks) {
  u32 slots = 0;
  for (const TlbGeometry& g : banks) {
    const u32 sets = g.entries / g.ways;
    banks_.push_back({slots, sets, g.ways, std::has_single_bit(sets) ? sets - 1 : 0, g.sizes});
    slots += g.entries;
  }
  for (unsigned size = 0; size < kPageSizes; ++size) {
    unsigned n = 0;
    for (const Bank& b : banks_) {
      if ((b.sizes & (1u << size)) && n < 2) banks_of_[size][n++] = &b;
    }
  }
  tags_.resize(slots + 3);
  stamps_.resize(slots);
  entries_.resize(slots);
  // Several times as many hints as entries, so that pages in use seldom share one.
  const u32 hints = std::max(u32{1024}, 2 * std::bit_ceil(slots));
  hints_.resize(hints);
  hint_mask_ = hints - 1;
}

void TlbLevel::drop(u32 slot) {
  --live_[static_cast<unsigned>(entries_[slot].size)];
  entries_[slot] = TlbEntry{};
  tags_[slot] = 0;
  stamps_[slot] = 0;
}

void TlbLevel::invalidate(const FlushMatch& match) {
  if (live() == 0) return;
  for (u32 slot = 0; slot < entries_.size(); ++slot) {
    if (tags_[slot] != 0 && entries_[slot].matches(match)) drop(slot);
  }
}

void TlbLevel::invalidate_page(Gva va, const FlushMatch& match) {
  for (unsigned s = 0; s < kPageSizes; ++s) {
    if (live_[s] == 0) continue;
    const auto size = static_cast<PageSize>(s);
    const u64 page = va.align_down(size).raw();
    const auto [begin, end] = set_for(va, size);
    for (u32 slot = begin; slot < end; ++slot) {
      const TlbEntry& e = entries_[slot];
      if (e.va == page && e.size == size && e.matches(match)) drop(slot);
    }
  }
}

Tlb::Tlb(const CpuModel& cpu) {
  const auto add = [](std::vector<TlbLevel>& levels, const std::vector<TlbGeometry>& banks) {
    levels.emplace_back(banks);
    return static_cast<u8>(levels.size() - 1);
  };
  const u8 load = add(first_, cpu.l1_load);
  const u8 store = cpu.l1_store.empty() ? load : add(first_, cpu.l1_store);
  first_of_ = {load, store, add(first_, cpu.l1_fetch)};
  if (!cpu.l2_data.empty()) {
    const u8 data = add(second_, cpu.l2_data);
    second_of_ = {data, data, cpu.l2_fetch.empty() ? data : add(second_, cpu.l2_fetch)};
  }
}

TlbLevel* Tlb::second(AccessKind kind) {
  return second_.empty() ? nullptr : &second_[second_of_[static_cast<unsigned>(kind)]];
}

const TlbEntry* Tlb::find_second(AccessKind kind, Gva va, Context context, u64 now) {
  TlbLevel* l2 = second(kind);
  if (l2 == nullptr) return nullptr;
  const u32 slot = l2->find(va, context);
  if (slot == TlbLevel::kNone) return nullptr;
  l2->touch(slot, now);
  return &l2->entry(slot);
}

const TlbEntry& Tlb::fill_first(AccessKind kind, Gva va, const TlbEntry& entry, u64 now) {
  TlbLevel& l1 = first(kind);
  PageSize size = entry.size;
  while (!l1.holds(size)) size = static_cast<PageSize>(static_cast<unsigned>(size) - 1);
  return l1.entry(l1.insert(va, size == entry.size ? entry : part_of(entry, va, size), now));
}

TlbEntry Tlb::part_of(const TlbEntry& entry, Gva va, PageSize size) {
  TlbEntry part = entry;
  part.va = va.align_down(size).raw();
  part.offset_mask = static_cast<u32>(page_bytes(size) - 1);
  part.size = size;
  part.data = entry.data + (part.va - entry.va);
  return part;
}

const TlbEntry& Tlb::fill(AccessKind kind, Gva va, const TlbEntry& entry, u64 now) {
  const TlbEntry& cached = fill_first(kind, va, entry, now);
  TlbLevel* l2 = second(kind);
  if (l2 != nullptr && l2->holds(cached.size)) l2->insert(va, cached, now);
  return cached;
}

void Tlb::invalidate(const FlushMatch& match) {
  for (TlbLevel& l : first_) l.invalidate(match);
  for (TlbLevel& l : second_) l.invalidate(match);
}

void Tlb::invalidate_page(Gva va, const FlushMatch& match) {
  for (TlbLevel& l : first_) l.invalidate_page(va, match);
  for (TlbLevel& l : second_) l.invalidate_page(va, match);
}

}  // namespace mmuscope
