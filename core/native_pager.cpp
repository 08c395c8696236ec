#include "core/native_pager.h"

#include <string>

#include "core/error.h"
#include "core/machine.h"
#include "core/walk_memory.h"
#include "core/x86_hardware.h"

namespace mmuscope {

namespace {

class NativePager final : public Pager {
 public:
  explicit NativePager(Machine& machine) : machine_(machine) {
    assert(machine.map().is_identity());
  }

  Outcome walk(Vcpu& vcpu, Gva va, Access access) override {
    return walk_in_memory(vcpu, machine_.memory(), va, [&](auto& memory, auto& told) {
      return walk_told(vcpu, va, access, memory, told);
    });
  }
  bool intercepts(ExitReason) const override { return false; }
  Resume handle(Vcpu&, const VmExit&) override {
    assert(false && "nothing exits natively");
    return Resume::retry();
  }
  Gauges gauges() const override { return {}; }
  TableUse table_use(std::span<const Gpa> roots) const override {
    return {std::vector<TableUse::Share>(roots.size()), std::vector<u64>(roots.size()), {}, {}};
  }

 private:
  template <class Memory, class Listener>
  Outcome walk_told(Vcpu& vcpu, Gva va, Access access, Memory& memory, Listener& listener);

  Machine& machine_;
};

template <class Memory, class Listener>
Outcome NativePager::walk_told(Vcpu& vcpu, Gva va, Access access, Memory& memory,
                               Listener& listener) {
  const Controls& controls = vcpu.controls();
  WalkStart<GuestFormat> start{vcpu.root(), controls.levels};
  start_from_cache(vcpu, va, start, listener);
  WalkPath<GuestFormat> path;
  u64 refs = 0;
  const auto read = [&](Gpa where, unsigned level, u64& entry) {
    ++refs;
    // Beyond memory nobody answers: all ones.
    const EntryRead asked{TableKind::Guest, level, Hpa(where.raw()), true, where, ~u64{0}, false};
    if (where.raw() + 8 <= machine_.map().bytes()) {
      entry = read_entry(memory, listener, Side::First, va.raw(), asked);
    } else {
      entry = asked.value;
      listener.on_entry(asked);
    }
    return true;
  };
  const auto update = [&](Gpa where, unsigned level, u64 seen, u64 bits) {
    listener.on_flags({TableKind::Guest, level, Hpa(where.raw()), bits & ~seen});
    memory.write(Hpa(where.raw()), seen | bits);
    return true;
  };
  const WalkVerdict verdict = walk_for_access<GuestFormat>(
      path, start, va, access, controls, machine_.guest_rules(controls), read, update);
  vcpu.counters[Event::TableRefGuest] += refs - cached_entries(memory, Side::First);
  if (verdict != WalkVerdict::Permitted) {
    return Outcome::fault_of(GuestFault::Kind::PageFault,
                             page_fault_code(access, controls, path.status), va);
  }
  cache_path(vcpu, va, path, start.rights);
  keep_entries(memory, path, Side::First, va.raw(), true,
               [&](unsigned level) { return Hpa(path.where[level].raw()); });
  Translation t = x86_translation(path, controls);
  t.page = Hpa(path.page().raw());
  if (!machine_.map().contains(path.translate(va), 8)) {
    throw RunError("the guest reached physical address " +
                   std::to_string(path.translate(va).raw()) + ", beyond its memory");
  }
  return Outcome::translated(t);
}

}  // namespace

std::unique_ptr<Pager> make_native_pager(Machine& machine) {
  return std::make_unique<NativePager>(machine);
}

}  // namespace mmuscope
