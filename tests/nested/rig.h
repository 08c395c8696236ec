#pragma once

#include <memory>
#include <string>

#include "core/machine.h"
#include "nested/nested_pager.h"
#include "tests/support/guest_tables.h"

namespace mmuscope {

/// A machine under the nested pager with one hand-laid address space.
struct NestedRig {
  static constexpr u64 kTables = u64{1} << 20;  // guest tables from here on

  explicit NestedRig(MachineConfig config = {}, const std::string& keys = "")
      : machine(config,
                [&](Machine& m) {
                  // The pager's root is the first frame that it asks for.
                  const Hfn first = m.memory().allocate_table();
                  m.memory().free_table(first);
                  ept_root = first.base();
                  Params params("pager nested", nested_params());
                  params.set_list(keys);
                  return make_nested_pager(m, params);
                }),
        tables(machine, Gpa(kTables)),
        root(tables.new_table()) {
    Controls controls;
    controls.levels = config.guest_levels;
    vcpu().set_controls(controls);
    vcpu().write_cr3(root.raw());
  }

  Vcpu& vcpu() { return machine.vcpu(0); }
  u64 count(Event e) { return vcpu().counters[e]; }

  /// Where the second dimension's entry is at which the walk for the address ends.
  template <class Format = EptTables>
  Hpa second_entry(Gpa a) {
    WalkPath<Format> path;
    walk<Format>(path, {ept_root, 4}, a, WalkRules{}, [&](Hpa where, unsigned, u64& e) {
      e = machine.memory().read(where);
      return true;
    });
    return path.where[path.level];
  }
  void change_second(Gpa a, u64 clear, u64 set = 0) {
    const Hpa where = second_entry(a);
    machine.memory().write(where, (machine.memory().read(where) & ~clear) | set);
    vcpu().flush_space();
  }

  Hpa ept_root;
  Machine machine;
  GuestTables tables;
  Gpa root;
};

}  // namespace mmuscope
