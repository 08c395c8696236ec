#pragma once

#include <doctest/doctest.h>

#include <string>

#include "core/machine.h"
#include "shadow/audit.h"
#include "shadow/shadow_pager.h"
#include "shadow/unsync_pager.h"
#include "tests/support/guest_tables.h"

namespace mmuscope {

/// A machine under a shadow pager, with one hand-laid address space: a direct map of the
/// first 16 MiB of guest memory at kDirect, for the guest to edit its tables through, and whatever
/// a test maps before the first access.
struct ShadowRig {
  static constexpr u64 kTables = u64{1} << 20;  // guest tables from here on
  static constexpr u64 kDirectBytes = u64{16} << 20;
  static constexpr Gva kDirect{u64{32} << 39};
  static constexpr u64 kKernel = GuestTables::kSupRw | GuestTables::kTouched;
  static constexpr u64 kUser = GuestTables::kUserRw;

  enum class Kind { Classic, Unsync };

  explicit ShadowRig(MachineConfig config = {}, const std::string& keys = "",
                     PageSize direct_map = PageSize::k4K, Kind kind = Kind::Classic)
      : machine(config, [&](Machine& m) { return make_pager(kind, m, keys); }),
        tables(machine, Gpa(kTables)),
        root(new_space(direct_map)) {
    for (unsigned i = 0; i < machine.vcpu_count(); ++i) machine.vcpu(i).set_cr3(root.raw());
  }

  static std::unique_ptr<Pager> make_pager(Kind kind, Machine& m, const std::string& keys) {
    const bool classic = kind == Kind::Classic;
    Params params(classic ? "pager shadow" : "pager shadow-unsync",
                  classic ? shadow_params() : unsync_params());
    params.set_list(keys);
    return classic ? make_shadow_pager(m, params) : make_unsync_pager(m, params);
  }

  /// A root with the direct map in it.
  Gpa new_space(PageSize direct_map = PageSize::k4K) {
    const Gpa r = tables.new_table();
    tables.map_range(r, kDirect, Gpa(0), kDirectBytes, kKernel, direct_map);
    return r;
  }
  Vcpu& vcpu(unsigned i = 0) { return machine.vcpu(i); }
  /// The guest's own write to one of its table entries.
  void edit(Gpa entry, u64 value) { vcpu().store(kDirect + entry.raw(), value); }
  u64 direct_read(Gpa a) { return vcpu().load(kDirect + a.raw()); }
  Gpa entry(Gva va, unsigned level = 1) { return tables.entry(root, va, level); }
  Gauges gauges() { return machine.pager().gauges(); }

  /// What is counted while `work` runs, on all vCPUs. Then the audit must be content.
  template <class Work>
  Counters during(Work&& work) {
    const Counters before = machine.counters();
    work();
    CHECK(audit_shadow(machine) == "");
    return machine.counters() - before;
  }

  Machine machine;
  GuestTables tables;
  Gpa root;
};

}  // namespace mmuscope
