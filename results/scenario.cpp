#include "results/scenario.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "core/error.h"
#include "core/params.h"
#include "results/catalog.h"
#include "results/columns.h"

namespace mmuscope {

namespace {

// --- figures -------------------------------------------------------------------------------------

/// Columns of suite.csv that tell of a guest kernel's processes or of modelled time.
bool of_no_step(const Column<SuiteRow>& c) {
  const bool counts = c.kind == ColumnKind::Counter || c.kind == ColumnKind::Gauge;
  return !counts || c.unit == "cycles" || c.name == "guest_table_bytes_peak" ||
         c.name == "processes_peak" || c.name.find("per_process") != std::string_view::npos;
}

u64 value_of(const Column<SuiteRow>& column, const StepResult& step) {
  Result result;
  result.accesses = step.accesses;
  result.counters = step.counters;
  result.gauges = step.gauges;
  SuiteRow row;
  row.result = &result;
  const Value value = column.value(row);
  const u64* integer = std::get_if<u64>(&value);
  return integer != nullptr ? *integer : 0;
}

// --- running -------------------------------------------------------------------------------------

constexpr u64 kCr0Pe = 1, kCr0Wp = u64{1} << 16, kCr0Pg = u64{1} << 31;
constexpr u64 kCr4Pae = 1 << 5, kCr4Pge = 1 << 7, kCr4La57 = 1 << 12;
constexpr u64 kCr4Pcide = 1 << 17, kCr4Smep = 1 << 20, kCr4Smap = 1 << 21;

/// What guests get a #GP for, or what switches long mode off, is not modelled.
void refuse_if(bool bad, const std::string& why) {
  if (bad) throw InputError(why);
}

Controls with_cr0(Controls c, u64 value) {
  refuse_if((value & (kCr0Pe | kCr0Pg)) != (kCr0Pe | kCr0Pg),
            "cr0 must keep PE (bit 0) and PG (bit 31): a guest without paging is not modelled");
  c.wp = value & kCr0Wp;
  return c;
}

Controls with_cr4(Controls c, u64 value, u64 cr3) {
  refuse_if(!(value & kCr4Pae), "cr4 must keep PAE (bit 5): long mode needs it");
  refuse_if(((value & kCr4La57) != 0) != (c.levels == 5),
            "cr4 must keep LA57 (bit 12) as it is: it cannot change in long mode");
  refuse_if((value & kCr4Pcide) && !c.pcide && (cr3 & 0xfff) != 0,
            "cr4 cannot set PCIDE (bit 17) while bits 11:0 of CR3 are not 0");
  c.pge = value & kCr4Pge;
  c.pcide = value & kCr4Pcide;
  c.smep = value & kCr4Smep;
  c.smap = value & kCr4Smap;
  return c;
}

void refuse_root_beyond(const Machine& machine, u64 cr3) {
  const u64 root = cr3 & x86::kAddressMask;
  refuse_if(root + kPageBytes > machine.config().memory_bytes,
            fmt::format("the root {} is beyond the memory of {} bytes", root,
                        machine.config().memory_bytes));
}

std::string ended(const AccessResult& r) {
  if (r.done) return "was done";
  if (r.fault.kind == GuestFault::Kind::GeneralProtection) return "gave #GP";
  return fmt::format("gave #PF with error code {:#x}", r.fault.error_code);
}

MachineConfig config_for(const Scenario& scenario, MachineConfig config) {
  config.memory_bytes = scenario.memory_bytes;
  config.backing = scenario.backing;
  config.vcpus = scenario.vcpus;
  return config;
}

}  // namespace

ScenarioOp access_op(unsigned vcpu, Access access, u64 address, u64 value) {
  ScenarioOp op = other_op(ScenarioOp::Kind::Access, vcpu, address, value);
  op.access = access;
  return op;
}

ScenarioOp other_op(ScenarioOp::Kind kind, unsigned vcpu, u64 address, u64 value) {
  ScenarioOp op;
  op.kind = kind;
  op.vcpu = vcpu;
  op.address = address;
  op.value = value;
  return op;
}

std::string unlike_announced(const Announcement& due, const AccessResult& r) {
  const auto fault = r.done ? std::nullopt : std::optional(r.fault.kind);
  const bool code_differs = due.error_code && *due.error_code != r.fault.error_code;
  if (fault != due.fault || code_differs) {
    std::string announced = "nothing announced";
    if (due.fault == GuestFault::Kind::GeneralProtection) announced = "#GP announced";
    if (due.fault == GuestFault::Kind::PageFault) announced = "#PF announced";
    if (due.error_code) announced += fmt::format(" with error code {:#x}", *due.error_code);
    return fmt::format("{}, {}", ended(r), announced);
  }
  if (due.value && *due.value != r.value)
    return fmt::format("read {}, not {}", r.value, *due.value);
  return {};
}

ScenarioMachine::ScenarioMachine(const Scenario& scenario, MachineConfig config,
                                 const Machine::MakePager& make_pager)
    : machine_(config_for(scenario, std::move(config)), make_pager) {
  // The host that was recorded had all of it there: a prefetch never found a page missing.
  machine_.map().take_as_populated();
  for (const Scenario::Words& w : scenario.memory) {
    for (u64 i = 0; i < w.count; ++i) {
      machine_.host_write(Gpa(w.gpa + 8 * i), w.value + w.step * i);
    }
  }
  for (unsigned i = 0; i < machine_.vcpu_count(); ++i) {
    machine_.vcpu(i).set_controls(scenario.controls);
    machine_.vcpu(i).set_cr3(scenario.cr3);
  }
}

std::string ScenarioMachine::run(const ScenarioOp& op) {
  Vcpu& vcpu = machine_.vcpu(op.vcpu);
  Pager& pager = machine_.pager();
  ended_.reset();
  switch (op.kind) {
    case ScenarioOp::Kind::Access:
      vcpu.set_privilege(op.access.privilege);
      ended_ = vcpu.try_access(Gva(op.address), op.access.kind, {op.value, 8, false, false});
      return unlike_announced(op.announced, *ended_);
    case ScenarioOp::Kind::Cr3:
      refuse_if((op.value >> 63) && !vcpu.controls().pcide,
                "bit 63 of CR3 may be set only with cr4_pcide");
      refuse_root_beyond(machine_, op.value);
      vcpu.write_cr3(op.value);
      break;
    case ScenarioOp::Kind::Invlpg:
      vcpu.invlpg(Gva(op.address));
      break;
    case ScenarioOp::Kind::Invpcid:
      vcpu.invpcid(op.type, op.pcid, Gva(op.address));
      break;
    case ScenarioOp::Kind::Cr0:
      vcpu.write_controls(with_cr0(vcpu.controls(), op.value));
      break;
    case ScenarioOp::Kind::Cr4:
      vcpu.write_controls(with_cr4(vcpu.controls(), op.value, vcpu.cr3()));
      break;
    case ScenarioOp::Kind::Peek:
      break;
    case ScenarioOp::Kind::DirtyLog:
      pager.log_dirty(op.value != 0);
      break;
    case ScenarioOp::Kind::GetDirtyLog:
      dirty_pages_ += pager.harvest_dirty();
      break;
    case ScenarioOp::Kind::ShadowPageLimit:
      pager.limit_shadow_pages(op.value);
      break;
  }
  return {};
}

StepResult ScenarioMachine::run_step(const Scenario& scenario, std::size_t index) {
  const ScenarioStep& step = scenario.steps[index];
  const Counters before = machine_.counters();
  const u64 accesses_before = machine_.accesses();
  dirty_pages_ = 0;
  StepResult result;
  for (std::size_t i = 0; i < step.ops.size(); ++i) {
    const std::string where = fmt::format("step {} ({}), op {}", index + 1, step.label, i + 1);
    try {
      const std::string wrong = run(step.ops[i]);
      if (ended_) result.ended.push_back(*ended_);
      if (!wrong.empty()) result.wrong.push_back(where + ": the access " + wrong);
    } catch (const std::runtime_error& e) {
      throw InputError(fmt::format("{}: {}: {}", scenario.file, where, e.what()));
    }
  }
  result.counters = machine_.counters() - before;
  result.accesses = machine_.accesses() - accesses_before;
  result.gauges = machine_.pager().gauges();
  result.dirty_pages = dirty_pages_;
  return result;
}

std::vector<std::string_view> scenario_figures() {
  std::vector<std::string_view> names;
  for (const Column<SuiteRow>& c : suite_columns()) {
    if (!of_no_step(c)) names.push_back(c.name);
  }
  for (const EventInfo& e : kEventInfo) names.push_back(e.name);
  names.push_back("mmu_unsync");
  names.push_back("dirty_pages");
  std::vector<std::string_view> once;
  for (const std::string_view name : names) {
    if (std::find(once.begin(), once.end(), name) == once.end()) once.push_back(name);
  }
  return once;
}

u64 figure(const StepResult& step, std::string_view name) {
  if (name == "dirty_pages") return step.dirty_pages;
  if (name == "mmu_unsync") return step.gauges.mmu_unsync;
  for (const EventInfo& e : kEventInfo) {
    if (e.name == name) return step.counters[e.event];
  }
  for (const Column<SuiteRow>& c : suite_columns()) {
    if (c.name == name) return value_of(c, step);
  }
  assert(false && "not one of scenario_figures()");
  return 0;
}

ScenarioResult run_scenario(const Scenario& scenario, MachineConfig config,
                            const Machine::MakePager& make_pager, const std::string& pager_spec) {
  ScenarioMachine run(scenario, std::move(config), make_pager);
  ScenarioResult result;
  result.pager = pager_spec;
  for (std::size_t i = 0; i < scenario.steps.size(); ++i) {
    result.steps.push_back(run.run_step(scenario, i));
  }
  for (const auto& [gpa, value] : scenario.final_memory) {
    result.final_memory.push_back(run.machine().host_read(Gpa(gpa)));
  }
  return result;
}

ScenarioResult run_scenario(const Scenario& scenario, const std::string& pager_spec,
                            const std::string& cpu) {
  const Spec spec = parse_spec(pager_spec);
  const PagerInfo& info = find_pager(spec.name);
  Params params("pager " + spec.name, info.params());
  params.set_list(spec.list);
  MachineConfig config;
  config.cpu = cpu;
  config.virtualized = info.virtualized;
  return run_scenario(
      scenario, config, [&](Machine& machine) { return info.make(machine, params); }, pager_spec);
}

// --- checking ------------------------------------------------------------------------------------

namespace {

bool is_pager_of(const Scenario& scenario, const std::string& pager_spec) {
  const Spec wanted = parse_spec(scenario.pager), ran = parse_spec(pager_spec);
  return wanted.name == ran.name && (wanted.list.empty() || wanted.list == ran.list);
}

u64 announcements(const ScenarioStep& step) {
  return static_cast<u64>(std::count_if(step.ops.begin(), step.ops.end(), [](const ScenarioOp& o) {
    return o.kind == ScenarioOp::Kind::Access;
  }));
}

}  // namespace

ScenarioCheck check_scenario(const Scenario& scenario, const ScenarioResult& result) {
  ScenarioCheck check;
  check.figures_compared = is_pager_of(scenario, result.pager);
  for (std::size_t i = 0; i < scenario.steps.size(); ++i) {
    const ScenarioStep& step = scenario.steps[i];
    const StepResult& got = result.steps[i];
    check.passed += announcements(step) - got.wrong.size();
    check.failures.insert(check.failures.end(), got.wrong.begin(), got.wrong.end());
    if (!check.figures_compared) continue;
    for (const auto& [name, due] : step.expect) {
      const u64 is = figure(got, name);
      if (is == due) {
        ++check.passed;
      } else {
        check.failures.push_back(
            fmt::format("step {} ({}): {} is {}, expected {}", i + 1, step.label, name, is, due));
      }
    }
  }
  for (std::size_t i = 0; i < scenario.final_memory.size(); ++i) {
    const auto& [gpa, due] = scenario.final_memory[i];
    if (result.final_memory[i] == due) {
      ++check.passed;
    } else {
      check.failures.push_back(fmt::format("final_memory: the word at {} is {}, expected {}", gpa,
                                           result.final_memory[i], due));
    }
  }
  return check;
}

// --- writing -------------------------------------------------------------------------------------

std::string scenario_table(const Scenario& scenario, const ScenarioResult& result) {
  const std::vector<std::string_view> names = scenario_figures();
  std::string text = fmt::format("{} under {}\n", scenario.name, result.pager);
  for (std::size_t i = 0; i < scenario.steps.size(); ++i) {
    const ScenarioStep& step = scenario.steps[i];
    text += fmt::format("step {}  {}  ({} ops)\n", i + 1, step.label, step.ops.size());
    for (const std::string_view name : names) {
      const u64 value = figure(result.steps[i], name);
      if (value != 0) text += fmt::format("  {:<28}{:>12}\n", name, value);
    }
    for (const std::string& wrong : result.steps[i].wrong) text += "  " + wrong + "\n";
  }
  return text;
}

std::string check_text(const Scenario& scenario, const ScenarioResult& result,
                       const ScenarioCheck& check) {
  std::string text;
  for (const std::string& failure : check.failures) {
    text += fmt::format("{}: {}\n", scenario.file, failure);
  }
  text += fmt::format("{}: {} steps under {}: {} passed, {} failed", scenario.file,
                      scenario.steps.size(), result.pager, check.passed, check.failures.size());
  if (!check.figures_compared) {
    text += fmt::format(" (counters not compared: they are {}'s)", scenario.pager);
  }
  return text + "\n";
}

CsvRow scenario_csv_header() {
  return {"scenario", "step", "label", "counter", "expected", "actual"};
}

std::vector<CsvRow> scenario_csv_rows(const Scenario& scenario, const ScenarioResult& result) {
  const std::vector<std::string_view> names = scenario_figures();
  const bool compared = is_pager_of(scenario, result.pager);
  std::vector<CsvRow> rows;
  for (std::size_t i = 0; i < scenario.steps.size(); ++i) {
    const ScenarioStep& step = scenario.steps[i];
    for (const std::string_view name : names) {
      const auto due = std::find_if(step.expect.begin(), step.expect.end(),
                                    [&](const auto& e) { return e.first == name; });
      const bool expected = compared && due != step.expect.end();
      const u64 is = figure(result.steps[i], name);
      if (is == 0 && !expected) continue;
      rows.push_back({scenario.name, fmt::format("{}", i + 1), step.label, std::string(name),
                      expected ? fmt::format("{}", due->second) : "", fmt::format("{}", is)});
    }
  }
  return rows;
}

}  // namespace mmuscope
