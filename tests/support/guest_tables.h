#pragma once

#include "core/entry.h"
#include "core/machine.h"

namespace mmuscope {

/// Lays out guest tables by hand, of as many levels as the machine is configured for, through the
/// harness's door, for tests and benchmarks that need no guest kernel. Tables are taken upwards
/// from `first_table`.
class GuestTables {
 public:
  static constexpr u64 kUserRw = x86::kPresent | x86::kWrite | x86::kUser;
  static constexpr u64 kSupRw = x86::kPresent | x86::kWrite;
  static constexpr u64 kTouched = x86::kAccessed | x86::kDirty;

  GuestTables(Machine& machine, Gpa first_table)
      : machine_(machine), levels_(machine.config().guest_levels), next_(first_table) {}

  Gpa new_table() {
    const Gpa table = next_;
    next_ = next_ + kPageBytes;
    return table;
  }
  /// The first address that no table uses.
  Gpa end() const { return next_; }

  /// Address of the entry of `level` on the way to va; makes the tables above it, with all rights.
  Gpa entry(Gpa root, Gva va, unsigned level) {
    Gpa table = root;
    for (unsigned l = levels_; l > level; --l) {
      const Gpa where = table + 8 * table_index(va, l);
      u64 e = machine_.host_read(where);
      if (!(e & x86::kPresent)) {
        e = new_table().raw() | kUserRw;
        machine_.host_write(where, e);
      }
      table = Gpa(e & x86::kAddressMask);
    }
    return table + 8 * table_index(va, level);
  }
  /// Maps one page of that size.
  void map(Gpa root, Gva va, Gpa to, u64 flags, PageSize size = PageSize::k4K) {
    const u64 large = size == PageSize::k4K ? 0 : x86::kLarge;
    machine_.host_write(entry(root, va, leaf_level(size)), to.raw() | flags | large);
  }
  /// Maps [va, va+bytes) to [to, to+bytes) in pages of that size.
  void map_range(Gpa root, Gva va, Gpa to, u64 bytes, u64 flags, PageSize size = PageSize::k4K) {
    for (u64 at = 0; at < bytes; at += page_bytes(size)) map(root, va + at, to + at, flags, size);
  }

 private:
  Machine& machine_;
  unsigned levels_;
  Gpa next_;
};

}  // namespace mmuscope
