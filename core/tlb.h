#pragma once

#include <array>
#include <bit>
#include <vector>

#include "core/cpu_model.h"
#include "core/exit.h"

namespace mmuscope {

/// Whose translations an entry holds: the PCID in the low 12 bits, above it the space: a number
/// that stands for VPID and EP4TA on Intel, for the ASID on AMD. SDM vol. 3, *Caching Translation
/// Information*.
using Context = u32;
inline constexpr Context kPcidBits = 0xfff;
inline constexpr Context kNoContext = ~Context{0};
constexpr Context make_context(u32 space, u32 pcid) { return space << 12 | (pcid & kPcidBits); }

/// Which entries an invalidation is about.
struct FlushMatch {
  Context context = 0;
  Context mask = 0;  ///< bits of `context` that must agree; 0 is everything
  bool keep_globals = false;

  static constexpr FlushMatch all() { return {}; }
  static constexpr FlushMatch space(Context c) { return {c, ~kPcidBits, false}; }
  static constexpr FlushMatch pcid(Context c, bool keep_globals) {
    return {c, ~Context{0}, keep_globals};
  }
};

/// One cached translation, half a cache line of the emulator's. A global one answers for every PCID
/// of its space.
struct alignas(32) TlbEntry {
  u64 va = ~u64{0};           ///< page base
  std::byte* data = nullptr;  ///< the page's bytes in the emulator's memory
  Context context = kNoContext;
  Context context_mask = ~Context{0};  ///< bits of `context` that must agree
  u32 offset_mask = 0;                 ///< bits of an address that lie within the page
  u8 rights = 0;
  PageSize size = PageSize::k4K;
  bool global = false;

  bool valid() const { return context != kNoContext; }
  bool answers(Gva a, Context c) const {
    return (((a.raw() ^ va) & ~u64{offset_mask}) | ((c ^ context) & context_mask)) == 0;
  }
  std::byte* at(Gva a) const { return data + (a.raw() & offset_mask); }
  bool matches(const FlushMatch& m) const {
    return valid() && ((context ^ m.context) & m.mask & context_mask) == 0 &&
           !(m.keep_globals && global);
  }
};
static_assert(sizeof(TlbEntry) == 32);

/// One level of a TLB: one or several banks (an array of sets x ways for one or several page
/// sizes), least recently used replaced. Any number of sets: the index is the page number modulo
/// it.
///
/// A look-up tries the slot in which the page was last found (a hint, proved by the entry itself),
/// then compares the 32-bit tags of a set four at a time, without branches that depend on where a
/// match stands.
class TlbLevel {
 public:
  explicit TlbLevel(const std::vector<TlbGeometry>& banks);
  TlbLevel(TlbLevel&&) = default;  // banks_ keeps its place, so banks_of_ stays right

  bool holds(PageSize size) const { return banks_of_[static_cast<unsigned>(size)][0] != nullptr; }
  /// The slot of the entry that answers, or kNone: tries the hint, then search().
  u32 find(Gva va, Context context) {
    const u32 guess = hint(va);
    return entries_[guess].answers(va, context) ? guess : search(va, context);
  }
  /// The same for callers to whom the hint was no use.
  u32 search(Gva va, Context context);
  /// Replaces the least recently used entry of the set (a free one first) and returns its slot.
  /// The size must be one that this level holds, and no entry may answer for the page yet.
  u32 insert(Gva va, const TlbEntry& entry, u64 now);
  void invalidate(const FlushMatch& match);
  void invalidate_page(Gva va, const FlushMatch& match);
  u64 live() const { return live_[0] + live_[1] + live_[2]; }
  static constexpr u32 kNone = ~u32{0};

  // The vCPU's inline hit path.
  u32 hint(Gva va) const { return hints_[hint_index(va)]; }
  const TlbEntry& entry(u32 slot) const { return entries_[slot]; }
  void touch(u32 slot, u64 now) { stamps_[slot] = now; }

