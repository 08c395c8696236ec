#pragma once

#include <algorithm>
#include <optional>
#include <vector>

#include "workloads/guest/address_space.h"
#include "workloads/guest/direct_map.h"
#include "workloads/guest/frame_allocator.h"

namespace mmuscope {

/// Bits of a user entry that mean something to the kernel alone.
namespace pte {
/// Not present for the CPU, but the page is there: a mapping without rights. Linux, _PAGE_PROTNONE.
inline constexpr u64 kNoRights = 1 << 8;
/// The page is not counted: the zero page. Linux, _PAGE_SPECIAL.
inline constexpr u64 kSpecial = 1 << 9;
/// Means nothing; see Kernel::toggle_software_bit.
inline constexpr u64 kSoftware = 1 << 10;

/// Not present, nor is the page: the rest of the entry says where it was swapped to.
inline constexpr u64 kSwapped = 1 << 11;

constexpr bool is_swapped(u64 entry) { return (entry & (x86::kPresent | kSwapped)) == kSwapped; }
constexpr bool is_mapped(u64 entry) { return (entry & (x86::kPresent | kNoRights)) != 0; }
constexpr Gfn frame_of(u64 entry) { return Gpa(entry & x86::kAddressMask).frame(); }
}  // namespace pte

/// Edits page tables as a kernel does: every read and write is an access of the vCPU, through the
/// direct map. The caller holds the lock of the address space.
class PageTables {
 public:
  /// `levels`: 4 or 5, of every address space.
  PageTables(FrameAllocator& frames, unsigned levels) : frames_(frames), levels_(levels) {}

  /// A zeroed table.
  Gpa allocate(Vcpu& vcpu);
  /// Two zeroed tables, one after the other, the first at a multiple of both.
  Gpa allocate_pair(Vcpu& vcpu);
  /// Where the entry of `level` for the address is, if there is a table for it.
  std::optional<Gpa> find(Vcpu& vcpu, const AddressSpace& space, Gva va, unsigned level);
  /// The same, after making the tables that it lacks.
  Gpa make(Vcpu& vcpu, AddressSpace& space, Gva va, unsigned level);
  /// The table below the entry at `where`, of a level above the last; made if there is none.
  Gpa table_below(Vcpu& vcpu, AddressSpace& space, Gpa where);

  /// Calls visit(Gpa where, Gva va, u64 entry) for every entry of `level` that is not zero and maps
  /// something in [start, end). Where a table is missing its range is skipped. An entry above the
  /// level that maps a large page is large(Gpa where, Gva va, u64 entry, bool whole)'s, `whole` if
  /// all of it is in the range: true if it has become a table, to go on in.
  template <class Visit, class Large>
  void for_each(Vcpu& vcpu, const AddressSpace& space, Gva start, Gva end, unsigned level,
                Visit&& visit, Large&& large) {
    visit_table(vcpu, space.root, levels_, start, end, level, visit, large);
  }

  /// Unlinks the tables on the way to [start, end) that serve nothing outside [floor, ceiling),
  /// whose own mappings are gone; their frames are appended to `freed`. Linux, free_pgtables.
  void unlink(Vcpu& vcpu, AddressSpace& space, Gva start, Gva end, Gva floor, Gva ceiling,
              std::vector<Gfn>& freed);

  static u64 read(Vcpu& vcpu, Gpa where) { return vcpu.load(direct_map(where)); }
  static void write(Vcpu& vcpu, Gpa where, u64 entry) { vcpu.store(direct_map(where), entry); }
  /// Clears a live entry, so that no A or D bit that a CPU sets meanwhile is lost; what it was.
  static u64 take(Vcpu& vcpu, Gpa where) { return vcpu.exchange(direct_map(where), 0); }
  /// Sets an entry of any level but the root's that is not live to a table.
  static void link(Vcpu& vcpu, Gpa where, Gpa table);
  /// Clears bits of a live entry, last seen as `seen`, and loses no A or D bit either.
  static void clear_bits(Vcpu& vcpu, Gpa where, u64 seen, u64 bits);

 private:
  /// Sets an entry that links a table, or 0; the root's in both roots where there are two.
  static void link(Vcpu& vcpu, const AddressSpace& space, Gpa where, u64 entry);
  static Gva start_of_region(Gva va, unsigned level) {
    return Gva(va.raw() >> (kPageShift + 9 * (level - 1)) << (kPageShift + 9 * (level - 1)));
  }
  static u64 region_bytes(unsigned level) { return u64{1} << (kPageShift + 9 * (level - 1)); }

  template <class Visit, class Large>
  void visit_table(Vcpu& vcpu, Gpa table, unsigned level, Gva start, Gva end, unsigned leaf,
                   Visit& visit, Large& large) {
    for (Gva va = start_of_region(start, level); va < end; va = va + region_bytes(level)) {
      const Gpa where = table + 8 * table_index(va, level);
      u64 entry = read(vcpu, where);
      if (entry == 0) continue;
      if (level == leaf) {
        visit(where, va, entry);
        continue;
      }
      const Gva from = std::max(va, start), to = std::min(va + region_bytes(level), end);
      if (entry & x86::kLarge) {
        if (!large(where, va, entry, to - from == region_bytes(level))) continue;
        entry = read(vcpu, where);
      }
      visit_table(vcpu, Gpa(entry & x86::kAddressMask), level - 1, from, to, leaf, visit, large);
    }
  }
  void unlink_below(Vcpu& vcpu, AddressSpace& space, Gpa table, unsigned level, Gva start, Gva end,
                    Gva floor, Gva ceiling, std::vector<Gfn>& freed);

  FrameAllocator& frames_;
  unsigned levels_;
};

}  // namespace mmuscope
