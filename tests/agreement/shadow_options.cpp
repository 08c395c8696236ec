// Random scripts under every decision that shadow paging can take: the guest sees the same, and
// after every op the audit is content. MMUSCOPE_SEED=n runs one seed alone.

#include <doctest/doctest.h>

#include <cstdlib>
#include <string>

#include "core/random.h"
#include "results/catalog.h"
#include "shadow/audit.h"
#include "tests/support/oracle.h"
#include "tests/support/script.h"
#include "tests/support/setups.h"

namespace mmuscope {
namespace {

using G = ScriptGuest;
using Kind = ScriptOp::Kind;

constexpr u64 kUserRw = x86::kPresent | x86::kWrite | x86::kUser;
constexpr u64 kUsed = x86::kAccessed | x86::kDirty;

const char* const kPagers[] = {
    "shadow",
    "shadow-unsync",
    "shadow-unsync:unsync=off",
    "shadow-unsync:prefetch=off",
    "shadow-unsync:prefetch=forward",
    "shadow-unsync:flood=1",
    "shadow-unsync:flood=0",
    "shadow-unsync:roots=0",
    "shadow-unsync:zap-unsync-children=on",
    "shadow-unsync:rmap-limit=9",
    "shadow-unsync:unsync-pages=1",
    "shadow-unsync:propagate=on",
    "shadow-unsync:large-pages=off",
    "shadow-unsync:policy=xen",
    "shadow-unsync:policy=xen,unsync=off",
    "shadow-unsync:limit=12",
    "shadow:limit=12",
};

template <class T, std::size_t n>
T pick(Random& random, const T (&from)[n]) {
  return from[random.below(n)];
}

/// A user address of the script guest that means something: one of a few pages of each kind.
u64 user_address(Random& random) {
  const u64 base = pick(random, {u64{0}, G::kShared, G::kLarge + G::kData, G::kNothing});
  return base + random.below(10) * kPageBytes + 8 * random.below(4);
}

/// A change that a guest's kernel might make: to a leaf, to an upper entry, or nonsense.
ScriptOp random_edit(Random& random) {
  const auto p = static_cast<unsigned>(random.below(G::kProcesses));
  const u64 va = user_address(random);
  const u64 used = pick(random, {u64{0}, kUsed, kUsed, u64{x86::kAccessed}});
  u64 rights = pick(random, {kUserRw, kUserRw, x86::kPresent | x86::kUser,
                             x86::kPresent | x86::kWrite, kUserRw | x86::kNoExec});
  ScriptOp op;
  op.kind = Kind::Edit;
  if (random.chance(3, 4)) {
    const u64 pte = va < G::kLarge ? va : user_address(random) % G::kLarge;
    op.gpa = G::entry(p, pte, 1);
    op.value = G::data(random.below(G::kDataFrames)) | rights | used;
  } else {
    op.gpa = G::entry(p, va, static_cast<unsigned>(2 + random.below(2)));
    const u64 tables[] = {G::pt(p), G::spare_pt(p), G::shared_pt(), G::pt((p + 1) % 3)};
    op.value = pick(random, tables) | rights | used;
    if (op.gpa >= G::pdpt(p) && op.gpa < G::pdpt(p) + kPageBytes) {
      op.value = G::pd(p) | rights | used;
    } else if (random.chance(1, 4)) {
      op.value = x86::kLarge | rights | used;
    }
  }
  if (random.chance(1, 6)) op.value = 0;
  return op;
}

ScriptOp random_access(Random& random) {
  ScriptOp op;
  op.access.kind =
      pick(random, {AccessKind::Read, AccessKind::Write, AccessKind::Write, AccessKind::Fetch});
  op.access.privilege = pick(random, {Privilege::User, Privilege::User, Privilege::Supervisor});
  op.va = user_address(random);
  op.value = random.next();
  return op;
}

Controls random_controls(Random& random, bool pcide) {
  Controls c;
  c.wp = random.chance(1, 2);
  c.smep = random.chance(1, 2);
  c.smap = random.chance(1, 4);
  c.nxe = random.chance(5, 6);
  c.pge = random.chance(1, 4);
  c.pcide = pcide;
  return c;
}

/// Ops of a guest that flushes what it changed (on the vCPU that changed it) or, not `careful`, of
/// one that flushes when it feels like it.
Script random_script(Random& random, unsigned vcpus, bool careful, bool pcide, unsigned length) {
  Script script;
  const auto add = [&](ScriptOp op, unsigned v) {
    op.vcpu = v;
    script.push_back(op);
  };
  std::vector<u64> root(vcpus, G::root(0));
  while (script.size() < length) {
    const auto v = static_cast<unsigned>(random.below(vcpus));
    const u64 what = random.below(100);
    if (what < 55) {
      add(random_access(random), v);
    } else if (what < 80) {
      add(random_edit(random), v);
      if (!careful) continue;
      for (unsigned each = 0; each < vcpus; ++each) add(control_op(Kind::Cr3, 0, root[each]), each);
    } else if (what < 88) {
      const auto p = static_cast<unsigned>(random.below(G::kProcesses));
      root[v] = G::root(p) | (pcide ? p + 1 : 0);
      const u64 keep = pcide && !careful && random.chance(1, 2) ? u64{1} << 63 : 0;
      add(control_op(Kind::Cr3, 0, root[v] | keep), v);
    } else if (what < 94) {
      add(control_op(Kind::Invlpg, user_address(random), 0), v);
    } else if (what < 96) {
      if (pcide) add(control_op(Kind::Invpcid, user_address(random), random.below(4), 1), v);
    } else if (what < 97) {
      const auto p = static_cast<unsigned>(random.below(G::kProcesses));
      add(control_op(Kind::Zero, 0, 0, G::spare_pt(p)), v);
      for (unsigned each = 0; careful && each < vcpus; ++each) {
        add(control_op(Kind::Cr3, 0, root[each]), each);
      }
    } else if (what < 99) {
      ScriptOp op;
      op.kind = Kind::Controls;
      op.controls = random_controls(random, pcide);
      add(op, v);
    } else {
      add(control_op(Kind::Ac, 0, random.below(2)), v);
    }
  }
  return script;
}

struct End {
  u64 seen, memory;
};

End run_audited(const Setup& setup, unsigned vcpus, bool large_direct_map, const Controls& controls,
                const Script& script) {
  const auto machine = make_machine(setup, G::config(vcpus));
  G guest(*machine, large_direct_map);
  for (unsigned i = 0; i < vcpus; ++i) machine->vcpu(i).set_controls(controls);
  Oracle oracle(*machine);
  oracle.begin();
  for (std::size_t i = 0; i < script.size(); ++i) {
    guest.run(script[i]);
    const std::string wrong = audit_shadow(*machine);
    if (!wrong.empty()) {
      throw Disagreement("after op " + std::to_string(i) + ", " + script[i].text() + ": " + wrong);
    }
  }
  oracle.check_memory();
  return {oracle.digest(), oracle.memory_digest()};
}

void check_seed(u64 seed, unsigned length) {
  Random random(seed);
  const auto vcpus = static_cast<unsigned>(1 + random.below(3));
  const bool careful = random.chance(1, 2), pcide = random.chance(1, 3);
  const bool large_direct_map = random.chance(1, 2);
  Controls controls;
  controls.pcide = pcide;
  const Script script = random_script(random, vcpus, careful, pcide, length);
  for (const char* pager : kPagers) {
    const Setup setup{pager, random.chance(1, 2) ? PageSize::k2M : PageSize::k4K};
    INFO("MMUSCOPE_SEED=" << seed << " under " << setup.name());
    try {
      run_audited(setup, vcpus, large_direct_map, controls, script);
    } catch (const Disagreement& d) {
      FAIL(std::string(d.what()));
    }
  }
}

void check_seeds(u64 first, u64 count, unsigned length) {
  if (const char* only = std::getenv("MMUSCOPE_SEED")) {
    check_seed(std::strtoull(only, nullptr, 10), length);
    return;
  }
  for (u64 seed = first; seed < first + count; ++seed) check_seed(seed, length);
}

/// Shows the oracle all that it sees, and audits the shadow tables now and then.
class Auditor final : public AccessObserver {
 public:
  Auditor(Machine& machine, Oracle& oracle) : machine_(machine), oracle_(oracle) {
    for (unsigned i = 0; i < machine.vcpu_count(); ++i) machine.vcpu(i).set_observer(this);
  }
  void on_access(Vcpu& vcpu, const Seen& seen) override {
    oracle_.on_access(vcpu, seen);
    if (++accesses_ % 64 == 0) audit();
  }
  void on_cr3(Vcpu& vcpu, u64 value) override { oracle_.on_cr3(vcpu, value); }
  void on_controls(Vcpu& vcpu, const Controls& to) override { oracle_.on_controls(vcpu, to); }
  void on_invlpg(Vcpu& vcpu, Gva va) override { oracle_.on_invlpg(vcpu, va); }
  void on_invpcid(Vcpu& vcpu, InvpcidType type, u32 pcid, Gva va) override {
    oracle_.on_invpcid(vcpu, type, pcid, va);
  }
  void audit() const {
    const std::string wrong = audit_shadow(machine_);
    if (!wrong.empty()) {
      throw Disagreement("after access " + std::to_string(accesses_) + ": " + wrong);
    }
  }

