#pragma once

#include "core/address.h"

namespace mmuscope {

enum class AccessKind : u8 { Read, Write, Fetch };
enum class Privilege : u8 { Supervisor, User };

/// What one access asks for. Supervisor accesses are explicit ones; implicit supervisor accesses
/// (descriptor tables, task state) are not modelled.
struct Access {
  AccessKind kind = AccessKind::Read;
  Privilege privilege = Privilege::User;

  constexpr bool is_write() const { return kind == AccessKind::Write; }
  constexpr bool is_fetch() const { return kind == AccessKind::Fetch; }
  constexpr bool is_user() const { return privilege == Privilege::User; }
  friend constexpr bool operator==(Access, Access) = default;
};

/// The control-register and flag bits that paging depends on, as the guest (or the hardware that
/// runs it) sees them. Defaults are those of a 64-bit kernel without SMEP/SMAP.
struct Controls {
  bool wp = true;      ///< CR0.WP: supervisor writes obey R/W
  bool smep = false;   ///< CR4.SMEP: no supervisor fetch from user pages
  bool smap = false;   ///< CR4.SMAP: no supervisor data access to user pages unless AC
  bool ac = false;     ///< EFLAGS.AC
  bool nxe = true;     ///< EFER.NXE: bit 63 of an entry forbids fetches (else it is reserved)
  bool pge = false;    ///< CR4.PGE: G entries survive MOV CR3
  bool pcide = false;  ///< CR4.PCIDE
  u8 levels = 4;       ///< 4, or 5 with CR4.LA57
  friend constexpr bool operator==(const Controls&, const Controls&) = default;
};

/// Rights of a translation, as one mask. Sup is the complement of User, kept as a bit of its own so
/// that "supervisor may not touch user pages" (SMAP, SMEP) is also a required bit. StoreOk means
/// that a store may use the cached translation without a walk: it folds dirty bits, write
/// protection by a hypervisor and dirty logging; it says nothing about Write.
namespace rights {
inline constexpr u8 kWrite = 1;
inline constexpr u8 kUser = 2;
inline constexpr u8 kSup = 4;
inline constexpr u8 kExec = 8;
inline constexpr u8 kStoreOk = 16;
inline constexpr u8 kRead = 32;  ///< held but where EPT makes a page execute-only
/// Never held by a translation: required while every access has to take the slow path.
inline constexpr u8 kObserved = 128;
}  // namespace rights

/// The rights that an access needs under these controls. SDM vol. 3, *Determination of Access
/// Rights*. Bits from namespace rights.
constexpr u8 required_rights(Access access, const Controls& c) {
  u8 need = 0;
  if (access.is_user()) need |= rights::kUser;
  switch (access.kind) {
    case AccessKind::Fetch:
      need |= rights::kExec;
      if (!access.is_user() && c.smep) need |= rights::kSup;
      break;
    case AccessKind::Write:
      if (access.is_user() || c.wp) need |= rights::kWrite;
      [[fallthrough]];
    case AccessKind::Read:
      need |= rights::kRead;
      if (!access.is_user() && c.smap && !c.ac) need |= rights::kSup;
      break;
  }
  return need;
}

}  // namespace mmuscope
