#pragma once

#include <map>
#include <vector>

#include "core/address.h"
#include "workloads/guest/direct_map.h"

namespace mmuscope {

/// Rights of a mapping, with the values of PROT_READ, PROT_WRITE and PROT_EXEC.
namespace prot {
inline constexpr u8 kNone = 0;
inline constexpr u8 kRead = 1;
inline constexpr u8 kWrite = 2;
inline constexpr u8 kExec = 4;
}  // namespace prot

/// What is behind a mapping: zeros in small pages, zeros in 2-MByte pages (as hugetlbfs gives
/// them), or a file. All mappings of a file have its pages in common; a private one until it
/// writes, a shared one for good. Shared anonymous memory is a shared file that nobody else names.
struct Source {
  enum class Kind : u8 { Anonymous, Huge, File };
  Kind kind = Kind::Anonymous;
  u32 file = 0;    ///< any number that names the file
  u64 offset = 0;  ///< in the file, in bytes, a multiple of the page
  bool shared = false;

  static constexpr Source anonymous() { return {}; }
  static constexpr Source huge() { return {Kind::Huge, 0, 0, false}; }
  static constexpr Source of_file(u32 file, u64 offset) {
    return {Kind::File, file, offset, false};
  }
  static constexpr Source of_shared_file(u32 file, u64 offset) {
    return {Kind::File, file, offset, true};
  }
};

/// What a program has said about huge pages in a mapping: MADV_HUGEPAGE, MADV_NOHUGEPAGE.
enum class HugeAdvice : u8 { None, Wanted, Refused };

/// A range of one address space with one source and one set of rights: Linux's vm_area_struct.
struct Vma {
  Gva start, end;
  u8 rights = 0;  ///< namespace prot
  Source source;
  /// Some page of a file mapping has been replaced by a private copy (Linux: anon_vma).
  bool has_copies = false;
  HugeAdvice advice = HugeAdvice::None;

  bool contains(Gva a) const { return start <= a && a < end; }
  /// The smallest page that it is mapped in.
  PageSize page() const {
    return source.kind == Source::Kind::Huge ? PageSize::k2M : PageSize::k4K;
  }
};

/// The mappings of an address space, disjoint and in order. Neighbours that could be one are one.
/// A balanced tree, as programs may have tens of thousands (Linux: a maple tree, and up to 65,530
/// of them, sysctl_max_map_count). find_free() looks at one mapping after the other, but not again
/// at those above which nothing is free.
class VmaList {
 public:
  /// The mapping that contains the address, or nullptr. Valid until that part of the list changes.
  Vma* find(Gva a);
  /// By their starts.
  const std::map<Gva, Vma>& all() const { return vmas_; }
  /// Adds a mapping to a range that is free.
  void insert(const Vma& vma);
  /// Takes [start, end) out, splitting mappings at its ends, and returns what was in it.
  std::vector<Vma> remove(Gva start, Gva end);
  /// What is in [start, end), mappings that reach out of it cut.
  std::vector<Vma> parts(Gva start, Gva end) const;
  bool is_free(Gva start, Gva end) const;
  /// True if the whole range is mapped.
  bool covers(Gva start, Gva end) const;
  /// The highest free range of that size below kMapTop, aligned to the page size; address 0 if
  /// there is none.
  Gva find_free(u64 bytes, PageSize align);
  /// The end of the last mapping before the address (0 if there is none), and the start of the
  /// first at or after it (the end of the lower half if there is none). Neither may cut a mapping.
  Gva end_before(Gva a) const;
  Gva start_from(Gva a) const;

 private:
  using Vmas = std::map<Gva, Vma>;
  /// The first mapping that ends after the address.
  Vmas::const_iterator first_after(Gva a) const;
  void merge_with_next(Vmas::iterator at);

  Vmas vmas_;
  Gva full_from_ = kMapTop;  ///< from here to kMapTop nothing is free
};

}  // namespace mmuscope