 private:
  Machine& machine_;
  Oracle& oracle_;
  u64 accesses_ = 0;
};

void check_workload(const Setup& setup, const std::string& text, unsigned vcpus, bool kpti,
                    bool pcid) {
  INFO(text << " under " << setup.name() << (kpti ? ", KPTI" : "") << (pcid ? ", PCIDs" : ""));
  const Spec spec = parse_spec(text);
  const WorkloadInfo& info = find_workload(spec.name);
  Params params("workload " + spec.name, info.params);
  params.set_list(spec.list);
  const std::unique_ptr<Workload> workload = info.make(params, 1);
  MachineConfig config;
  config.memory_bytes = workload->memory_bytes();
  config.vcpus = vcpus;
  config.kpti = kpti;
  config.pcid = pcid;
  const auto machine = make_machine(setup, config);
  Oracle oracle(*machine);
  Auditor auditor(*machine, oracle);
  try {
    workload->run(*machine, nullptr);
    oracle.check_memory();
    auditor.audit();
    CHECK(oracle.checked() > 500);
  } catch (const Disagreement& d) {
    FAIL_CHECK(std::string(d.what()));
  }
}

void check_workloads(bool kpti, bool pcid) {
  for (const char* pager : kPagers) {
    if (std::string(pager).find("limit=12") != std::string::npos) continue;
    for (const PageSize backing : {PageSize::k4K, PageSize::k2M}) {
      const Setup setup{pager, backing};
      const auto check = [&](const char* text, unsigned vcpus) {
        check_workload(setup, text, vcpus, kpti, pcid);
      };
      check("fork:operations=2,resident=32k,writes=2,processes=2", 2);
      check("churn:bytes=128k,block=64k,processes=2", 1);
      check("ptemod:operations=100,op=protect,pages=16,read=on", 1);
      check("switch:slices=24,pages=4,processes=8", 1);
      check("database:bytes=256k,accesses=1000,threads=2,slice=100", 2);
    }
  }
}

TEST_CASE("workloads agree with the reference under every policy, and pass the audit") {
  check_workloads(false, true);
}
TEST_CASE("workloads with KPTI and PCIDs agree under every policy, and pass the audit") {
  check_workloads(true, true);
}
TEST_CASE("workloads without PCIDs agree under every policy, and pass the audit") {
  check_workloads(false, false);
}
TEST_CASE("workloads with KPTI and no PCIDs agree under every policy, and pass the audit") {
  check_workloads(true, false);
}

TEST_CASE("shadow paging agrees with the reference under every policy, and passes the audit") {
  check_seeds(1, 20, 60);
}
TEST_CASE("slow: shadow paging agrees with the reference under every policy, many seeds") {
  check_seeds(1000, 400, 150);
}

}  // namespace
}  // namespace mmuscope
