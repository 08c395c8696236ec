#pragma once

#include <vector>

#include "core/address.h"

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
class VmaList {
 public:
  /// The mapping that contains the address, or nullptr. Valid until the list changes.
  Vma* find(Gva a);
  const std::vector<Vma>& all() const { return vmas_; }
  /// Adds a mapping to a range that is free.
  void insert(const Vma& vma);
  /// Takes [start, end) out, splitting mappings at its ends, and returns what was in it.
  std::vector<Vma> remove(Gva start, Gva end);
  /// What is in [start, end), mappings that reach out of it cut.
  std::vector<Vma> parts(Gva start, Gva end) const;
  bool is_free(Gva start, Gva end) const;
  /// True if the whole range is mapped.
  bool covers(Gva start, Gva end) const;
  /// The highest free range of that size below `top`, aligned to the page size; address 0 if there
  /// is none.
  Gva find_free(u64 bytes, PageSize align, Gva top) const;
  /// The end of the last mapping before the address (0 if there is none), and the start of the
  /// first at or after it (the end of the lower half if there is none). Neither may cut a mapping.
  Gva end_before(Gva a) const;
  Gva start_from(Gva a) const;

 private:
  /// The index of the first mapping that ends after the address.
  std::size_t first_after(Gva a) const;
  bool inside(Gva a) const;

  std::vector<Vma> vmas_;
};

}  // namespace mmuscope
