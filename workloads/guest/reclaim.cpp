#include "workloads/guest/reclaim.h"

#include <algorithm>
#include <cassert>

namespace mmuscope {

namespace {

constexpr std::size_t kBatch = 32;  // Linux, SWAP_CLUSTER_MAX

/// What Linux keeps free, in frames: min_free_kbytes is the square root of 16 times the memory in
/// KBytes, at least 128 (init_per_zone_wmark_min).
u64 min_free(u64 frames) {
  const u64 square = frames * (kPageBytes / 1024) * 16;
  u64 kbytes = 128;
  while ((kbytes + 4) * (kbytes + 4) <= square) kbytes += 4;
  return kbytes / (kPageBytes / 1024);
}

}  // namespace

Reclaim::Reclaim(FrameAllocator& frames, GuestTlb& tlb, KernelStatistics& statistics, Gfn first,
                 u64 pages)
    : frames_(frames),
      tlb_(tlb),
      statistics_(statistics),
      first_(first),
      watermark_(min_free(frames.free())),
      slots_(pages) {
  for (std::size_t i = pages; i > 0; --i) free_slots_.push_back(i - 1);
}

void Reclaim::note(Gfn frame, AddressSpace& space, Gpa entry) {
  if (on() && !frames_.is_large(frame)) mappings_[frame].push_back({&space, entry});
}

void Reclaim::forget(Gfn frame, Gpa entry) {
  if (!on()) return;
  const auto known = mappings_.find(frame);
  if (known == mappings_.end()) return;
  std::vector<Mapping>& all = known->second;
  all.erase(
      std::find_if(all.begin(), all.end(), [entry](const Mapping& m) { return m.entry == entry; }));
  if (all.empty()) mappings_.erase(known);
}

std::size_t Reclaim::mappings(Gfn frame) const {
  const auto known = mappings_.find(frame);
  return known == mappings_.end() ? 0 : known->second.size();
}

void Reclaim::put(u64 entry) {
  const std::size_t slot = slot_of(entry);
  assert(slots_[slot] > 0 && "a free swap slot is released");
  if (--slots_[slot] == 0) free_slots_.push_back(slot);
}

void Reclaim::read(Vcpu& vcpu, u64 entry, Gfn to) const {
  vcpu.copy(direct_map(to.base()), direct_map(frame_of_slot(slot_of(entry)).base()), kPageBytes);
}

std::vector<Gfn> Reclaim::candidates(Spaces& spaces) {
  std::vector<Gfn> chosen;
  const std::size_t most = std::min(kBatch, mappings_.size());
  for (auto at = mappings_.upper_bound(hand_); chosen.size() < most; ++at) {
    if (at == mappings_.end()) at = mappings_.begin();
    hand_ = at->first;
    chosen.push_back(hand_);
    for (const Mapping& m : at->second) {
      // One without users is being torn down, by someone who needs no lock for it.
      if (m.space->users == 0 || !spaces.emplace(m.space->id, m.space->shared_from_this()).second) {
        continue;
      }
      ++m.space->users;
    }
  }
  return chosen;
}

bool Reclaim::is_old(Vcpu& vcpu, Gfn frame, const Spaces& spaces, Spaces& changed) {
  const auto known = mappings_.find(frame);
  if (known == mappings_.end()) return false;  // gone while the locks were waited for
  const std::vector<Mapping> all = known->second;
  for (const Mapping& m : all) {
    if (spaces.count(m.space->id) == 0) return false;
  }
  // Linux, folio_referenced_one.
  bool old = true;
  for (const Mapping& m : all) {
    const u64 entry = PageTables::read(vcpu, m.entry);
    if (!(entry & x86::kAccessed) || !(entry & x86::kPresent)) continue;
    old = false;
    PageTables::clear_bits(vcpu, m.entry, entry, x86::kAccessed);
    changed.emplace(m.space->id, spaces.at(m.space->id));
  }
  return old;
}

void Reclaim::unmap(Vcpu& vcpu, Gfn frame, std::size_t slot, Spaces& changed) {
  // Linux, try_to_unmap_one: for everyone who has the page.
  const std::vector<Mapping> all = mappings_.at(frame);
  for (const Mapping& m : all) {
    const u64 old = PageTables::take(vcpu, m.entry);
    PageTables::write(vcpu, m.entry, entry_for(slot));
    ++slots_[slot];
    if (old & x86::kPresent) changed.emplace(m.space->id, m.space->shared_from_this());
  }
}

u64 Reclaim::shrink(Vcpu& vcpu, const std::vector<Gfn>& frames, const Spaces& spaces) {
  Spaces changed;
  std::vector<std::pair<Gfn, std::size_t>> victims;
  for (const Gfn frame : frames) {
    if (!is_old(vcpu, frame, spaces, changed) || free_slots_.empty()) continue;
    victims.emplace_back(frame, free_slots_.back());
    free_slots_.pop_back();
    unmap(vcpu, frame, victims.back().second, changed);
  }
  // One shootdown for all, before any page is taken for what it now holds. Linux,
  // try_to_unmap_flush, which flushes everything, too.
  for (const auto& [id, space] : changed) {
    tlb_.flush(vcpu, *space, {Gva(0), kLowerHalfEnd, PageSize::k4K, true});
  }
  for (const auto& [frame, slot] : victims) {
    vcpu.copy(direct_map(frame_of_slot(slot).base()), direct_map(frame.base()), kPageBytes);
    const std::size_t users = mappings_.at(frame).size();
    mappings_.erase(frame);
    for (std::size_t i = 0; i < users; ++i) frames_.release(frame);
    write_page_struct(vcpu, frames_, frame);
    ++statistics_.swapped_out;
  }
  return victims.size();
}

}  // namespace mmuscope
