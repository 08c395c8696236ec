#include "tests/support/script.h"

#include <malloc.h>
#include <sys/prctl.h>

#include <cstdio>

#include "core/error.h"
#include "tests/support/guest_tables.h"
#include "tests/support/oracle.h"
#include "tests/support/setups.h"

namespace mmuscope {

ScriptOp control_op(ScriptOp::Kind kind, u64 va, u64 value, u64 gpa) {
  ScriptOp op;
  op.kind = kind;
  op.va = va;
  op.value = value;
  op.gpa = gpa;
  return op;
}

std::string ScriptOp::text() const {
  static constexpr const char* kKinds[] = {"access", "edit",    "zero",     "cr3",
                                           "invlpg", "invpcid", "controls", "ac"};
  char line[160];
  const auto n = [](u64 v) { return static_cast<unsigned long long>(v); };
  if (kind == Kind::Access) {
    std::snprintf(
        line, sizeof line, "vcpu %u: %c%c va %llx value %llx bytes %u%s", vcpu,
        access.is_user() ? 'u' : 's', "rwx" [static_cast<int>(access.kind)], n(va), n(value),
        unsigned { bytes }, exchange ? " exchange" : "");
  } else if (kind == Kind::Controls) {
    std::snprintf(
        line, sizeof line, "vcpu %u: controls wp %d smep %d smap %d nxe %d pge %d pcide %d", vcpu,
        controls.wp, controls.smep, controls.smap, controls.nxe, controls.pge, controls.pcide);
  } else {
    std::snprintf(line, sizeof line, "vcpu %u: %s va %llx gpa %llx value %llx bytes %u%s", vcpu,
                  kKinds[static_cast<int>(kind)], n(va), n(gpa), n(value), unsigned{bytes},
                  exchange ? " exchange" : "");
  }
  return line;
}

std::string text_of(const Script& script) {
  std::string text;
  for (std::size_t i = 0; i < script.size(); ++i) {
    text += "  step " + std::to_string(i + 1) + "  " + script[i].text() + "\n";
  }
  return text;
}

u64 ScriptGuest::entry(unsigned p, u64 va, unsigned level) {
  u64 table = root(p);
  if (level == 3) table = pdpt(p);
  if (level == 2) table = pd(p);
  if (level == 1) table = va >= kShared && va < kLarge ? shared_pt() : pt(p);
  return table + 8 * table_index(Gva(va), level);
}

MachineConfig ScriptGuest::config(unsigned vcpus) {
  MachineConfig c;
  c.memory_bytes = kMemory;
  c.vcpus = vcpus;
  return c;
}

ScriptGuest::ScriptGuest(Machine& machine, bool large_direct_map) : machine_(machine) {
  constexpr u64 kUser = GuestTables::kUserRw;
  const auto put = [&](u64 gpa, u64 value) { machine.host_write(Gpa(gpa), value); };
  GuestTables kernel(machine, Gpa(root(kProcesses)));
  for (unsigned p = 0; p < kProcesses; ++p) {
    put(entry(p, 0, 4), pdpt(p) | kUser);
    put(entry(p, 0, 3), pd(p) | kUser);
    put(entry(p, 0, 2), pt(p) | kUser);
    put(entry(p, kShared, 2), shared_pt() | kUser);
    put(entry(p, kLarge, 2), 0x200000 | x86::kLarge | kUser);
    for (u64 page = 0; page < 16; ++page) {
      put(entry(p, page * kPageBytes, 1), data((page + p) % kDataFrames) | kUser);
      put(spare_pt(p) + 8 * page, data((page + 3) % kDataFrames) | kUser);
      put(shared_pt() + 8 * page, data(kDataFrames - 1 - page) | kUser);
    }
    // The kernel half is the same tables in all processes.
  }
  // The kernel half is the same tables in all processes, and global.
  kernel.map_range(Gpa(root(0)), Gva(kDirectMap), Gpa(0), kMemory,
                   GuestTables::kSupRw | x86::kGlobal,
                   large_direct_map ? PageSize::k2M : PageSize::k4K);
  const u64 half = machine.host_read(Gpa(entry(0, kDirectMap, 4))) | x86::kAccessed;
  for (unsigned p = 0; p < kProcesses; ++p) put(entry(p, kDirectMap, 4), half);
  for (u64 i = 0; i < kDataFrames; ++i) put(data(i), 0x1000 * i);
  for (unsigned i = 0; i < machine.vcpu_count(); ++i) machine.vcpu(i).set_cr3(root(0));
}

void ScriptGuest::run(const ScriptOp& op) {
  Vcpu& vcpu = machine_.vcpu(op.vcpu);
  const StoreOp store{op.value, op.bytes, op.exchange, false};
  switch (op.kind) {
    case ScriptOp::Kind::Access:
      vcpu.set_privilege(op.access.privilege);
      vcpu.try_access(Gva(op.va), op.access.kind, store);
      break;
    case ScriptOp::Kind::Edit:
      vcpu.set_privilege(Privilege::Supervisor);
      vcpu.try_access(Gva(kDirectMap + op.gpa), AccessKind::Write, store);
      break;
    case ScriptOp::Kind::Zero:
      vcpu.set_privilege(Privilege::Supervisor);
      vcpu.zero(Gva(kDirectMap + op.gpa), kPageBytes);
      break;
    case ScriptOp::Kind::Cr3:
      vcpu.write_cr3(op.value);
      break;
    case ScriptOp::Kind::Invlpg:
      vcpu.invlpg(Gva(op.va));
      break;
    case ScriptOp::Kind::Invpcid:
      vcpu.invpcid(static_cast<InvpcidType>(op.value), static_cast<u32>(op.gpa), Gva(op.va));
      break;
    case ScriptOp::Kind::Controls: {
      Controls to = op.controls;
      to.ac = vcpu.controls().ac;
      vcpu.write_controls(to);
      break;
    }
    case ScriptOp::Kind::Ac:
      vcpu.set_ac(op.value != 0);
      break;
  }
}

void ScriptGuest::run(const Script& script) {
  std::size_t step = 0;
  const auto where = [&] { return "step " + std::to_string(step) + ": "; };
  try {
    for (const ScriptOp& op : script) {
      ++step;
      run(op);
    }
  } catch (const Disagreement& e) {
    throw Disagreement(where() + e.what());
  } catch (const RunError& e) {
    throw RunError(where() + e.what());
  }
}

namespace {

/// A machine lives for a few accesses here: clearing 2M pages for it, and fetching its arrays from
/// the operating system each time, would take most of the time.
bool make_machines_cheap() {
  mallopt(M_MMAP_THRESHOLD, 1 << 28);
  mallopt(M_TRIM_THRESHOLD, 1 << 28);
  return prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0;
}

}  // namespace

ScriptEnd run_script(const Setup& setup, const ScriptStart& start, const Script& script) {
  static const bool cheap = make_machines_cheap();
  (void)cheap;
  const auto machine = make_machine(setup, ScriptGuest::config(start.vcpus));
  ScriptGuest guest(*machine, start.large_direct_map);
  for (unsigned i = 0; i < start.vcpus; ++i) machine->vcpu(i).set_controls(start.controls);
  Oracle oracle(*machine);
  oracle.begin();
  guest.run(script);
  oracle.check_memory();
  return {oracle.digest(), oracle.memory_digest(), oracle.checked(), oracle.uncertain(),
          machine->counters()};
}

}  // namespace mmuscope
