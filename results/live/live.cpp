#include "results/live/live.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <utility>

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

LiveRunner::LiveRunner(const HostFacts& host) : host_(host) {
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

/// True if the op at `at` is a fetch of a stub at CPL 3 by that vCPU.
bool is_fetch(const std::vector<ScenarioOp>& ops, std::size_t at, unsigned vcpu) {
  return at < ops.size() && is_access(ops[at]) && ops[at].access.is_fetch() &&
         ops[at].address == kStubPage && ops[at].vcpu == vcpu;
}
/// True if it is a read or write by that vCPU.
bool is_data(const std::vector<ScenarioOp>& ops, std::size_t at, unsigned vcpu) {
  return at < ops.size() && is_access(ops[at]) && !ops[at].access.is_fetch() &&
         ops[at].vcpu == vcpu;
}

Announcement as_ended(const ScenarioOp& op, const AccessResult& ended) {
  Announcement a;
  if (!ended.done) {
    a.fault = ended.fault.kind;
    a.error_code = ended.fault.error_code;
  } else if (op.access.kind == AccessKind::Read) {
    a.value = ended.value;
  }
  return a;
}

}  // namespace

/// Performs the ops of a scenario in a machine and writes down what was done and how it ended.
class OpRunner {
 public:
  explicit OpRunner(KvmMachine& machine) : machine_(machine) {}

  /// Performs the op at `at`, or a fetch with the access that its stub makes, and the last fetch of
  /// the stub if it stands there for no other access. Returns how many ops that was.
  std::size_t run(const std::vector<ScenarioOp>& ops, std::size_t at) {
    const ScenarioOp& op = ops[at];
    if (is_access(op)) return run_access(ops, at);
    done_.push_back(op);
    switch (op.kind) {
      case ScenarioOp::Kind::Peek:
        break;
      case ScenarioOp::Kind::DirtyLog:
        machine_.log_dirty(op.value != 0);
        break;
      case ScenarioOp::Kind::GetDirtyLog:
        dirty_pages_ = dirty_pages_.value_or(0) + machine_.harvest_dirty();
        blurred_ = blurred_ || std::exchange(delivered_, false);
        break;
      case ScenarioOp::Kind::ShadowPageLimit:
        machine_.limit_shadow_pages(op.value);
        break;
      default:
        // A fault of these ends the stub of no announced op.
        if (!machine_.run(op.vcpu, stub_of(op), op.address, op.value).done) {
          throw RunError("the kernel's guest got a fault where none can be announced");
        }
    }
    return 1;
  }

  /// What was done since this was last asked.
  std::vector<ScenarioOp> take_done() { return std::exchange(done_, {}); }
  /// Lines for the ops that did not end as announced, by now.
  std::vector<std::string> take_wrong() { return std::exchange(wrong_, {}); }
  /// Pages harvested since this was last asked; nothing without a harvest.
  std::optional<u64> take_dirty_pages() { return std::exchange(dirty_pages_, std::nullopt); }
  /// True if a fault was delivered before one of these harvests: the stack's page is in it.
  bool take_blurred() { return std::exchange(blurred_, false); }

 private:
  std::size_t run_access(const std::vector<ScenarioOp>& ops, std::size_t at) {
    const ScenarioOp& op = ops[at];
    if (!op.access.is_fetch() || (op.address != kStubPage && !op.announced.fault)) {
      throw InputError(
          fmt::format("live runs each r and w from a stub: [\"x\", vcpu, {}] stands right before "
                      "it, and a fetch from elsewhere must be announced to fault",
                      kStubPage));
    }
    if (!is_canonical(op)) {
      throw InputError("live cannot fetch from an address that is not canonical");
    }
    const bool pair = op.address == kStubPage && is_data(ops, at + 1, op.vcpu);
    if (!pair) {
      perform(op, op.address);
      return 1;
    }
    done_.push_back(op);
    const ScenarioOp& data = ops[at + 1];
    if (!perform(data, data.address)) return 2;
    // The fetch of the instruction behind the access. It matters where the access took down what
    // maps the stub.
    if (!is_fetch(ops, at + 2, op.vcpu)) {
      done_.push_back(access_op(op.vcpu, {AccessKind::Fetch, Privilege::User}, kStubPage));
    } else if (!is_data(ops, at + 3, op.vcpu)) {
      done_.push_back(ops[at + 2]);
      return 3;
    }
    return 2;
  }

