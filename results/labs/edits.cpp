// The checks of a scenario that a student edits, each an object with one of
//   "maps": [[GVA, r|w|x|R|W|X, GPA, PAGE], ...]   the memory image translates it so, PAGE 4k|2m|1g
//   "faults": [[GVA, ACCESS, CODE], ...]           the memory image makes it a #PF with that code
//   "provokes": [CODE, ...]                        some access of the steps ends in such a #PF
//   "announced": true                              all accesses end as the file announces
//   "memory": [[GPA, VALUE], ...]                  words after the last step
//   "figure": NAME, "step": N, "pager": SPEC, "at_least": N, "at_most": N
// All are found by running the scenario on the emulator.

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "results/experiment.h"
#include "results/labs/grade.h"

namespace mmuscope {
namespace {

using Json = nlohmann::json;
namespace fs = std::filesystem;

constexpr std::string_view kPages[] = {"4k", "2m", "1g"};

u64 number_in(const Json& j) {
  return j.is_string() ? std::stoull(j.get<std::string>(), nullptr, 0) : j.get<u64>();
}

Access access_named(const std::string& name) {
  constexpr std::string_view kUser = "rwx", kSupervisor = "RWX";
  const bool user = kUser.find(name) != kUser.npos;
  return {static_cast<AccessKind>(user ? kUser.find(name) : kSupervisor.find(name)),
          user ? Privilege::User : Privilege::Supervisor};
}

std::string code_text(u32 code) {
  constexpr std::string_view kBits[] = {"P", "W", "U", "RSVD", "I"};
  std::vector<std::string_view> set;
  for (unsigned i = 0; i < std::size(kBits); ++i) {
    if (code >> i & 1) set.push_back(kBits[i]);
  }
  return fmt::format("{:#x} ({})", code,
                     set.empty() ? "no bit set" : fmt::format("{}", fmt::join(set, " ")));
}

std::string ended(const AccessResult& r) {
  if (r.done) return "the access was done";
  if (r.fault.kind == GuestFault::Kind::GeneralProtection) return "the access gave #GP";
  return "the access gave #PF with error code " + code_text(r.fault.error_code);
}

/// The scenario's machine without a hypervisor: guest-physical is host-physical.
class Tables {
 public:
  explicit Tables(const Scenario& scenario) : machine_(scenario, config(), make_native) {}

  AccessResult access(u64 gva, Access access) {
    ScenarioOp op;
    op.access = access;
    op.address = gva;
    (void)machine_.run(op);
    return *machine_.ended();
  }
  WalkPath<GuestFormat> path(u64 gva, Access access) {
    Vcpu& vcpu = machine_.machine().vcpu(0);
    return machine_.machine().walk_guest(vcpu.root(), Gva(gva), access, vcpu.controls()).path;
  }

