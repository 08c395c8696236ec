#pragma once

#include <map>
#include <vector>

#include "workloads/guest/guest_tlb.h"
#include "workloads/guest/page_tables.h"

namespace mmuscope {

/// Which entries map a small private page, and where pages that had to go are: Linux's rmap and
/// swap. Does nothing unless there is a device to swap to: a range of persistent memory at the top
/// of the guest's memory, which the CPU copies to and from.
///
/// Victims are chosen by a clock over the frames: a page that was accessed since the hand last came
/// by has its A bits cleared and stays. What lost its A bits is flushed before anybody relies on
/// that. Linux does not flush there (ptep_clear_flush_young of arch/x86): a TLB that still holds
/// the page may then leave A clear though the page is used, which costs Linux a wrong guess and
/// would make the guest do different things under different pagers here.
class Reclaim {
 public:
  /// Frames [first, first + pages) are the device.
  Reclaim(FrameAllocator& frames, GuestTlb& tlb, KernelStatistics& statistics, Gfn first,
          u64 pages);
  bool on() const { return !slots_.empty(); }
  /// Frames that only the kernel itself may take (WMARK_MIN).
  u64 watermark() const { return watermark_; }

  /// The entry at `entry` of the space maps the frame from now on, or no longer. Of frames that
  /// were never noted, `forget` knows nothing.
  void note(Gfn frame, AddressSpace& space, Gpa entry);
  void forget(Gfn frame, Gpa entry);
  bool knows(Gfn frame) const { return mappings_.count(frame) != 0; }

  /// Brings the free frames to the upper watermark if they are below the lower one (plus `more`).
  /// The caller holds no lock. Ends early when nothing can be swapped out. There are `count_huge`
  /// huge pages; `age_huge` looks at one, splits it if it was not used, and is false if there is
  /// none.
  template <class Put, class CountHuge, class AgeHuge>
  void make_room(Vcpu& vcpu, u64 more, Put&& put_space, CountHuge&& count_huge, AgeHuge&& age_huge);

  /// One user more of what a swapped entry refers to, or one less.
  void share(u64 entry) { ++slots_[slot_of(entry)]; }
  void put(u64 entry);
  /// Copies it to a frame.
  void read(Vcpu& vcpu, u64 entry, Gfn to) const;
  u32 users(u64 entry) const { return slots_[slot_of(entry)]; }
  u64 slots_in_use() const { return slots_.size() - free_slots_.size(); }
  /// How many entries map the frame, as far as it was noted.
  std::size_t mappings(Gfn frame) const;

 private:
  struct Mapping {
    AddressSpace* space;
    Gpa entry;
  };
  using Spaces = std::map<u64, std::shared_ptr<AddressSpace>>;  // by number: the order of locking

  static std::size_t slot_of(u64 entry) { return entry >> kPageShift; }
  static u64 entry_for(std::size_t slot) { return u64{slot} << kPageShift | pte::kSwapped; }
  Gfn frame_of_slot(std::size_t slot) const { return first_ + slot; }
  u64 low_watermark() const { return watermark_ + watermark_ / 4; }
  u64 high_watermark() const { return watermark_ + watermark_ / 2; }
  /// The next frames of the clock, and whose they are.
  std::vector<Gfn> candidates(Spaces& spaces);
  /// Looks at them, all locks held, and swaps out what was not used; how many frames are free now.
  u64 shrink(Vcpu& vcpu, const std::vector<Gfn>& frames, const Spaces& spaces);
  bool is_old(Vcpu& vcpu, Gfn frame, const Spaces& spaces, Spaces& changed);
  void unmap(Vcpu& vcpu, Gfn frame, std::size_t slot, Spaces& changed);

  FrameAllocator& frames_;
  GuestTlb& tlb_;
  KernelStatistics& statistics_;
  Gfn first_;
  u64 watermark_;
  std::vector<u32> slots_;  // users of each
  std::vector<std::size_t> free_slots_;
  std::map<Gfn, std::vector<Mapping>> mappings_;
  Gfn hand_{0};
  bool busy_ = false;
};

template <class Put, class CountHuge, class AgeHuge>
void Reclaim::make_room(Vcpu& vcpu, u64 more, Put&& put_space, CountHuge&& count_huge,
                        AgeHuge&& age_huge) {
  if (!on()) return;
  // Who needs memory now waits for the one who makes some. Linux, throttle_direct_reclaim.
  while (busy_ && frames_.free() < watermark_ / 2 + more) vcpu.give_way();
  if (busy_ || frames_.free() >= low_watermark() + more) return;
  busy_ = true;
  // Twice round all frames: the first time may find every page accessed. Those of a huge page are
  // looked at once more when it is split.
  u64 left = 2 * mappings_.size() + 3 * kEntriesPerTable * count_huge() + 1;
  while (left > 0 && frames_.free() < high_watermark() + more && !free_slots_.empty()) {
    const u64 aged = age_huge(vcpu) ? kEntriesPerTable : 0;
    Spaces spaces;
    const std::vector<Gfn> chosen = candidates(spaces);
    if (chosen.empty() && aged == 0) break;
    left -= std::min<u64>(left, chosen.size() + aged);
    {
      std::vector<std::unique_ptr<SpaceLock>> locks;
      for (const auto& [id, space] : spaces) {
        locks.push_back(std::make_unique<SpaceLock>(vcpu, *space));
      }
      shrink(vcpu, chosen, spaces);
    }
    for (const auto& [id, space] : spaces) put_space(vcpu, space);
  }
  busy_ = false;
}

}  // namespace mmuscope
