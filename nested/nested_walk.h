#pragma once

#include <utility>
#include <vector>

#include "core/guest_physical_cache.h"
#include "core/walk.h"
#include "core/walk_memory.h"

namespace mmuscope {

/// What the second dimension is asked for on behalf of one guest access.
enum class SecondAccess : u8 {
  TableRead,    ///< the walker reads an entry of a guest table
  TableUpdate,  ///< it sets A or D in that entry
  Read,         ///< the access itself, its guest-physical address known at last
  Write,
  Fetch,
};
constexpr SecondAccess final_access(AccessKind kind) {
  return static_cast<SecondAccess>(static_cast<u8>(SecondAccess::Read) + static_cast<u8>(kind));
}
constexpr bool is_final(SecondAccess a) { return a >= SecondAccess::Read; }

/// How a walk through both dimensions ended.
enum class NestedEnd : u8 {
  Ok,
  GuestFault,        ///< #PF of the guest's own
  Violation,         ///< EPT violation or #NPF
  Misconfiguration,  ///< EPT misconfiguration
  LogFull,           ///< page-modification log-full exit
};

/// EPT as second dimension. SDM vol. 3, *EPT Violations*, *Accessed and Dirty Flags for EPT*.
struct EptDimension {
  using Format = EptTables;
  static constexpr TableKind kTable = TableKind::Ept;

  /// With A/D flags every access to a guest table counts as a write.
  static constexpr bool writes(SecondAccess a, const WalkRules& r) {
    return a == SecondAccess::Write || a == SecondAccess::TableUpdate ||
           (a == SecondAccess::TableRead && r.accessed_dirty);
  }
  /// Bits 2:0 of the qualification, which are also the rights (R, W, X) that the access needs. The
  /// update of A or D in a guest table is a read and a write.
  static constexpr u64 asks(SecondAccess a, const WalkRules& r) {
    if (a == SecondAccess::Fetch) return ept::kExec;
    if (a == SecondAccess::Write) return ept::kWrite;
    return ept::kRead | (writes(a, r) ? ept::kWrite : 0);
  }
  static constexpr bool sets_flags(const WalkRules& r) { return r.accessed_dirty; }
  static constexpr NestedEnd end(WalkStatus s) {
    return s == WalkStatus::Malformed ? NestedEnd::Misconfiguration : NestedEnd::Violation;
  }
  /// The exit qualification of a violation: bits 2:0 the access, 5:3 the AND of R, W, X over the
  /// entries used, 7 a linear address is known, 8 it is the access to that address itself.
  static constexpr u64 qualification(SecondAccess a, WalkStatus, u64 walked, const WalkRules& r) {
    return asks(a, r) | walked << 3 | u64{1} << 7 | u64{is_final(a)} << 8;
  }
  /// The rights (namespace rights) that the entries take from a guest translation.
  static constexpr u8 denies(u64 walked) {
    return static_cast<u8>((walked & ept::kRead ? 0 : rights::kRead) |
                           (walked & ept::kWrite ? 0 : rights::kWrite | rights::kStoreOk) |
                           (walked & ept::kExec ? 0 : rights::kExec));
  }
};

/// AMD nested paging as second dimension: x86 tables in which every access is a user access and
/// every access to a guest table is a write. APM vol. 2, *Nested Paging*.
struct NptDimension {
  using Format = NptFormat;
  static constexpr TableKind kTable = TableKind::Npt;