 private:
  struct Bank {
    u32 first_slot, sets, ways;
    u32 set_mask;  // sets - 1 if that is a mask, else 0
    u8 sizes;      // bit per PageSize
  };
  struct Set {
    u32 begin, end;
  };
  /// The slots in which a page of this size may be. Where two banks take the size, one bit above
  /// the index decides between them.
  Set set_for(Gva va, PageSize size) const {
    const auto& banks = banks_of_[static_cast<unsigned>(size)];
    const u64 page = va.raw() >> page_shift(size);
    const Bank* bank = banks[0];
    if (banks[1] != nullptr && page / bank->sets % 2 == 1) bank = banks[1];
    const u64 set = bank->set_mask ? page & bank->set_mask : page % bank->sets;
    const u32 base = bank->first_slot + static_cast<u32>(set) * bank->ways;
    return {base, base + bank->ways};
  }
  unsigned hint_index(Gva va) const {
    return static_cast<unsigned>(va.raw() >> kPageShift) & hint_mask_;
  }
  void remember(Gva va, u32 slot) { hints_[hint_index(va)] = static_cast<u16>(slot); }
  /// Part of the page number, the size, and 1; 0 is a free slot.
  static u32 tag(Gva va, PageSize size) {
    return static_cast<u32>(va.raw() >> page_shift(size)) << 3 | static_cast<u32>(size) << 1 | 1;
  }
  void drop(u32 slot);

  std::vector<Bank> banks_;
  std::array<std::array<const Bank*, 2>, kPageSizes> banks_of_{};  // into banks_
  unsigned hint_mask_;
  std::array<u64, kPageSizes> live_{};
  std::vector<u32> tags_;  // three more than slots, so that four can always be compared
  std::vector<u64> stamps_;
  std::vector<TlbEntry> entries_;
  std::vector<u16> hints_;
};

inline u32 TlbLevel::search(Gva va, Context context) {
  for (unsigned s = 0; s < kPageSizes; ++s) {
    if (live_[s] == 0) continue;
    const auto size = static_cast<PageSize>(s);
    const u32 wanted = tag(va, size);
    const auto [begin, end] = set_for(va, size);
    for (u32 four = begin; four < end; four += 4) {
      const u32* t = &tags_[four];
      u32 equal =
          (t[0] == wanted) | (t[1] == wanted) << 1 | (t[2] == wanted) << 2 | (t[3] == wanted) << 3;
      for (; equal != 0; equal &= equal - 1) {
        const u32 slot = four + static_cast<u32>(std::countr_zero(equal));
        if (entries_[slot].answers(va, context)) {
          remember(va, slot);
          return slot;
        }
      }
    }
  }
  return kNone;
}

inline u32 TlbLevel::insert(Gva va, const TlbEntry& entry, u64 now) {
  const auto [begin, end] = set_for(va, entry.size);
  u32 victim = begin;
  u64 oldest = stamps_[begin];  // a free slot has stamp 0, older than any used one
  for (u32 slot = begin + 1; slot < end; ++slot) {
    const bool older = stamps_[slot] < oldest;
    victim = older ? slot : victim;
    oldest = older ? stamps_[slot] : oldest;
  }
  const u32 old = tags_[victim];
  if (old != 0) --live_[old >> 1 & 3];
  ++live_[static_cast<unsigned>(entry.size)];
  tags_[victim] = tag(va, entry.size);
  entries_[victim] = entry;
  stamps_[victim] = now;
  remember(va, victim);
  return victim;
}

/// The TLBs of one physical CPU: first level for data and for instructions, second level for both
/// (or one each, as on AMD). An entry found in the second level is copied into the first.
class Tlb {
 public:
  explicit Tlb(const CpuModel& cpu);

  TlbLevel& first(AccessKind kind) { return first_[first_of_[static_cast<unsigned>(kind)]]; }
  /// The entry of the second level that answers, or nullptr. Rights are not judged.
  const TlbEntry* find_second(AccessKind kind, Gva va, Context context, u64 now);
  /// Copies an entry, or the part of it around va that the first level can hold, into that level.
  const TlbEntry& fill_first(AccessKind kind, Gva va, const TlbEntry& entry, u64 now);
  /// Caches a translation for this kind of access: in the first level as the largest size that it
  /// holds, in the second level if that holds the size.
  const TlbEntry& fill(AccessKind kind, Gva va, const TlbEntry& entry, u64 now);

  void invalidate(const FlushMatch& match);
  /// Every entry, of any size, that translates the address and matches.
  void invalidate_page(Gva va, const FlushMatch& match);

 private:
  TlbLevel* second(AccessKind kind);
  /// The page of `size` around va, cut out of a larger one.
  static TlbEntry part_of(const TlbEntry& entry, Gva va, PageSize size);

  std::vector<TlbLevel> first_, second_;
  std::array<u8, 3> first_of_{};   // by AccessKind: index into first_
  std::array<u8, 3> second_of_{};  // index into second_, which may be empty
};

}  // namespace mmuscope
