#pragma once

#include "core/access.h"

namespace mmuscope {

/// Bits of an x86-64 paging-structure entry (guest tables, shadow tables, NPT). SDM vol. 3,
/// *4-Level Paging and 5-Level Paging*; APM vol. 2, *Long-Mode Page Translation*.
namespace x86 {
inline constexpr u64 kPresent = 1;
inline constexpr u64 kWrite = 1 << 1;
inline constexpr u64 kUser = 1 << 2;
inline constexpr u64 kAccessed = 1 << 5;
inline constexpr u64 kDirty = 1 << 6;
inline constexpr u64 kLarge = 1 << 7;
inline constexpr u64 kGlobal = 1 << 8;
inline constexpr u64 kNoExec = u64{1} << 63;
inline constexpr u64 kAddressMask = 0x000f'ffff'ffff'f000;
}  // namespace x86

/// Bits of an EPT entry. SDM vol. 3, *The Extended Page Table Mechanism*.
namespace ept {
inline constexpr u64 kRead = 1;
inline constexpr u64 kWrite = 1 << 1;
inline constexpr u64 kExec = 1 << 2;
inline constexpr u64 kMemoryTypeShift = 3;
inline constexpr u64 kMemoryTypeMask = 7 << 3;
inline constexpr u64 kWriteBack = 6 << 3;
inline constexpr u64 kIgnorePat = 1 << 6;
inline constexpr u64 kLarge = 1 << 7;
inline constexpr u64 kAccessed = 1 << 8;
inline constexpr u64 kDirty = 1 << 9;
inline constexpr u64 kAddressMask = 0x000f'ffff'ffff'f000;
}  // namespace ept

/// What the structure of an entry says, before any right is judged.
enum class EntryState : u8 { Table, Leaf, NotPresent, Malformed };

/// Bits that must be 0 in a leaf above level 1 between the flags and the address: 20:13 or 29:13
/// for x86 (bit 12 is PAT there), 20:12 or 29:12 for EPT.
constexpr u64 unaligned_bits(unsigned level, unsigned lowest) {
  return (page_bytes(leaf_size(level)) - 1) & ~((u64{1} << lowest) - 1);
}

/// What a walk must know of the machine besides the entries.
struct WalkRules {
  u8 max_phys_bits = 46;       ///< MAXPHYADDR: address bits at and above it are reserved
  bool nxe = true;             ///< x86: bit 63 is NX, not reserved
  bool accessed_dirty = true;  ///< EPT: the A/D option of the EPTP; always on for x86
  bool execute_only = true;    ///< EPT: 100b is legal
  bool large_1g = true;        ///< 1-GByte leaves are supported
};

/// A table format tells the walk how to read an entry. In is the space that is translated, Out the
/// one it is translated into and in which tables are addressed.
template <class InSpace, class OutSpace>
struct X86Format {
  using In = Address<InSpace>;
  using Out = Address<OutSpace>;
  static constexpr u64 kAccessed = x86::kAccessed;
  static constexpr u64 kDirty = x86::kDirty;
  static constexpr u64 kAddressMask = x86::kAddressMask;
  /// What rights_of() can give; in this form every right is a set bit.
  static constexpr u64 kAllRights = rights::kWrite | rights::kUser | rights::kExec;
  /// Bits of an entry that take a right away: along a walk these are ORed, all others ANDed.
  static constexpr u64 kDenying = x86::kNoExec;

  static constexpr u64 reserved_mask(const WalkRules& r) {
    return (x86::kAddressMask & ~((u64{1} << r.max_phys_bits) - 1)) | (r.nxe ? 0 : x86::kNoExec);
  }
  static constexpr EntryState state(u64 e, unsigned level, const WalkRules& r, u64 reserved) {
    // First what most entries are: a table with nothing odd about it.
    if (level > 1 && (e & (x86::kPresent | x86::kLarge | reserved)) == x86::kPresent) {
      return EntryState::Table;
    }
    if (!(e & x86::kPresent)) return EntryState::NotPresent;
    const bool large = (e & x86::kLarge) && level > 1;
    if (large) {
      // PS is reserved where no leaf of that size exists.
      if (level > 3 || (level == 3 && !r.large_1g)) return EntryState::Malformed;
      reserved |= unaligned_bits(level, 13);
    }
    if (e & reserved) return EntryState::Malformed;
    return level == 1 || large ? EntryState::Leaf : EntryState::Table;
  }
  static constexpr u64 rights_of(u64 e) {
    return ((e >> 1) & (rights::kWrite | rights::kUser)) | (e & x86::kNoExec ? 0 : rights::kExec);
  }
};

template <class InSpace, class OutSpace>
struct EptFormat {
  using In = Address<InSpace>;
  using Out = Address<OutSpace>;
  static constexpr u64 kAccessed = ept::kAccessed;
  static constexpr u64 kDirty = ept::kDirty;
  static constexpr u64 kAddressMask = ept::kAddressMask;
  static constexpr u64 kAllRights = ept::kRead | ept::kWrite | ept::kExec;
  static constexpr u64 kDenying = 0;

  static constexpr u64 reserved_mask(const WalkRules& r) {
    return ept::kAddressMask & ~((u64{1} << r.max_phys_bits) - 1);
  }
  /// Malformed here is the SDM's EPT misconfiguration.
  static constexpr EntryState state(u64 e, unsigned level, const WalkRules& r, u64 reserved) {
    // First what most entries are: a table, or a 4-KByte page of write-back memory, with all
    // rights.
    const u64 plain = kAllRights | ept::kMemoryTypeMask | reserved;
    if (level == 1) {
      if ((e & plain) == (kAllRights | ept::kWriteBack)) return EntryState::Leaf;
    } else if ((e & (plain | ept::kIgnorePat | ept::kLarge)) == kAllRights) {
      return EntryState::Table;
    }
    const u64 rwx = e & kAllRights;
    if (rwx == 0) return EntryState::NotPresent;
    if (!(rwx & ept::kRead) && ((rwx & ept::kWrite) || !r.execute_only)) {
      return EntryState::Malformed;
    }
    const bool large = (e & ept::kLarge) && level > 1;
    if (large && (level > 3 || (level == 3 && !r.large_1g))) return EntryState::Malformed;
    if (level > 1 && !large) {
      return e & (reserved | ept::kMemoryTypeMask | ept::kIgnorePat) ? EntryState::Malformed
                                                                     : EntryState::Table;
    }
    if (large) reserved |= unaligned_bits(level, 12);
    const u64 type = (e & ept::kMemoryTypeMask) >> ept::kMemoryTypeShift;
    if ((e & reserved) || type == 2 || type == 3 || type == 7) return EntryState::Malformed;
    return EntryState::Leaf;
  }
  static constexpr u64 rights_of(u64 e) { return e & kAllRights; }
};

using GuestFormat = X86Format<GuestVirtual, GuestPhysical>;  // the guest's own tables
using ShadowFormat = X86Format<GuestVirtual, HostPhysical>;  // shadow tables
using NptFormat = X86Format<GuestPhysical, HostPhysical>;    // AMD nested tables
using EptTables = EptFormat<GuestPhysical, HostPhysical>;    // Intel nested tables

}  // namespace mmuscope