  static constexpr bool writes(SecondAccess a, const WalkRules&) {
    return a != SecondAccess::Read && a != SecondAccess::Fetch;
  }
  static constexpr u64 asks(SecondAccess a, const WalkRules& r) {
    return rights::kUser | (writes(a, r) ? rights::kWrite : 0) |
           (a == SecondAccess::Fetch ? rights::kExec : 0);
  }
  static constexpr bool sets_flags(const WalkRules&) { return true; }
  static constexpr NestedEnd end(WalkStatus) { return NestedEnd::Violation; }
  /// EXITINFO1 of a nested page fault: the error code of a #PF, bit 32 the access itself, bit 33
  /// an access to a guest table.
  static constexpr u64 qualification(SecondAccess a, WalkStatus s, u64, const WalkRules& r) {
    Access access{AccessKind::Read, Privilege::User};
    if (writes(a, r)) access.kind = AccessKind::Write;
    if (a == SecondAccess::Fetch) access.kind = AccessKind::Fetch;
    Controls host;
    host.nxe = r.nxe;
    return page_fault_code(access, host, s) | u64{1} << (is_final(a) ? 32 : 33);
  }
  static constexpr u8 denies(u64 walked) {
    return static_cast<u8>((walked & rights::kWrite ? 0 : rights::kWrite | rights::kStoreOk) |
                           (walked & rights::kExec ? 0 : rights::kExec));
  }
};

/// The tables of the second dimension as the hardware is told about them (EPTP, nCR3).
struct SecondRoot {
  Hpa table;
  unsigned levels = 4;
  WalkRules rules;  ///< of the host; accessed_dirty is bit 6 of an EPTP
};

/// What a CPU keeps of the second dimension alone, and the tag of what is kept now.
struct SecondCaches {
  GuestPhysicalCache* cache = nullptr;  ///< none: every address is walked from the root
  Context tag = 0;
};

/// The page-modification log of a vCPU: 512 guest-physical page addresses, written down when a D
/// flag of the second dimension goes from 0 to 1. SDM vol. 3, *Page-Modification Logging*.
class DirtyLog {
 public:
  static constexpr std::size_t kCapacity = 512;
  bool full() const { return pages_.size() >= kCapacity; }
  void add(Gpa a) { pages_.push_back(a.frame()); }
  /// Empties it: what was in it.
  std::vector<Gfn> take() { return std::exchange(pages_, {}); }

 private:
  std::vector<Gfn> pages_;
};

/// Where a walk through both dimensions starts: at the guest's root, or further down, where a
/// combined paging-structure cache knows the host-physical address of a guest table.
struct NestedStart {
  WalkStart<GuestFormat> guest;
  bool cached = false;
  Hpa table;  ///< if cached; guest.table is then not known and not used

  static NestedStart at_root(Gpa root, unsigned levels) { return {{root, levels}, false, {}}; }
  static NestedStart below(Hpa table, unsigned level, u64 rights) {
    return {{Gpa(), level, rights}, true, table};
  }
};

/// One walk through guest tables whose every address goes through a second dimension: the walk of
/// the guest's tables, with a reader that itself walks the tables of the other dimension. Its
/// accessors say what was met on the way.
///
/// Memory has `u64 read(Hpa)` and `write(Hpa, u64)`, or is WatchedMemory; Listener is a
/// WalkListener, or has its on_entry, on_cached and on_flags.
template <class Dimension, class Memory, class Listener = const NobodyListens>
class NestedWalk {
 public:
  using Second = typename Dimension::Format;

  /// `log`: where newly dirty pages are logged, if they are.
  NestedWalk(Memory& memory, const SecondRoot& second, SecondCaches caches = {},
             DirtyLog* log = nullptr, Listener& listener = kNobodyListens)
      : memory_(memory), second_(second), caches_(caches), log_(log), listener_(listener) {}

  /// Translates va for the access and sets A and D in both dimensions. Each guest entry is judged
  /// before the next one's address is translated, the guest's rights before the final address is.
  /// In guest tables nothing is set unless the guest's walk permits the access; then all is,
  /// before the final translation. A translation of the second dimension that fails sets nothing.
  [[gnu::always_inline]] NestedEnd run(const NestedStart& start, Gva va, Access access,
                                       const Controls& controls, const WalkRules& guest_rules) {
    switch (walk_guest(start, va, access, controls, guest_rules)) {
      case WalkVerdict::Permitted:
        break;
      case WalkVerdict::Fault:
        error_code_ = page_fault_code(access, controls, guest_.status);
        return NestedEnd::GuestFault;
      case WalkVerdict::Stopped:
        return end_;
    }
    const Gpa gpa = guest_.translate(va);
    if (!translate(gpa, final_access(access.kind))) return end_;
    where_ = host_;
    keep_entries(memory_, guest_, Side::First, va.raw(), true,
                 [this](unsigned level) { return entry_at_[level]; });
    return NestedEnd::Ok;
  }

