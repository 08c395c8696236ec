#pragma once

#include "nested/ept.h"
#include "nested/nested_walk.h"

namespace mmuscope {

constexpr Gva kVa{0x1234'5678};
constexpr u64 kUser = x86::kPresent | x86::kWrite | x86::kUser;
/// Bits of the error code or qualification: where in the walk the second dimension refused.
constexpr u64 kFinal = 0x100, kLinear = 0x80;

/// Memory with empty tables of a second dimension in it, walked without a machine.
template <class Dimension>
struct SecondDimension {
  using Second = typename Dimension::Format;
  static constexpr bool kNpt = std::is_same_v<Dimension, NptDimension>;

  explicit SecondDimension(bool flags)
      : memory(1 << 21, 1 << 21),
        tables(memory, kNpt ? NestedFormat::Npt : NestedFormat::Ept, 4, flags) {
    root.table = tables.root();
    root.rules.accessed_dirty = flags;
  }

  PhysicalMemory memory;
  Ept tables;
  SecondRoot root;
};

}  // namespace mmuscope
