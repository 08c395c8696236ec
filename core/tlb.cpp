#include "core/tlb.h"

#include <algorithm>
#include <cassert>

namespace mmuscope {

TlbLevel::TlbLevel(const std::vector<TlbGeometry>& banks) {
  u32 slots = 0;
  for (const TlbGeometry& g : banks) {
    const u32 sets = g.entries / g.ways;
    for (unsigned size = 0; size < kPageSizes; ++size) {
      if (!(g.sizes & (1u << size))) continue;
      Places& p = places_[size];
      if (p.banks++ == 0) {
        p.first_slot = slots;
        p.sets = sets;
        p.set_mask = sets - 1;
        p.simple = std::has_single_bit(sets);
        p.ways = g.ways;
      } else {
        assert(p.banks == 2 && p.sets == sets && p.ways == g.ways);
        p.other_first_slot = slots;
        p.simple = false;
      }
    }
    slots += g.entries;
  }
  stamps_.resize(slots);
  used_.resize((slots + 63) / 64);
  entries_.resize(slots);
  // Several times as many as entries, so that pages in use seldom share one.
  const u64 directory = std::max(u64{1024}, u64{2} * std::bit_ceil(slots));
  directory_.resize(directory);
  directory_mask_ = directory - 1;
}

u32 TlbLevel::search_set(Gva va, Context context, PageSize size) {
  const u64 page = va.align_down(size).raw();
  const u32 begin = set_begin(va, size);
  const u32 end = begin + places_[static_cast<unsigned>(size)].ways;
  for (u32 slot = begin; slot < end; ++slot) {
    const TlbEntry& e = entries_[slot];
    if (e.va == page && e.size == size && e.answers(va, context)) {
      directory_[index(va)].slot = static_cast<u16>(slot);
      return slot;
    }
  }
  return kNone;
}

u32 TlbLevel::search_large(Gva va, Context context) {
  for (const PageSize size : {PageSize::k2M, PageSize::k1G}) {
    if (places_[static_cast<unsigned>(size)].live == 0) continue;
    if (const u32 slot = search_set(va, context, size); slot != kNone) return slot;
  }
  return kNone;
}

void TlbLevel::drop(u32 slot) {
  count(entries_[slot], -1);
  entries_[slot] = TlbEntry{};
  stamps_[slot] = 0;
  used_[slot / 64] &= ~(u64{1} << slot % 64);
}

void TlbLevel::invalidate(const FlushMatch& match) {
  for (u32 word = 0; word < used_.size(); ++word) {
    for (u64 bits = used_[word]; bits != 0; bits &= bits - 1) {
      const u32 slot = word * 64 + static_cast<u32>(std::countr_zero(bits));
      if (entries_[slot].matches(match)) drop(slot);
    }
  }
}

void TlbLevel::invalidate_page(Gva va, const FlushMatch& match) {
  for (unsigned s = 0; s < kPageSizes; ++s) {
    if (places_[s].live == 0) continue;
    const auto size = static_cast<PageSize>(s);
    const u64 page = va.align_down(size).raw();
    const u32 begin = set_begin(va, size);
    for (u32 slot = begin; slot < begin + places_[s].ways; ++slot) {
      const TlbEntry& e = entries_[slot];
      if (e.va == page && e.size == size && e.matches(match)) drop(slot);
    }
  }
}

void TlbLevel::invalidate_fragments(Gva va, const FlushMatch& match) {
  for (u32 slot = 0; slot < entries_.size(); ++slot) {
    const TlbEntry& e = entries_[slot];
    const u64 apart = (e.va ^ va.raw()) >> page_shift(e.mapped);
    if (e.size < e.mapped && apart == 0 && e.matches(match)) drop(slot);
  }
}

Tlb::Tlb(const CpuModel& cpu) {
  first_.reserve(3);  // levels keep their place: first_of_ and second_of_ point to them
  second_.reserve(2);
  const auto add = [](std::vector<TlbLevel>& levels, const std::vector<TlbGeometry>& banks) {
    return &levels.emplace_back(banks);
  };
  TlbLevel* load = add(first_, cpu.l1_load);
  TlbLevel* store = cpu.l1_store.empty() ? load : add(first_, cpu.l1_store);
  first_of_ = {load, store, add(first_, cpu.l1_fetch)};
  if (cpu.l2_data.empty()) return;
  TlbLevel* data = add(second_, cpu.l2_data);
  second_of_ = {data, data, cpu.l2_fetch.empty() ? data : add(second_, cpu.l2_fetch)};
}

const TlbEntry& Tlb::fill_part(TlbLevel& l1, Gva va, const TlbEntry& entry, u64 now) {
  PageSize size = entry.size;
  while (!l1.holds(size)) size = static_cast<PageSize>(static_cast<unsigned>(size) - 1);
  TlbEntry part = entry;
  part.va = va.align_down(size).raw();
  part.offset_mask = static_cast<u32>(page_bytes(size) - 1);
  part.size = size;
  part.data = entry.data + (part.va - entry.va);
  note_fragment(va, part);
  return l1.entry(l1.insert(va, part, now));
}

const TlbEntry& Tlb::fill(AccessKind kind, Gva va, const TlbEntry& entry, u64 now) {
  if (entry.size < entry.mapped) note_fragment(va, entry);
  const TlbEntry& cached = fill_first(kind, va, entry, now);
  TlbLevel* l2 = second_of_[static_cast<unsigned>(kind)];
  if (l2 != nullptr && l2->holds(cached.size)) l2->insert(va, cached, now);
  return cached;
}

void Tlb::invalidate(const FlushMatch& match) {
  for (TlbLevel& l : first_) l.invalidate(match);
  for (TlbLevel& l : second_) l.invalidate(match);
}

void Tlb::invalidate_page(Gva va, const FlushMatch& match) {
  invalidate_address(va, match);
  if (!(fragments_ & region_bit(va))) return;
  for (TlbLevel& l : first_) l.invalidate_fragments(va, match);
  for (TlbLevel& l : second_) l.invalidate_fragments(va, match);
}

void Tlb::invalidate_address(Gva va, const FlushMatch& match) {
  for (TlbLevel& l : first_) l.invalidate_page(va, match);
  for (TlbLevel& l : second_) l.invalidate_page(va, match);
}

}  // namespace mmuscope
