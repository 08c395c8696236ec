#pragma once

#include <array>
#include <bit>
#include <vector>

#include "core/cpu_model.h"
#include "core/exit.h"

namespace mmuscope {

/// Whose translations an entry holds: the PCID in bits 11:0, above it the VPID (or ASID), above
/// that the number of the second dimension's root that the entry was made under (the EP4TA), 0 if
/// there was none. So an entry with an EP4TA is a combined mapping, one without a linear mapping,
/// and one with an EP4TA alone a guest-physical one. SDM vol. 3, *Caching Translation Information*.
using Context = u32;
inline constexpr Context kPcidBits = 0xfff;
inline constexpr Context kVpidBits = 0x3ff << 12;
inline constexpr Context kEp4taBits = Context{0x3ff} << 22;
inline constexpr Context kNoContext = ~Context{0};
constexpr Context make_context(u32 vpid, u32 pcid, u32 ep4ta = 0) {
  return (ep4ta << 22 & kEp4taBits) | (vpid << 12 & kVpidBits) | (pcid & kPcidBits);
}

/// Which entries an invalidation is about.
struct FlushMatch {
  Context context = 0;
  Context mask = 0;  ///< bits of `context` that must agree; 0 is everything
  bool keep_globals = false;
  Context some = 0;  ///< if not 0: bits of which an entry must have one set

  /// True for entries of the context, global ones apart.
  constexpr bool covers(Context c) const {
    return ((c ^ context) & mask) == 0 && (some == 0 || (c & some) != 0);
  }

  static constexpr FlushMatch all() { return {}; }
  /// Everything of the VPID, linear and combined.
  static constexpr FlushMatch space(Context c) { return {c, kVpidBits, false}; }
  /// The same with every VPID but 0.
  static constexpr FlushMatch every_space() { return {0, 0, false, kVpidBits}; }
  /// What a PCID of the VPID has, with every EP4TA.
  static constexpr FlushMatch pcid(Context c, bool keep_globals) {
    return {c, kVpidBits | kPcidBits, keep_globals};
  }
  /// What was made under this root of the second dimension.
  static constexpr FlushMatch ep4ta(Context c) { return {c, kEp4taBits, false}; }
  /// What was made under any.
  static constexpr FlushMatch every_ep4ta() { return {0, 0, false, kEp4taBits}; }
  /// This very context.
  static constexpr FlushMatch exactly(Context c) { return {c, ~Context{0}, false}; }
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
  PageSize mapped = PageSize::k4K;  ///< of the page that this may be a fragment of

  bool valid() const { return context != kNoContext; }
  bool answers(Gva a, Context c) const {
    return (((a.raw() ^ va) & ~u64{offset_mask}) | ((c ^ context) & context_mask)) == 0;
  }
  std::byte* at(Gva a) const { return data + (a.raw() & offset_mask); }
  bool matches(const FlushMatch& m) const {
    return valid() && ((context ^ m.context) & m.mask & context_mask) == 0 &&
           (m.some == 0 || (context & m.some) != 0) && !(m.keep_globals && global);
  }
};
static_assert(sizeof(TlbEntry) == 32);

/// One level of a TLB: one or several banks (an array of sets x ways for one or several page
/// sizes), least recently used replaced. Any number of sets: the index is the page number modulo
/// it.
///
/// A look-up goes through a directory first, indexed by low bits of the 4K page number: the slot in
/// which a page of that index was last found (a hint, proved by the entry itself), and how many 4K
/// entries of that index are cached, so that most misses are known without a search.
class TlbLevel {
 public:
  explicit TlbLevel(const std::vector<TlbGeometry>& banks);

  bool holds(PageSize size) const { return places_[static_cast<unsigned>(size)].sets != 0; }
  /// The slot of the entry that answers, or kNone.
  u32 find(Gva va, Context context) {
    const u32 guess = hint(va);
    return entries_[guess].answers(va, context) ? guess : search(va, context);
  }
  /// The same for callers to whom the hint was no use.
  u32 search(Gva va, Context context) {
    if (directory_[index(va)].cached_4k != 0) [[unlikely]] {
      if (const u32 slot = search_set(va, context, PageSize::k4K); slot != kNone) return slot;
    }
    return large_ == 0 ? kNone : search_large(va, context);
  }
  /// Replaces the least recently used entry of the set (a free one first) and returns its slot.
  /// The size must be one that this level holds, and no entry may answer for the page yet.
  u32 insert(Gva va, const TlbEntry& entry, u64 now);
  void invalidate(const FlushMatch& match);
  void invalidate_page(Gva va, const FlushMatch& match);
  /// Every fragment of a larger page around the address.
  void invalidate_fragments(Gva va, const FlushMatch& match);
  static constexpr u32 kNone = ~u32{0};

  // The vCPU's inline hit path.
  u32 hint(Gva va) const { return directory_[index(va)].slot; }
  const TlbEntry& entry(u32 slot) const { return entries_[slot]; }
  void touch(u32 slot, u64 now) { stamps_[slot] = now; }