  /// The guest's tables, their entries with the flags that were set.
  const WalkPath<GuestFormat>& guest() const { return guest_; }
  /// The last walk of the second dimension: after Ok the one of the final address.
  const WalkPath<Second>& second() const { return path_; }
  /// After Ok: where the byte at va is.
  Hpa where() const { return where_; }
  /// The table whose entry of this level was read, in host-physical memory.
  Hpa table(unsigned level) const { return entry_at_[level].align_down(PageSize::k4K); }
  /// True if the second dimension lets the walker set A and D there.
  bool updatable(unsigned level) const {
    const u64 asked = Dimension::asks(SecondAccess::TableUpdate, second_.rules);
    return (table_rights_[level] & asked) == asked;
  }
  /// After GuestFault.
  u32 error_code() const { return error_code_; }
  /// After all but Ok and GuestFault: the guest-physical address that was not translated.
  Gpa gpa() const { return gpa_; }
  /// After Violation: the exit qualification or EXITINFO1.
  u64 qualification() const { return qualification_; }
  /// Entries used in each dimension, read or answered by a page-entry cache.
  u64 guest_refs() const { return guest_refs_; }
  u64 second_refs() const { return second_refs_; }
  /// Translations of the second dimension that its caches shortened, and that its TLB did alone.
  u64 cache_hits() const { return cache_hits_; }
  u64 tlb_hits() const { return tlb_hits_; }

 private:
  [[gnu::always_inline]] WalkVerdict walk_guest(const NestedStart& start, Gva va, Access access,
                                                const Controls& controls, const WalkRules& rules) {
    const unsigned known = start.cached ? start.guest.level : 0;
    const auto read = [&](Gpa where, unsigned level, u64& entry) __attribute__((always_inline)) {
      if (level == known) {
        entry_at_[level] = start.table + where.page_offset();
        table_rights_[level] = Second::kAllRights;
      } else {
        if (!translate(where, SecondAccess::TableRead)) return false;
        entry_at_[level] = host_;
        table_rights_[level] = rights_;
      }
      entry =
          read_entry(memory_, listener_, Side::First, va.raw(),
                     {TableKind::Guest, level, entry_at_[level], level != known, where, 0, false});
      ++guest_refs_;
      return true;
    };
    const auto update = [&](Gpa where, unsigned level, u64 seen, u64 bits) {
      if (!updatable(level)) {
        return stop(where, SecondAccess::TableUpdate, WalkStatus::Ok, table_rights_[level]);
      }
      memory_.write(entry_at_[level], seen | bits);
      listener_.on_flags({TableKind::Guest, level, entry_at_[level], bits & ~seen});
      return true;
    };
    return walk_for_access<GuestFormat>(guest_, start.guest, va, access, controls, rules, read,
                                        update);
  }

  /// Translates into host_ and rights_: by the nested TLB, or by a walk of the second dimension
  /// into path_, whose rights are judged and flags set.
  [[gnu::always_inline]] bool translate(Gpa gpa, SecondAccess why) {
    WalkStart<Second> start{second_.table, second_.levels};
    if (caches_.cache != nullptr) {
      if (!is_final(why) && from_nested_tlb(gpa, why)) return true;
      start_from_cache(gpa, why, start);
    }
    walk<Second>(path_, start, gpa, second_.rules, [&](Hpa where, unsigned level, u64& entry) {
      entry = read_entry(memory_, listener_, Side::Second, gpa.raw(),
                         {Dimension::kTable, level, where, true, gpa, 0, is_final(why)});
      return true;
    });
    second_refs_ += path_.reads();
    // Four levels translate 48 bits and nothing above them; five translate all there are.
    if (gpa.raw() >> (kPageShift + 9 * second_.levels)) [[unlikely]] {
      path_.status = WalkStatus::NotPresent;
      path_.rights = 0;
    }
    const u64 asked = Dimension::asks(why, second_.rules);
    if (path_.status != WalkStatus::Ok || (path_.rights & asked) != asked) [[unlikely]] {
      return stop(gpa, why, path_.status, path_.rights);
    }
    if (Dimension::sets_flags(second_.rules)) {
      const bool write = Dimension::writes(why, second_.rules);
      if (needs_flags(path_, write)) [[unlikely]] {
        if (!set_second_flags(gpa, write)) return false;
      }
    }
    host_ = path_.translate(gpa);
    rights_ = path_.rights;
    if (caches_.cache != nullptr) remember(gpa, why, start.rights);
    keep_entries(memory_, path_, Side::Second, gpa.raw(), Dimension::sets_flags(second_.rules),
                 [this](unsigned level) { return path_.where[level]; });
    return true;
  }

