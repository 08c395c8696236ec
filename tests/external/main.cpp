// Checks and compares a pager that mmuscope does not know, and finds the bug planted in another.

#include <cstdio>
#include <vector>

#include "core/error.h"
#include "core/machine.h"
#include "core/native_pager.h"
#include "core/x86_hardware.h"
#include "results/comparison.h"
#include "tests/support/agreement.h"

namespace {

using namespace mmuscope;

/// Walks the guest's tables from the root each time: native paging without paging-structure caches.
/// `forgets_dirty`: translates for a write without setting D.
class OwnPager final : public Pager {
 public:
  OwnPager(Machine& machine, bool forgets_dirty)
      : machine_(machine), forgets_dirty_(forgets_dirty) {}

  Outcome walk(Vcpu& vcpu, Gva va, Access access) override {
    PhysicalMemory& memory = machine_.memory();
    const Controls& controls = vcpu.controls();
    WalkPath<GuestFormat> path;
    const auto read = [&](Gpa where, unsigned, u64& entry) {
      ++vcpu.counters[Event::TableRefGuest];
      entry = where.raw() + 8 <= machine_.map().bytes() ? memory.read(Hpa(where.raw())) : ~u64{0};
      return true;
    };
    const auto update = [&](Gpa where, unsigned, u64 seen, u64 bits) {
      if (forgets_dirty_) bits &= ~u64{GuestFormat::kDirty};
      memory.write(Hpa(where.raw()), seen | bits);
      return true;
    };
    const WalkVerdict verdict =
        walk_for_access<GuestFormat>(path, {vcpu.root(), controls.levels}, va, access, controls,
                                     machine_.guest_rules(controls), read, update);
    if (verdict != WalkVerdict::Permitted) {
      return Outcome::fault_of(GuestFault::Kind::PageFault,
                               page_fault_code(access, controls, path.status), va);
    }
    Translation t = x86_translation(path, controls);
    t.page = Hpa(path.page().raw());
    return Outcome::translated(t);
  }
  bool intercepts(ExitReason) const override { return false; }
  Resume handle(Vcpu&, const VmExit&) override { throw RunError("nothing exits"); }
  Gauges gauges() const override { return {}; }
  TableUse table_use(std::span<const Gpa> roots) const override {
    return {std::vector<TableUse::Share>(roots.size()), std::vector<u64>(roots.size()), {}, {}};
  }

 private:
  Machine& machine_;
  bool forgets_dirty_;
};

std::span<const ParamInfo> no_keys() { return {}; }
std::unique_ptr<Pager> make_own(Machine& machine, const Params&) {
  return std::make_unique<OwnPager>(machine, false);
}
std::unique_ptr<Pager> make_forgetful(Machine& machine, const Params&) {
  return std::make_unique<OwnPager>(machine, true);
}

void print(const char* name, const Agreement& a) {
  std::printf("%s: %llu runs, %llu accesses checked: %s\n", name,
              static_cast<unsigned long long>(a.runs), static_cast<unsigned long long>(a.checked),
              a.holds() ? "agrees" : a.disagreement.c_str());
}

}  // namespace

int main() {
  const PagerInfo own{"own", "native without caches", false, TableOwner::Nobody, no_keys, make_own};
  const PagerInfo forgetful{"forgetful", "the same, with a bug in it",
                            false,       TableOwner::Nobody,
                            no_keys,     make_forgetful};
  const std::vector<PagerInfo> pagers = {own, find_pager("native"), find_pager("nested")};

  const Agreement scripts = check_scripts(pagers, 1, 50);
  print("scripts", scripts);
  const Agreement workload = check_workload(pagers, "fork:operations=4,resident=32k", 1);
  print("workload", workload);
  const Agreement broken = check_scripts(std::span(&forgetful, 1), 1, 50);
  print("forgetful", broken);

  ExperimentText text;
  text.workload = "churn:bytes=1m,block=256k";
  const Comparison comparison = compare_pagers("own", text, {"own", "native", "nested"}, pagers);
  std::printf("%s", comparison_table(comparison.runs).c_str());
  return scripts.holds() && workload.holds() && !broken.holds() ? 0 : 1;
}
