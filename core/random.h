#pragma once

#include <array>

#include "core/types.h"

namespace mmuscope {

/// xoshiro256** seeded by splitmix64 (Blackman and Vigna, *Scrambled Linear Pseudorandom Number
/// Generators*): the project's only source of randomness. Its outputs are pinned by a test, so that
/// a seed means the same run on every compiler.
class Random {
 public:
  explicit constexpr Random(u64 seed) {
    for (u64& word : state_) {
      seed += 0x9e37'79b9'7f4a'7c15;
      u64 z = seed;
      z = (z ^ (z >> 30)) * 0xbf58'476d'1ce4'e5b9;
      z = (z ^ (z >> 27)) * 0x94d0'49bb'1331'11eb;
      word = z ^ (z >> 31);
    }
  }
  constexpr u64 next() {
    const u64 result = rotl(state_[1] * 5, 7) * 9;
    const u64 t = state_[1] << 17;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= t;
    state_[3] = rotl(state_[3], 45);
    return result;
  }
  /// Uniform in [0, bound), bound > 0, without division bias that matters: multiply-shift with
  /// rejection (Lemire, *Fast Random Integer Generation in an Interval*).
  constexpr u64 below(u64 bound) {
    auto product = static_cast<unsigned __int128>(next()) * bound;
    if (static_cast<u64>(product) < bound) {
      const u64 reject = (0 - bound) % bound;
      while (static_cast<u64>(product) < reject) {
        product = static_cast<unsigned __int128>(next()) * bound;
      }
    }
    return static_cast<u64>(product >> 64);
  }
  /// Uniform in [0, 1) with 53 bits.
  constexpr double unit() { return static_cast<double>(next() >> 11) * 0x1.0p-53; }
  constexpr bool chance(u64 numerator, u64 denominator) { return below(denominator) < numerator; }

 private:
  static constexpr u64 rotl(u64 x, int k) { return (x << k) | (x >> (64 - k)); }
  std::array<u64, 4> state_{};
};

}  // namespace mmuscope
