#pragma once

#include <compare>

#include "core/types.h"

namespace mmuscope {

inline constexpr unsigned kPageShift = 12;
inline constexpr u64 kPageBytes = u64{1} << kPageShift;
inline constexpr unsigned kEntriesPerTable = 512;

/// The sizes a leaf entry can have. The numeric value is the number of levels it stands above 4K.
enum class PageSize : u8 { k4K, k2M, k1G };
inline constexpr unsigned kPageSizes = 3;

constexpr unsigned page_shift(PageSize size) {
  return kPageShift + 9 * static_cast<unsigned>(size);
}
constexpr u64 page_bytes(PageSize size) { return u64{1} << page_shift(size); }
/// The table level whose entries map pages of this size: 1 = PT, 2 = PD, 3 = PDPT.
constexpr unsigned leaf_level(PageSize size) { return 1 + static_cast<unsigned>(size); }
constexpr PageSize leaf_size(unsigned level) { return static_cast<PageSize>(level - 1); }
constexpr PageSize min_size(PageSize a, PageSize b) { return a < b ? a : b; }

/// A page frame number of one address space: an address without its low 12 bits.
template <class Space>
class Frame;

/// A byte address of one address space. Spaces never mix: a Gpa does not become an Hpa but through
/// the memory map. In by explicit constructor, out by raw().
template <class Space>
class Address {
 public:
  constexpr Address() = default;
  explicit constexpr Address(u64 raw) : raw_(raw) {}
  constexpr u64 raw() const { return raw_; }
  constexpr Frame<Space> frame() const;
  constexpr u64 page_offset() const { return raw_ & (kPageBytes - 1); }
  constexpr u64 offset_in(PageSize size) const { return raw_ & (page_bytes(size) - 1); }
  constexpr Address align_down(PageSize size) const {
    return Address(raw_ & ~(page_bytes(size) - 1));
  }

  friend constexpr Address operator+(Address a, u64 bytes) { return Address(a.raw_ + bytes); }
  friend constexpr Address operator-(Address a, u64 bytes) { return Address(a.raw_ - bytes); }
  friend constexpr u64 operator-(Address a, Address b) { return a.raw_ - b.raw_; }
  friend constexpr auto operator<=>(Address, Address) = default;

 private:
  u64 raw_ = 0;
};

template <class Space>
class Frame {
 public:
  constexpr Frame() = default;
  explicit constexpr Frame(u64 raw) : raw_(raw) {}
  constexpr u64 raw() const { return raw_; }
  constexpr Address<Space> base() const { return Address<Space>(raw_ << kPageShift); }

  friend constexpr Frame operator+(Frame f, u64 frames) { return Frame(f.raw_ + frames); }
  friend constexpr u64 operator-(Frame a, Frame b) { return a.raw_ - b.raw_; }
  friend constexpr auto operator<=>(Frame, Frame) = default;

 private:
  u64 raw_ = 0;
};

template <class Space>
constexpr Frame<Space> Address<Space>::frame() const {
  return Frame<Space>(raw_ >> kPageShift);
}

struct GuestVirtual;
struct GuestPhysical;
struct HostPhysical;

using Gva = Address<GuestVirtual>;
using Gpa = Address<GuestPhysical>;
using Hpa = Address<HostPhysical>;
using Gvn = Frame<GuestVirtual>;
using Gfn = Frame<GuestPhysical>;
using Hfn = Frame<HostPhysical>;

/// Index into the table of this level (1 = PT ... 4 = PML4, 5 = PML5) on the way to the address.
template <class Space>
constexpr unsigned table_index(Address<Space> a, unsigned level) {
  return static_cast<unsigned>(a.raw() >> (kPageShift + 9 * (level - 1))) & (kEntriesPerTable - 1);
}

/// True if the bits above those that `levels` of tables translate repeat the highest translated
/// bit (48 bits for 4 levels, 57 for 5). SDM vol. 1, *Canonical Addressing*.
constexpr bool is_canonical(Gva va, unsigned levels = 4) {
  const unsigned unused = 64 - (kPageShift + 9 * levels);
  const auto raw = static_cast<std::int64_t>(va.raw());
  return static_cast<std::int64_t>(va.raw() << unused) >> unused == raw;
}

}  // namespace mmuscope
