#pragma once

#include "core/address.h"

namespace mmuscope {

class Vcpu;
struct Access;
struct GuestFault;
struct Resume;
struct Translation;
struct VmExit;
enum class ExitReason : u8;

/// Whose table an entry stands in.
enum class TableKind : u8 {
  Guest,   ///< the guest's own
  Shadow,  ///< a hypervisor's, guest-virtual to host-physical
  Ept,     ///< a hypervisor's second dimension, guest-physical to host-physical
  Npt,     ///< the same in AMD's format
};

/// One table entry read by a hardware walker.
struct EntryRead {
  TableKind table = TableKind::Guest;
  unsigned level = 0;  ///< 1 = PT
  Hpa where;           ///< of the entry
  bool gpa_known = false;
  Gpa gpa;  ///< Guest: of the entry; Ept, Npt: the address that is being translated
  u64 value = 0;
  bool final = false;  ///< Ept, Npt: gpa is the access's own, not that of a guest table
};

/// What a cache of the walker answered, so that it was not read.
struct CacheUse {
  enum class Kind : u8 {
    PagingStructure,  ///< by guest-virtual address: the walk starts at `table`
    SecondStructure,  ///< by guest-physical address: that walk starts at `table`
    NestedTlb,        ///< a whole translation of `gpa` to `table`
    PageEntry,        ///< the entry of this level at `table`, and the walk goes on
    SecondPageEntry,  ///< the same of the second dimension
  };
  Kind kind = Kind::PagingStructure;
  unsigned level = 0;  ///< of the table to read next, or of the entry; 0 for NestedTlb
  u64 table = 0;
  Gpa gpa;             ///< of the second dimension: the address translated
  bool final = false;  ///< as in EntryRead
};

/// Accessed or dirty flags that a walker set in an entry.
struct FlagsSet {
  TableKind table = TableKind::Guest;
  unsigned level = 0;
  Hpa where;
  u64 bits = 0;  ///< those that were missing, and perhaps others of the pair
};

/// Told, while one is attached to a vCPU, what its hardware reads on a TLB miss and where it leaves
/// the guest. Events are counted as without it, and TLB hits are not told. Every entry read is one
/// count of a table_refs event, every CacheUse one of its own event, every on_walk one of `walks`,
/// every on_exit one of its reason.
class WalkListener {
 public:
  virtual ~WalkListener() = default;
  /// A hardware walk begins.
  virtual void on_walk(Vcpu& vcpu, Gva va, Access access) = 0;
  virtual void on_entry(const EntryRead& entry) = 0;
  virtual void on_cached(const CacheUse& use) = 0;
  virtual void on_flags(const FlagsSet& set) = 0;
  /// How it ended, if not in an exit.
  virtual void on_translated(Vcpu& vcpu, const Translation& translation) = 0;
  virtual void on_fault(Vcpu& vcpu, const GuestFault& fault) = 0;
  /// The vCPU has left the guest; `exit` is null for an interrupt from another CPU.
  virtual void on_exit(Vcpu& vcpu, ExitReason reason, const VmExit* exit) = 0;
  /// The hypervisor has served the exit, flushes included.
  virtual void on_served(Vcpu& vcpu, const VmExit& exit, const Resume& resume) = 0;
};

/// In place of a listener where there is none: compiles to nothing.
struct NobodyListens {
  void on_entry(const EntryRead&) const {}
  void on_cached(const CacheUse&) const {}
  void on_flags(const FlagsSet&) const {}
};
inline constexpr NobodyListens kNobodyListens;

}  // namespace mmuscope
