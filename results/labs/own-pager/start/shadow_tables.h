#pragma once

#include <vector>

#include "core/machine.h"

/// Tables of one vCPU that lead from guest-virtual to host-physical addresses: frames of the
/// machine's memory with real x86 entries in them, which OwnPager::walk() has the hardware walk.
/// They map 4 KiB pages only.
class ShadowTables {
 public:
  explicit ShadowTables(mmuscope::Machine& machine) : machine_(machine) { root_ = new_table(); }

  mmuscope::Hpa root() const { return root_.base(); }
  mmuscope::u64 pages() const { return tables_.size(); }

  /// The page at `va` leads to the host page, with these rights (namespace mmuscope::rights:
  /// kWrite, kUser, kExec; reading is always allowed). `levels`: of the guest's tables, 4 or 5.
  void map(mmuscope::Gva va, unsigned levels, mmuscope::Hpa page, unsigned rights) {
    using namespace mmuscope;
    Hpa table = root();
    for (unsigned level = levels; level > 1; --level) {
      const Hpa where = table + 8 * table_index(va, level);
      u64 entry = machine_.memory().read(where);
      if (!(entry & x86::kPresent)) {
        entry = new_table().base().raw() | x86::kPresent | x86::kWrite | x86::kUser;
        machine_.memory().write(where, entry);
      }
      table = Hpa(entry & x86::kAddressMask);
    }
    u64 leaf = page.raw() | x86::kPresent | x86::kAccessed;
    if (rights & rights::kWrite) leaf |= x86::kWrite | x86::kDirty;
    if (rights & rights::kUser) leaf |= x86::kUser;
    if (!(rights & rights::kExec)) leaf |= x86::kNoExec;
    machine_.memory().write(table + 8 * table_index(va, 1), leaf);
  }

  /// Nothing is mapped at `va` any more.
  void unmap(mmuscope::Gva va, unsigned levels) {
    using namespace mmuscope;
    Hpa table = root();
    for (unsigned level = levels; level > 1; --level) {
      const u64 entry = machine_.memory().read(table + 8 * table_index(va, level));
      if (!(entry & x86::kPresent)) return;
      table = Hpa(entry & x86::kAddressMask);
    }
    machine_.memory().write(table + 8 * table_index(va, 1), 0);
  }

  /// Nothing is mapped any more.
  void clear() {
    for (const mmuscope::Hfn table : tables_) machine_.memory().free_table(table);
    tables_.clear();
    root_ = new_table();
  }

 private:
  mmuscope::Hfn new_table() {
    tables_.push_back(machine_.memory().allocate_table());
    return tables_.back();
  }

  mmuscope::Machine& machine_;
  std::vector<mmuscope::Hfn> tables_;
  mmuscope::Hfn root_;
};
