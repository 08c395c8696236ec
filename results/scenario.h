#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/machine.h"
#include "results/csv.h"

namespace mmuscope {

/// What an op of a scenario announces about its own end.
struct Announcement {
  std::optional<GuestFault::Kind> fault;  ///< none: the access is done
  std::optional<u32> error_code;          ///< of the fault
  std::optional<u64> value;               ///< what a read sees
};

/// A sentence if an access did not end as announced, else nothing.
std::string unlike_announced(const Announcement& due, const AccessResult& ended);

struct ScenarioOp {
  enum class Kind : u8 {
    Access,
    Cr3,
    Invlpg,
    Invpcid,
    Cr0,
    Cr4,
    Peek,
    DirtyLog,
    GetDirtyLog,
    ShadowPageLimit,
  };
  Kind kind = Kind::Access;
  unsigned vcpu = 0;
  Access access;
  u64 address = 0;  ///< gva; of Peek the gpa
  u64 value = 0;    ///< written; of DirtyLog 0 or 1, of ShadowPageLimit pages
  InvpcidType type = InvpcidType::Address;
  u32 pcid = 0;
  Announcement announced;
};
ScenarioOp access_op(unsigned vcpu, Access access, u64 address, u64 value = 0);
/// An op of any other kind.
ScenarioOp other_op(ScenarioOp::Kind kind, unsigned vcpu, u64 address, u64 value);

struct ScenarioStep {
  std::string label;
  std::vector<ScenarioOp> ops;
  std::vector<std::pair<std::string, u64>> expect;  ///< figure and value, sorted by figure
};

/// A machine-level scenario. The format is in tests/truth/kvm/README.md, with the additions that
/// `mmuscope scenario --help` lists.
struct Scenario {
  struct Words {  ///< at gpa + 8*i stands value + step*i, i < count
    u64 gpa = 0, value = 0, count = 0, step = 0;
  };
  std::string file, name, source;
  unsigned vcpus = 1;
  u64 cr3 = 0;
  u64 memory_bytes = u64{64} << 20;
  PageSize backing = PageSize::k4K;
  std::string pager = "shadow-unsync";  ///< SPEC of the pager whose figures `expect` holds
  Controls controls;
  std::vector<Words> memory;
  std::vector<ScenarioStep> steps;
  std::vector<std::pair<u64, u64>> final_memory;  ///< gpa, value
};

/// Throws InputError that names the file and the step and op, or the field, at fault.
Scenario load_scenario(const std::filesystem::path& file);
Scenario parse_scenario(std::string_view text, const std::string& file);
/// The file of a scenario: a step a line. Reading it gives the same scenario.
std::string scenario_json(const Scenario& scenario);

/// What a step may expect: every counter (its change in the step) and gauge (its value at the end)
/// of suite.csv that a machine without a guest kernel has.
std::vector<std::string_view> scenario_figures();

struct StepResult {
  u64 accesses = 0;
  Counters counters;                ///< change in the step, summed over the vCPUs
  Gauges gauges;                    ///< at its end
  u64 dirty_pages = 0;              ///< harvested in the step
  std::vector<AccessResult> ended;  ///< of the accesses, in their order
  std::vector<std::string> wrong;   ///< a line for each op that did not end as announced
};
struct ScenarioResult {
  std::string pager;  ///< as it was asked for
  std::vector<StepResult> steps;
  std::vector<u64> final_memory;  ///< the words that the scenario's final_memory names
};
/// The value of one of scenario_figures().
u64 figure(const StepResult& step, std::string_view name);

/// A machine laid out as a scenario says, on which its ops are done one by one.
class ScenarioMachine {
 public:
  /// `config` says what the scenario does not.
  ScenarioMachine(const Scenario& scenario, MachineConfig config,
                  const Machine::MakePager& make_pager);
  /// Does one op. Returns what differs from its announcement, if anything does; throws
  /// std::runtime_error for what the machine cannot do.
  std::string run(const ScenarioOp& op);
  StepResult run_step(const Scenario& scenario, std::size_t index);
  Machine& machine() { return machine_; }
  /// How the last op ended, if it was an access.
  const std::optional<AccessResult>& ended() const { return ended_; }

 private:
  Machine machine_;
  u64 dirty_pages_ = 0;
  std::optional<AccessResult> ended_;
};

/// Runs a scenario on a machine of its own. `machine` says what the scenario does not (CPU,
/// virtualized...). An op that the machine cannot do (a page table that leads beyond memory, say)
/// throws InputError naming it.
ScenarioResult run_scenario(const Scenario& scenario, MachineConfig machine,
                            const Machine::MakePager& make_pager, const std::string& pager_spec);

/// The same under the pager of a SPEC, on a CPU model. Throws InputError: an unknown name or key.
ScenarioResult run_scenario(const Scenario& scenario, const std::string& pager_spec,
                            const std::string& cpu);

struct ScenarioCheck {
  u64 passed = 0;
  std::vector<std::string> failures;  ///< a line each
  bool figures_compared = false;      ///< false: another pager than the scenario's ran
};
/// Compares with what the scenario announces and expects. Figures are compared only if the pager
/// is the scenario's: the same name, and the same keys where the scenario gives any.
ScenarioCheck check_scenario(const Scenario& scenario, const ScenarioResult& result);

/// For people: every step with its figures that are not zero.
std::string scenario_table(const Scenario& scenario, const ScenarioResult& result);
/// For people: one line that sums a check up, and its failures.
std::string check_text(const Scenario& scenario, const ScenarioResult& result,
                       const ScenarioCheck& check);
/// Rows of `scenario --csv`: a row for each figure of each step that is expected or not zero.
CsvRow scenario_csv_header();
std::vector<CsvRow> scenario_csv_rows(const Scenario& scenario, const ScenarioResult& result);

}  // namespace mmuscope
