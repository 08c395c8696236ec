#pragma once

#include <string>
#include <string_view>

#include "core/types.h"

namespace mmuscope {

/// A part of a suite: the first of one is the whole.
struct Shard {
  u64 index = 1, of = 1;  ///< 1 <= index <= of
  /// The cells are dealt out one by one, each round beginning a shard further, so that no shard
  /// gets all the cells of one pager.
  bool has(u64 cell) const { return (cell - 1 + (cell - 1) / of) % of == index - 1; }
  bool whole() const { return of == 1; }
  std::string text() const;  ///< "2/4"
};

/// The most parts of a suite.
inline constexpr u64 kMaxShards = 10'000;

/// Reads "I/N". Throws InputError.
Shard parse_shard(std::string_view text);

}  // namespace mmuscope
