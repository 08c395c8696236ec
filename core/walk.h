#pragma once

#include <array>
#include <utility>

#include "core/entry.h"

namespace mmuscope {

inline constexpr unsigned kMaxLevels = 5;

enum class WalkStatus : u8 {
  Ok,          ///< a leaf was reached and nothing in the structure objects
  NotPresent,  ///< an entry is not present
  Malformed,   ///< an entry has reserved bits set (x86) or is misconfigured (EPT)
  Stopped,     ///< the reader gave up: its own translation faulted or exited
};

/// Where a walk starts: the root, or further down where a paging-structure cache knows the way.
template <class Format>
struct WalkStart {
  typename Format::Out table;
  unsigned level;                   ///< of `table`: its entries are read first
  u64 rights = Format::kAllRights;  ///< AND over the levels above
};

/// What a walk found. Entry `i` of the arrays belongs to level i (1 = PT); only levels in
/// [leaf_level or failing level, start level] are meaningful.
template <class Format>
struct WalkPath {
  WalkStatus status = WalkStatus::Stopped;
  u8 start_level = 0;
  u8 level = 0;    ///< of the leaf, or of the entry at which the walk ended
  u64 rights = 0;  ///< AND over all entries used; 0 when one was not present
  u64 common = 0;  ///< the entries read, ANDed, but their kDenying bits ORed; only if status is Ok
  std::array<typename Format::Out, kMaxLevels + 1> where;  ///< address of each entry read
  std::array<u64, kMaxLevels + 1> entry;                   ///< its value

  PageSize size() const { return leaf_size(level); }
  unsigned reads() const { return start_level - level + 1u; }  ///< entries read
  /// Where the page that the leaf maps begins, and where `in` lies in it.
  typename Format::Out page() const {
    return typename Format::Out(entry[level] & Format::kAddressMask &
                                ~(page_bytes(leaf_size(level)) - 1));
  }
  typename Format::Out translate(typename Format::In in) const {
    return page() + in.offset_in(size());
  }
  u64 table_below(unsigned l) const { return entry[l] & Format::kAddressMask; }
};

/// The only radix walk in the project: from `start` to a leaf, judging structure but not rights.
/// `read(Out where, unsigned level, u64& entry)` returns false to stop the walk; it counts.
template <class Format, class Read>
[[gnu::always_inline]] inline void walk(WalkPath<Format>& path, WalkStart<Format> start,
                                        typename Format::In in, const WalkRules& rules,
                                        Read&& read) {
  const u64 reserved = Format::reserved_mask(rules);
  auto table = start.table;
  u64 common = ~u64{0};  // kDenying bits inverted
  path.start_level = static_cast<u8>(start.level);
  for (unsigned level = start.level;; --level) {
    const auto where = table + 8 * table_index(in, level);
    u64 entry;
    if (!read(where, level, entry)) {
      path.level = static_cast<u8>(level);
      path.where[level] = where;
      path.status = WalkStatus::Stopped;
      return;
    }
    path.where[level] = where;
    path.entry[level] = entry;
    common &= entry ^ Format::kDenying;
    const EntryState state = Format::state(entry, level, rules, reserved);
    if (state != EntryState::Table) {
      path.level = static_cast<u8>(level);
      path.common = common ^ Format::kDenying;
      path.status = state == EntryState::Leaf         ? WalkStatus::Ok
                    : state == EntryState::NotPresent ? WalkStatus::NotPresent
                                                      : WalkStatus::Malformed;
      path.rights = state == EntryState::Leaf ? start.rights & Format::rights_of(path.common) : 0;
      return;
    }
    table = typename Format::Out(entry & Format::kAddressMask);
  }
}

/// True if some entry of a successful walk lacks a flag that the access sets: A in every entry
/// used, D in the leaf of a write.
template <class Format>
inline bool needs_flags(const WalkPath<Format>& path, bool write) {
  return !(path.common & Format::kAccessed) ||
         (write && !(path.entry[path.level] & Format::kDirty));
}

/// Sets the missing flags, top level first. `update(Out where, unsigned level, u64 seen, u64 bits)`
/// stores seen|bits and returns false to stop (the write itself may fault in a second dimension);
/// set_flags then returns false too, with path.level at the entry that could not be written.
template <class Format, class Update>
inline bool set_flags(WalkPath<Format>& path, bool write, Update&& update) {
  const u8 leaf = path.level;
  for (unsigned l = path.start_level; l >= leaf; --l) {
    const u64 bits = Format::kAccessed | (write && l == leaf ? Format::kDirty : 0);
    if ((path.entry[l] & bits) == bits) continue;
    if (!update(path.where[l], l, path.entry[l], bits)) {
      path.level = static_cast<u8>(l);
      return false;
    }
    path.entry[l] |= bits;
  }
  return true;
}

/// #PF error code bits. SDM vol. 3, *Page-Fault Exceptions*.
namespace pf {
inline constexpr u32 kPresent = 1;
inline constexpr u32 kWrite = 2;
inline constexpr u32 kUser = 4;
inline constexpr u32 kReserved = 8;
inline constexpr u32 kFetch = 16;
}  // namespace pf

/// The error code of a #PF for this access. I/D is reported only where fetches can be forbidden.
constexpr u32 page_fault_code(Access access, const Controls& c, WalkStatus status) {
  u32 code = status == WalkStatus::NotPresent ? 0 : pf::kPresent;
  if (status == WalkStatus::Malformed) code |= pf::kReserved;
  if (access.is_write()) code |= pf::kWrite;
  if (access.is_user()) code |= pf::kUser;
  if (access.is_fetch() && (c.nxe || c.smep)) code |= pf::kFetch;
  return code;
}

/// Rights of a translation from the AND of an x86 walk: adds Sup, the complement of User, and Read,
/// which x86 entries cannot deny.
constexpr u8 translation_rights(u64 walked) {
  return static_cast<u8>(walked | rights::kRead | (walked & rights::kUser ? 0 : rights::kSup));
}
constexpr bool permits(u8 held, u8 needed) { return (held & needed) == needed; }

/// True if an x86 walk that reached a leaf permits the access; judged after the whole walk. SDM
/// vol. 3, *Determination of Access Rights*.
template <class Format>
constexpr bool walk_permits(const WalkPath<Format>& path, Access access, const Controls& c) {
  return permits(translation_rights(path.rights), required_rights(access, c));
}

/// How an access ends in one dimension of x86 tables.
enum class WalkVerdict : u8 {
  Permitted,
  Fault,    ///< #PF with page_fault_code(access, controls, path.status)
  Stopped,  ///< `read` or `update` gave up
};

/// What hardware does with x86 tables for one access: walks them, judges the rights of the whole
/// path, and only if they permit the access sets A, and D for a write (see set_flags for `update`).
template <class Format, class Read, class Update>
[[gnu::always_inline]] inline WalkVerdict walk_for_access(
    WalkPath<Format>& path, WalkStart<Format> start, typename Format::In in, Access access,
    const Controls& controls, const WalkRules& rules, Read&& read, Update&& update) {
  walk<Format>(path, start, in, rules, read);
  if (path.status == WalkStatus::Stopped) return WalkVerdict::Stopped;
  if (path.status != WalkStatus::Ok || !walk_permits(path, access, controls)) {
    return WalkVerdict::Fault;
  }
  if (needs_flags(path, access.is_write()) && !set_flags(path, access.is_write(), update)) {
    return WalkVerdict::Stopped;
  }
  return WalkVerdict::Permitted;
}

}  // namespace mmuscope
