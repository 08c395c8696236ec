#include "results/live/live.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "core/error.h"

namespace mmuscope {

namespace {

constexpr std::array<std::string_view, 17> kFigures = {"pf_taken",
                                                       "pf_fixed",
                                                       "pf_spurious",
                                                       "pf_emulate",
                                                       "pf_fast",
                                                       "pf_guest",
                                                       "invlpg",
                                                       "mmu_cache_miss",
                                                       "mmu_pte_write",
                                                       "mmu_pde_zapped",
                                                       "mmu_flooded",
                                                       "mmu_recycled",
                                                       "mmu_shadow_zapped",
                                                       "remote_tlb_flush_requests",
                                                       "mmu_unsync",
                                                       "pages_4k",
                                                       "pages_2m"};
/// The ones of them that `nested` counts as KVM does. The others KVM counts by its own bookkeeping
/// of pages, which differs between its two MMUs for two-dimensional paging.
constexpr std::array<std::string_view, 5> kTdpFigures = {"pf_taken", "pf_fixed", "pf_spurious",
                                                         "pages_4k", "pages_2m"};

// --- controls ------------------------------------------------------------------------------------

u64 bit(unsigned n, bool on = true) { return on ? u64{1} << n : 0; }

KvmMachine::Config config_of(const Scenario& s) {
  const Controls& c = s.controls;
  KvmMachine::Config config;
  config.vcpus = s.vcpus;
  config.cr0 = bit(0) | bit(31) | bit(4) | bit(16, c.wp);  // PE, PG, ET, WP
  config.cr3 = s.cr3;
  config.cr4 = bit(5) | bit(7, c.pge) | bit(12, c.levels == 5) | bit(17, c.pcide) |
               bit(20, c.smep) | bit(21, c.smap);
  config.efer = bit(8) | bit(10) | bit(11, c.nxe);  // LME, LMA, NXE
  config.alignment_check = c.ac;
  return config;
}

Stub stub_of(const ScenarioOp& op) {
  switch (op.kind) {
    case ScenarioOp::Kind::Cr3:
      return Stub::Cr3;
    case ScenarioOp::Kind::Invlpg:
      return Stub::Invlpg;
    case ScenarioOp::Kind::Cr0:
      return Stub::Cr0;
    case ScenarioOp::Kind::Cr4:
      return Stub::Cr4;
    default:
      break;
  }
  if (op.access.is_fetch()) return Stub::Fetch;
  return op.access.is_write() ? Stub::Write : Stub::Read;
}

bool is_access(const ScenarioOp& op) { return op.kind == ScenarioOp::Kind::Access; }

}  // namespace

// --- running -------------------------------------------------------------------------------------

LiveRunner::LiveRunner(const Host& host) : host_(host) {
  // Said now, not after the files were read.
  Mapping probe(2 * kStubPage);
  const KvmMachine machine(config_of(Scenario{}), probe);
  for (const std::string_view name : kFigures) {
    const bool other =
        host_.tdp() && std::find(kTdpFigures.begin(), kTdpFigures.end(), name) == kTdpFigures.end();
    if (other) {
      note(fmt::format("{} is left out under two-dimensional paging", name));
    } else if (!machine.stat(name)) {
      note(fmt::format("{} has no counter {}", host_.kernel, name));
    } else {
      figures_.push_back(name);
    }
  }
}

void LiveRunner::note(const std::string& line) {
  if (std::find(notes_.begin(), notes_.end(), line) == notes_.end()) notes_.push_back(line);
}

namespace {

/// True if the op at `at` is a fetch at CPL 3 by that vCPU.
bool is_fetch(const std::vector<ScenarioOp>& ops, std::size_t at, unsigned vcpu) {
  return at < ops.size() && is_access(ops[at]) && ops[at].access.is_fetch() && ops[at].vcpu == vcpu;
}
/// The same for a read or write.
bool is_data(const std::vector<ScenarioOp>& ops, std::size_t at, unsigned vcpu) {
  return at < ops.size() && is_access(ops[at]) && !ops[at].access.is_fetch() &&
         ops[at].vcpu == vcpu;
}

/// Each access followed by the fetch of the instruction behind it. It matters where the access took
/// down what maps the stub.
void add_last_fetches(ScenarioStep& step) {
  std::vector<ScenarioOp> ops;
  for (std::size_t i = 0; i < step.ops.size(); ++i) {
    const ScenarioOp& op = step.ops[i];
    ops.push_back(op);
    if (!is_data(step.ops, i, op.vcpu) || is_fetch(step.ops, i + 1, op.vcpu)) continue;
    ScenarioOp fetch;
    fetch.vcpu = op.vcpu;
    fetch.access = {AccessKind::Fetch, Privilege::User};
    fetch.address = kStubPage;
    ops.push_back(fetch);
  }
  step.ops = std::move(ops);
}

}  // namespace

Scenario LiveRunner::runnable(const Scenario& scenario) {
  Scenario s = scenario;
  for (ScenarioStep& step : s.steps) {
    const auto left_out = [&](const ScenarioOp& op) {
      if (op.kind == ScenarioOp::Kind::Invpcid) {
        note("invpcid is left out: KVM's emulator does not know it");
        return true;
      }
      const bool supervisor = is_access(op) && !op.access.is_user();
      if (supervisor) note("R, W and X are left out: only CPL 3 makes accesses here");
      return supervisor;
    };
    step.ops.erase(std::remove_if(step.ops.begin(), step.ops.end(), left_out), step.ops.end());
    add_last_fetches(step);
  }
  return s;
}

void LiveRunner::lay_out(const Scenario& s) {
  constexpr u64 kMost = u64{1} << 30;
  if (s.memory_bytes > kMost || s.memory_bytes < 2 * kStubPage) {
    throw InputError(
        fmt::format("{}: live needs a memory of {} to {} bytes", s.file, 2 * kStubPage, kMost));
  }
  if (s.backing != PageSize::k4K) {
    throw InputError(s.file + ": live backs guest memory with 4k pages only");
  }
  if (memory_.empty() || memory_.front().size() != s.memory_bytes) {
    memory_.clear();
    memory_.emplace_back(static_cast<std::size_t>(s.memory_bytes));
  } else {
    std::memset(memory_.front().data(), 0, memory_.front().size());
  }
  for (const Scenario::Words& w : s.memory) {
    for (u64 i = 0; i < w.count; ++i) {
      const u64 gpa = w.gpa + 8 * i, value = w.value + w.step * i;
      if (gpa / kPageBytes == kStubPage / kPageBytes) {
        throw InputError(fmt::format("{}: memory at {} is where the stubs lie", s.file, gpa));
      }
      std::memcpy(memory_.front().data() + gpa, &value, sizeof value);
    }
  }
}

Scenario LiveRunner::record(const Scenario& scenario) {
  Scenario s = runnable(scenario);
  lay_out(s);
  const LiveThread thread;
  KvmMachine machine(config_of(s), memory_.front());
  std::size_t number = 0;
  for (ScenarioStep& step : s.steps) {
    step =
        record_step(machine, step, fmt::format("{}: step {} ({})", s.file, ++number, step.label));
  }
  for (auto& [gpa, value] : s.final_memory) {
    std::memcpy(&value, memory_.front().data() + gpa, sizeof value);
  }
  s.source = fmt::format(
      "{} KVM, {}, CPL 0 {}, one slot backed by 4 KiB pages, counters from "
      "KVM_GET_STATS_FD, by mmuscope live",
      host_.kernel, host_.tdp() ? "tdp on" : "shadow MMU (tdp off)",
      host_.native_supervisor ? "native" : "emulated");
  s.pager = host_.pager;
  return s;
}

namespace {

/// One op, or a fetch, the access that its stub makes, and the last fetch of the stub if it stands
/// there for no other access. Returns how many ops that was.
std::size_t run_ops(KvmMachine& machine, const std::vector<ScenarioOp>& ops, std::size_t at,
                    u64& dirty_pages) {
  const ScenarioOp& op = ops[at];
  switch (op.kind) {
    case ScenarioOp::Kind::Peek:
      return 1;
    case ScenarioOp::Kind::DirtyLog:
      machine.log_dirty(op.value != 0);
      return 1;
    case ScenarioOp::Kind::GetDirtyLog:
      dirty_pages += machine.harvest_dirty();
      return 1;
    case ScenarioOp::Kind::ShadowPageLimit:
      machine.limit_shadow_pages(op.value);
      return 1;
    default:
      break;
  }
  if (!is_access(op)) {
    machine.run(op.vcpu, stub_of(op), op.address, op.value);
    return 1;
  }
  if (!op.access.is_fetch() || op.address != kStubPage) {
    throw InputError(fmt::format(
        "live runs each r and w from a stub: [\"x\", vcpu, {}] stands right before it, and no "
        "other address is fetched from",
        kStubPage));
  }
  const bool pair = is_data(ops, at + 1, op.vcpu);
  const ScenarioOp& last = pair ? ops[at + 1] : op;
  if (op.announced.fault || last.announced.fault) {
    throw InputError("live cannot deliver the fault that is announced: no guest handler runs");
  }
  const u64 read = machine.run(last.vcpu, stub_of(last), last.address, last.value);
  if (last.announced.value && *last.announced.value != read) {
    throw InputError(fmt::format("the kernel's guest read {}, not {} as announced", read,
                                 *last.announced.value));
  }
  if (!pair) return 1;
  return is_fetch(ops, at + 2, op.vcpu) && !is_data(ops, at + 3, op.vcpu) ? 3 : 2;
}

}  // namespace

ScenarioStep LiveRunner::record_step(KvmMachine& machine, const ScenarioStep& step,
                                     const std::string& where) {
  ScenarioStep recorded = step;
  recorded.expect.clear();
  std::vector<std::optional<KvmStats::Figure>> before;
  machine.read_stats();
  for (const std::string_view name : figures_) before.push_back(machine.stat(name));
  u64 dirty_pages = 0;
  for (std::size_t i = 0; i < step.ops.size();) {
    const std::string op = fmt::format("{}, op {}: ", where, i + 1);
    try {
      i += run_ops(machine, step.ops, i, dirty_pages);
    } catch (const InputError& e) {
      throw InputError(op + e.what());
    } catch (const RunError& e) {
      throw RunError(op + e.what());
    }
  }
  machine.read_stats();
  for (std::size_t i = 0; i < figures_.size(); ++i) {
    const auto after = machine.stat(figures_[i]);
    if (!before[i] || !after) continue;
    const u64 value = after->gauge ? after->value : after->value - before[i]->value;
    recorded.expect.emplace_back(figures_[i], value);
  }
  const bool harvests = std::any_of(step.ops.begin(), step.ops.end(), [](const ScenarioOp& op) {
    return op.kind == ScenarioOp::Kind::GetDirtyLog;
  });
  if (harvests) recorded.expect.emplace_back("dirty_pages", dirty_pages);
  return recorded;
}

Scenario with_supervisor_fetches(Scenario scenario) {
  for (ScenarioStep& step : scenario.steps) {
    std::vector<ScenarioOp> ops;
    for (const ScenarioOp& op : step.ops) {
      ScenarioOp fetch;
      fetch.vcpu = op.vcpu;
      fetch.access = {AccessKind::Fetch, Privilege::Supervisor};
      fetch.address = kStubPage;
      const bool stub = op.kind == ScenarioOp::Kind::Cr3 || op.kind == ScenarioOp::Kind::Invlpg ||
                        op.kind == ScenarioOp::Kind::Cr0 || op.kind == ScenarioOp::Kind::Cr4;
      if (stub) ops.push_back(fetch);
      ops.push_back(op);
      if (stub) ops.push_back(fetch);  // of the `out` behind it
    }
    step.ops = std::move(ops);
  }
  return scenario;
}

}  // namespace mmuscope
