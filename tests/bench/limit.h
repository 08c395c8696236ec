#pragma once

#include <array>
#include <numeric>
#include <utility>
#include <vector>

#include "core/address.h"
#include "core/random.h"

namespace mmuscope {

/// The unavoidable work of a TLB emulator on bare arrays: 16 sets x 4 ways, then 128 sets x 12 ways
/// of 64-bit tags in move-to-front LRU order, and on a miss 24 dependent reads from a 2 MiB array.
/// Nothing else: no data, no rights, no counters but the sum that keeps the reads alive.
class Limit {
 public:
  Limit() {
    // One cycle through the whole array, so that each read tells where the next one is.
    std::vector<u64> order(kChainWords);
    std::iota(order.begin(), order.end(), u64{0});
    Random random(1);
    for (u64 i = kChainWords - 1; i > 0; --i) std::swap(order[i], order[random.below(i + 1)]);
    chain_.resize(kChainWords);
    for (u64 i = 0; i < kChainWords; ++i) chain_[order[i]] = order[(i + 1) % kChainWords];
  }

  /// Returns something that depends on everything the access read.
  u64 access(u64 address) {
    const u64 page = address >> kPageShift;
    const u64 tag = page + 1;  // 0 is an empty way
    if (touch<kFirstWays>(&first_[page % kFirstSets * kFirstWays], tag)) return tag;
    if (touch<kSecondWays>(&second_[page % kSecondSets * kSecondWays], tag)) return tag;
    u64 at = page % kChainWords;
    for (int i = 0; i < kReads; ++i) at = chain_[at];
    return at;
  }

 private:
  static constexpr u64 kFirstSets = 16, kFirstWays = 4, kSecondSets = 128, kSecondWays = 12;
  static constexpr u64 kChainWords = (u64{2} << 20) / sizeof(u64);
  static constexpr int kReads = 24;

  /// Puts the tag at the front of its set, the others behind it in their order; true if the set had
  /// it, else the last one has fallen out. Shifts while it searches.
  template <u64 kWays>
  static bool touch(u64* set, u64 tag) {
    u64 carried = set[0];
    if (carried == tag) return true;
    set[0] = tag;
    for (u64 way = 1; way < kWays; ++way) {
      const u64 next = set[way];
      set[way] = carried;
      if (next == tag) return true;
      carried = next;
    }
    return false;
  }

  std::array<u64, kFirstSets * kFirstWays> first_{};
  std::array<u64, kSecondSets * kSecondWays> second_{};
  std::vector<u64> chain_;
};

}  // namespace mmuscope