  /// False if a flag must be set and the log has no room: nothing is set then.
  bool set_second_flags(Gpa gpa, bool write) {
    if (log_ != nullptr) {
      if (log_->full()) {
        end_ = NestedEnd::LogFull;
        gpa_ = gpa;
        return false;
      }
      if (write && !(path_.entry[path_.level] & Second::kDirty)) log_->add(gpa);
    }
    return set_flags(path_, write, [&](Hpa where, unsigned level, u64 seen, u64 bits) {
      memory_.write(where, seen | bits);
      listener_.on_flags({Dimension::kTable, level, where, bits & ~seen});
      return true;
    });
  }

  /// Only if the entry grants what is asked and leaves no flag to set.
  bool from_nested_tlb(Gpa gpa, SecondAccess why) {
    const NestedTlb::Entry* e = caches_.cache->find_page(gpa, caches_.tag);
    const u64 asked = Dimension::asks(why, second_.rules);
    if (e == nullptr || (e->rights & asked) != asked) return false;
    const bool flags = Dimension::sets_flags(second_.rules);
    if (flags && Dimension::writes(why, second_.rules) && !e->dirty) return false;
    ++tlb_hits_;
    host_ = e->translate(gpa);
    rights_ = e->rights;
    listener_.on_cached({CacheUse::Kind::NestedTlb, 0, host_.raw(), gpa, is_final(why)});
    return true;
  }

  void start_from_cache(Gpa gpa, SecondAccess why, WalkStart<Second>& start) {
    const auto hit = caches_.cache->tables().find(gpa, caches_.tag);
    if (hit.level == 0) return;
    ++cache_hits_;
    listener_.on_cached(
        {CacheUse::Kind::SecondStructure, hit.level, hit.table, gpa, is_final(why)});
    start = {Hpa(hit.table), hit.level, hit.rights};
  }

  void remember(Gpa gpa, SecondAccess why, u64 rights) {
    for (unsigned level = path_.start_level; level > path_.level; --level) {
      rights &= Second::rights_of(path_.entry[level]);
      caches_.cache->tables().insert(gpa, level, caches_.tag, path_.table_below(level), rights);
    }
    if (is_final(why)) return;
    NestedTlb::Entry e;
    e.base = gpa.align_down(path_.size());
    e.page = path_.page();
    e.rights = path_.rights;
    e.context = caches_.tag;
    e.size = path_.size();
    e.dirty = (path_.entry[path_.level] & Second::kDirty) != 0;
    caches_.cache->insert_page(e);
  }

  bool stop(Gpa gpa, SecondAccess why, WalkStatus status, u64 walked) {
    end_ = Dimension::end(status);
    gpa_ = gpa;
    qualification_ = Dimension::qualification(why, status, walked, second_.rules);
    return false;
  }

  Memory& memory_;
  const SecondRoot second_;  // a copy: nothing written to memory can change it
  WalkPath<GuestFormat> guest_;
  WalkPath<Second> path_;
  std::array<Hpa, kMaxLevels + 1> entry_at_;      // by level, of the entries read
  std::array<u64, kMaxLevels + 1> table_rights_;  // the same
  const SecondCaches caches_;
  DirtyLog* const log_;
  Listener& listener_;
  u64 guest_refs_ = 0, second_refs_ = 0, cache_hits_ = 0, tlb_hits_ = 0;
  Hpa host_;        // of the last address translated
  u64 rights_ = 0;  // the second dimension's for it
  Hpa where_;
  NestedEnd end_ = NestedEnd::Violation;
  u32 error_code_ = 0;
  Gpa gpa_;
  u64 qualification_ = 0;
};

}  // namespace mmuscope