 private:
  struct DirectoryEntry {
    u16 slot = 0;
    u16 cached_4k = 0;
  };
  /// Where pages of one size go. Where two banks take the size, one bit above the index decides.
  struct Places {
    u32 first_slot = 0;
    u32 ways = 0;
    u32 sets = 0;              // 0: no bank takes the size
    u32 set_mask = 0;          // sets - 1, of use if `simple`
    bool simple = false;       // one bank, a power of two of sets
    u32 other_first_slot = 0;  // of the second bank, whose shape is the same
    u32 banks = 0;
    u64 live = 0;  // entries of this size
  };
  u32 set_begin(Gva va, PageSize size) const {
    const Places& p = places_[static_cast<unsigned>(size)];
    const u64 page = va.raw() >> page_shift(size);
    if (p.simple) [[likely]]
      return p.first_slot + (static_cast<u32>(page) & p.set_mask) * p.ways;
    const bool other = p.banks == 2 && page / p.sets % 2 == 1;
    return (other ? p.other_first_slot : p.first_slot) + static_cast<u32>(page % p.sets) * p.ways;
  }
  u32 search_set(Gva va, Context context, PageSize size);
  u32 search_large(Gva va, Context context);
  u32 oldest_in(u32 begin, u32 ways) const {
    // A free slot has stamp 0, older than any used one.
    const u64* const first = &stamps_[begin];
    const u64* oldest = first;
    for (const u64* s = first + 1; s < first + ways; ++s) oldest = *s < *oldest ? s : oldest;
    return begin + static_cast<u32>(oldest - first);
  }
  u64 index(Gva va) const { return va.raw() >> kPageShift & directory_mask_; }
  /// Keeps the counts of what is cached; `by` is 1 or -1.
  void count(const TlbEntry& entry, int by) {
    places_[static_cast<unsigned>(entry.size)].live += static_cast<u64>(by);
    if (entry.size == PageSize::k4K) {
      directory_[index(Gva(entry.va))].cached_4k += static_cast<u16>(by);
    } else {
      large_ += static_cast<u64>(by);
    }
  }
  void drop(u32 slot);

  u64 directory_mask_ = 0;
  u64 large_ = 0;  // entries larger than 4K
  std::vector<DirectoryEntry> directory_;
  std::vector<TlbEntry> entries_;
  std::vector<u64> stamps_;
  std::vector<u64> used_;  // a bit for each slot: a flush costs what is cached, not what could be
  std::array<Places, kPageSizes> places_{};
};

[[gnu::always_inline]] inline u32 TlbLevel::insert(Gva va, const TlbEntry& entry, u64 now) {
  const Places& p = places_[static_cast<unsigned>(entry.size)];
  const u32 victim = oldest_in(set_begin(va, entry.size), p.ways);
  TlbEntry& e = entries_[victim];
  DirectoryEntry& here = directory_[index(va)];
  if (e.valid() && e.size == PageSize::k4K && entry.size == PageSize::k4K) [[likely]] {
    --directory_[index(Gva(e.va))].cached_4k;
    ++here.cached_4k;
  } else {
    if (e.valid()) count(e, -1);
    count(entry, 1);
    used_[victim / 64] |= u64{1} << victim % 64;
  }
  e = entry;
  stamps_[victim] = now;
  here.slot = static_cast<u16>(victim);
  return victim;
}

/// The TLBs of one physical CPU: first level for data and for instructions, second level for both
/// (or one each, as on AMD). An entry found in the second level is copied into the first.
class Tlb {
 public:
  explicit Tlb(const CpuModel& cpu);

  Tlb(const Tlb&) = delete;
  Tlb& operator=(const Tlb&) = delete;

  TlbLevel& first(AccessKind kind) { return *first_of_[static_cast<unsigned>(kind)]; }
  /// The entry of the second level that answers, or nullptr. Rights are not judged.
  const TlbEntry* find_second(AccessKind kind, Gva va, Context context, u64 now) {
    TlbLevel* l2 = second_of_[static_cast<unsigned>(kind)];
    if (l2 == nullptr) return nullptr;
    const u32 slot = l2->find(va, context);
    if (slot == TlbLevel::kNone) return nullptr;
    l2->touch(slot, now);
    return &l2->entry(slot);
  }
  /// Copies an entry, or the part of it around va that the first level can hold, into that level.
  [[gnu::always_inline]] const TlbEntry& fill_first(AccessKind kind, Gva va, const TlbEntry& entry,
                                                    u64 now) {
    TlbLevel& l1 = first(kind);
    if (l1.holds(entry.size)) [[likely]]
      return l1.entry(l1.insert(va, entry, now));
    return fill_part(l1, va, entry, now);
  }
  /// Caches a translation for this kind of access: in the first level as the largest size that it
  /// holds, in the second level if that holds the size.
  const TlbEntry& fill(AccessKind kind, Gva va, const TlbEntry& entry, u64 now);

  void invalidate(const FlushMatch& match);
  /// Every entry, of any size, that translates the address and matches, and every fragment of the
  /// page that the guest maps there. SDM vol. 3, *Operations that Invalidate TLBs and
  /// Paging-Structure Caches*: where several entries hold parts of a page, all go.
  void invalidate_page(Gva va, const FlushMatch& match);
  /// Every entry that translates the address and matches: what a fault at the address drops. The
  /// manual speaks of further entries for the same large page at INVLPG alone; here they stay, and
  /// an entry that denies an access is never trusted.
  void invalidate_address(Gva va, const FlushMatch& match);

 private:
  const TlbEntry& fill_part(TlbLevel& l1, Gva va, const TlbEntry& entry, u64 now);
  /// The bit of the 2M region around va in fragments_.
  static u64 region_bit(Gva va) {
    return u64{1} << ((va.raw() >> page_shift(PageSize::k2M)) * 0x9e37'79b9'7f4a'7c15 >> 58);
  }
  void note_fragment(Gva va, const TlbEntry& entry) {
    fragments_ |= entry.mapped == PageSize::k1G ? ~u64{0} : region_bit(va);
  }

  u64 fragments_ = 0;  // 2M regions, by hash, that ever had a fragment of a larger page cached

  std::vector<TlbLevel> first_, second_;
  std::array<TlbLevel*, 3> first_of_{};   // by AccessKind: into first_
  std::array<TlbLevel*, 3> second_of_{};  // into second_; null where there is no second level
};

}  // namespace mmuscope
