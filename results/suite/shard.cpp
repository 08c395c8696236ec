#include "results/suite/shard.h"

#include <charconv>

#include "core/error.h"

namespace mmuscope {

std::string Shard::text() const { return std::to_string(index) + "/" + std::to_string(of); }

Shard parse_shard(std::string_view text) {
  Shard shard;
  const char* const end = text.data() + text.size();
  const auto first = std::from_chars(text.data(), end, shard.index);
  bool good = first.ec == std::errc() && first.ptr != end && *first.ptr == '/';
  if (good) {
    const auto second = std::from_chars(first.ptr + 1, end, shard.of);
    good = second.ec == std::errc() && second.ptr == end && shard.of >= 1 &&
           shard.of <= kMaxShards && shard.index >= 1 && shard.index <= shard.of;
  }
  if (!good) {
    throw InputError("shard=" + std::string(text) +
                     " is not valid; valid: I/N with 1 <= I <= N <= " + std::to_string(kMaxShards));
  }
  return shard;
}

}  // namespace mmuscope
