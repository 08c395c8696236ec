#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "results/live/host.h"
#include "results/live/kvm_machine.h"
#include "results/scenario.h"

namespace mmuscope {

/// Runs scenarios on the host's KVM, one after the other. Holds the guest's memory.
class LiveRunner {
 public:
  /// Throws InputError that says why if the host's KVM cannot be used.
  explicit LiveRunner(const Host& host);

  /// The scenario with what the kernel counted as `expect`, and the words of `final_memory` as they
  /// stood at its end. The fetch of the instruction with which a stub ends is an access like any
  /// other: it stands as an "x" behind the access, unless one stands there already. Ops that the
  /// host cannot run are left out; notes() says so. Throws InputError for a scenario that cannot be
  /// run live, RunError if a vCPU dies.
  Scenario record(const Scenario& scenario);

  const Host& host() const { return host_; }
  /// What was left out so far, a line each.
  const std::vector<std::string>& notes() const { return notes_; }

 private:
  void note(const std::string& line);
  Scenario runnable(const Scenario& scenario);
  void lay_out(const Scenario& scenario);
  ScenarioStep record_step(KvmMachine& machine, const ScenarioStep& step, const std::string& where);

  Host host_;
  std::vector<Mapping> memory_;            // at most one
  std::vector<std::string_view> figures_;  // that are compared: KVM's own names
  std::vector<std::string> notes_;
};

/// The scenario with the fetches of the stubs that run at CPL 0 as accesses. Where CPL 0 is native
/// they are.
Scenario with_supervisor_fetches(Scenario scenario);

}  // namespace mmuscope