  /// True if the access was done.
  bool perform(const ScenarioOp& op, u64 address) {
    const AccessResult ended = machine_.run(op.vcpu, stub_of(op), address, op.value);
    const bool page_fault = !ended.done && ended.fault.kind == GuestFault::Kind::PageFault;
    if (page_fault && ended.fault.address != Gva(address)) {
      throw RunError(fmt::format("the kernel's guest got #PF at {:#x}, not where the access goes",
                                 ended.fault.address.raw()));
    }
    delivered_ = delivered_ || !ended.done;
    const std::string wrong = unlike_announced(op.announced, ended);
    if (!wrong.empty()) wrong_.push_back("on the kernel the access " + wrong);
    done_.push_back(op);
    done_.back().announced = as_ended(op, ended);
    return ended.done;
  }

  static bool is_canonical(const ScenarioOp& op) {
    constexpr unsigned kBits = 57;  // of the widest addresses
    const u64 top = op.address >> (kBits - 1);
    return top == 0 || top == (~u64{0} >> (kBits - 1));
  }

  KvmMachine& machine_;
  std::vector<ScenarioOp> done_;
  std::vector<std::string> wrong_;
  std::optional<u64> dirty_pages_;
  bool delivered_ = false, blurred_ = false;
};

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

LiveRunner::Record LiveRunner::record(const Scenario& scenario) {
  Record record{runnable(scenario), {}};
  Scenario& s = record.scenario;
  lay_out(s);
  const LiveThread thread;
  KvmMachine machine(config_of(s), memory_.front());
  OpRunner runner(machine);
  for (std::size_t i = 0; i < s.steps.size(); ++i) {
    record_step(machine, runner, record, i);
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
  return record;
}

void LiveRunner::record_step(KvmMachine& machine, OpRunner& runner, Record& record,
                             std::size_t index) {
  ScenarioStep& step = record.scenario.steps[index];
  std::vector<std::optional<KvmStats::Figure>> before;
  machine.read_stats();
  for (const std::string_view name : figures_) before.push_back(machine.stat(name));
  for (std::size_t i = 0; i < step.ops.size();) {
    const std::string op = fmt::format("step {} ({}), op {}: ", index + 1, step.label, i + 1);
    try {
      i += runner.run(step.ops, i);
    } catch (const InputError& e) {
      throw InputError(record.scenario.file + ": " + op + e.what());
    } catch (const RunError& e) {
      throw RunError(record.scenario.file + ": " + op + e.what());
    }
    for (const std::string& wrong : runner.take_wrong()) record.wrong.push_back(op + wrong);
  }
  machine.read_stats();
  step.ops = runner.take_done();
  step.expect.clear();
  for (std::size_t i = 0; i < figures_.size(); ++i) {
    const auto after = machine.stat(figures_[i]);
    if (!before[i] || !after) continue;
    const u64 value = after->gauge ? after->value : after->value - before[i]->value;
    step.expect.emplace_back(figures_[i], value);
  }
  const auto dirty_pages = runner.take_dirty_pages();
  if (dirty_pages) step.expect.emplace_back("dirty_pages", *dirty_pages);
  if (runner.take_blurred() && !host_.native_supervisor) {
    note(
        "dirty_pages and remote_tlb_flush_requests are left out of harvests after a fault: KVM's "
        "emulation writes the frame");
    const auto blurred = [](const auto& e) {
      return e.first == "dirty_pages" || e.first == "remote_tlb_flush_requests";
    };
    step.expect.erase(std::remove_if(step.expect.begin(), step.expect.end(), blurred),
                      step.expect.end());
  }
}

Scenario with_supervisor_accesses(Scenario scenario) {
  for (ScenarioStep& step : scenario.steps) {
    std::vector<ScenarioOp> ops;
    for (const ScenarioOp& op : step.ops) {
      const auto add = [&](AccessKind kind, u64 address) {
        ops.push_back(access_op(op.vcpu, {kind, Privilege::Supervisor}, address));
      };
      const bool stub = op.kind == ScenarioOp::Kind::Cr3 || op.kind == ScenarioOp::Kind::Invlpg ||
                        op.kind == ScenarioOp::Kind::Cr0 || op.kind == ScenarioOp::Kind::Cr4;
      if (stub) add(AccessKind::Fetch, kStubPage);
      ops.push_back(op);
      if (stub) add(AccessKind::Fetch, kStubPage);  // of the `out` behind it
      if (is_access(op) && op.announced.fault) {
        add(AccessKind::Read, kStubPage);  // the descriptor tables
        add(AccessKind::Write, kHandlerStack - sizeof(u64));
        add(AccessKind::Fetch, kStubPage);  // the handler
      }
    }
    step.ops = std::move(ops);
  }
  return scenario;
}

}  // namespace mmuscope