 private:
  static MachineConfig config() {
    MachineConfig c;
    c.virtualized = false;
    return c;
  }
  static std::unique_ptr<Pager> make_native(Machine& machine) {
    const PagerInfo& info = find_pager("native");
    return info.make(machine, Params("pager native", info.params()));
  }
  ScenarioMachine machine_;
};

std::string wrong_maps(const Scenario& scenario, const Json& maps) {
  Tables tables(scenario);
  for (const Json& one : maps) {
    const u64 gva = number_in(one.at(0)), gpa = number_in(one.at(2));
    const auto name = one.at(1).get<std::string>();
    const std::string due = fmt::format("{} of {:#x}", name, gva);
    const AccessResult r = tables.access(gva, access_named(name));
    if (!r.done) return fmt::format("{}: {}; it should reach {:#x}", due, ended(r), gpa);
    const WalkPath<GuestFormat> path = tables.path(gva, access_named(name));
    const u64 is = path.translate(Gva(gva)).raw();
    if (is != gpa) return fmt::format("{} reaches {:#x}; it should reach {:#x}", due, is, gpa);
    const std::string_view page = kPages[static_cast<unsigned>(path.size())];
    if (one.size() > 3 && one[3].get<std::string>() != page) {
      return fmt::format("{}: the page that maps it is {}; it should be {}", due, page,
                         one[3].get<std::string>());
    }
  }
  return {};
}

std::string wrong_faults(const Scenario& scenario, const Json& faults) {
  Tables tables(scenario);
  for (const Json& one : faults) {
    const u64 gva = number_in(one.at(0));
    const auto name = one.at(1).get<std::string>();
    const auto due = static_cast<u32>(number_in(one.at(2)));
    const AccessResult r = tables.access(gva, access_named(name));
    if (!r.done && r.fault.kind == GuestFault::Kind::PageFault && r.fault.error_code == due)
      continue;
    return fmt::format("{} of {:#x}: {}; it should give #PF with error code {}", name, gva,
                       ended(r), code_text(due));
  }
  return {};
}

ScenarioResult run_under(const Scenario& scenario, const std::string& pager) {
  return run_scenario(scenario, pager, std::string(kDefaultCpu));
}

std::string wrong_provoked(const ScenarioResult& result, const Json& codes) {
  std::vector<std::string> missing;
  for (const Json& code : codes) {
    const auto due = code.get<u32>();
    const bool seen =
        std::any_of(result.steps.begin(), result.steps.end(), [&](const StepResult& step) {
          return std::any_of(step.ended.begin(), step.ended.end(), [&](const AccessResult& r) {
            return !r.done && r.fault.kind == GuestFault::Kind::PageFault &&
                   r.fault.error_code == due;
          });
        });
    if (!seen) missing.push_back(code_text(due));
  }
  if (missing.empty()) return {};
  return fmt::format("no access of the file gives #PF with error code {}",
                     fmt::join(missing, ", "));
}

std::string wrong_announced(const ScenarioResult& result) {
  for (const StepResult& step : result.steps) {
    if (!step.wrong.empty()) return step.wrong.front();
  }
  return {};
}

std::string wrong_memory(Scenario scenario, const std::string& pager, const Json& words) {
  scenario.final_memory.clear();
  for (const Json& word : words) {
    scenario.final_memory.emplace_back(number_in(word.at(0)), number_in(word.at(1)));
  }
  const ScenarioResult result = run_under(scenario, pager);
  for (std::size_t i = 0; i < result.final_memory.size(); ++i) {
    const auto& [gpa, due] = scenario.final_memory[i];
    if (result.final_memory[i] != due) {
      return fmt::format("after the last step the word at {:#x} is {:#x}; it should be {:#x}", gpa,
                         result.final_memory[i], due);
    }
  }
  return {};
}

std::string wrong_figure(const Scenario& scenario, const Json& check) {
  const auto name = check.at("figure").get<std::string>();
  const auto step = check.at("step").get<std::size_t>();
  const auto pager = check.at("pager").get<std::string>();
  if (scenario.steps.size() < step) {
    return fmt::format("the file has {} steps; step {} is missing", scenario.steps.size(), step);
  }
  const u64 is = figure(run_under(scenario, pager).steps[step - 1], name);
  const auto told = [&](const char* wrong) {
    return fmt::format("under {} step {} has {} = {}, which is {}", pager, step, name, is, wrong);
  };
  if (check.contains("at_least") && is < check["at_least"].get<u64>()) return told("too little");
  if (check.contains("at_most") && is > check["at_most"].get<u64>()) return told("too much");
  return {};
}

std::string wrong_check(const Json& check, const Scenario& scenario) {
  if (check.contains("maps")) return wrong_maps(scenario, check["maps"]);
  if (check.contains("faults")) return wrong_faults(scenario, check["faults"]);
  if (check.contains("memory")) return wrong_memory(scenario, scenario.pager, check["memory"]);
  if (check.contains("figure")) return wrong_figure(scenario, check);
  const ScenarioResult result = run_under(scenario, "native");
  if (check.contains("provokes")) return wrong_provoked(result, check["provokes"]);
  if (check.contains("announced")) return wrong_announced(result);
  throw InputError("no such check: " + check.dump());
}

}  // namespace

std::string wrong_edit(const Json& checks, const fs::path& file) {
  try {
    const Scenario scenario = load_scenario(file);
    for (const Json& check : checks) {
      std::string wrong = wrong_check(check, scenario);
      if (!wrong.empty()) return wrong;
    }
  } catch (const std::runtime_error& e) {  // no JSON; tables that lead beyond memory
    return e.what();
  }
  return {};
}

}  // namespace mmuscope
