#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "results/live/host.h"
#include "results/live/kvm_machine.h"
#include "results/scenario.h"

namespace mmuscope {

class OpRunner;

/// Runs scenarios on the host's KVM, one after the other. Holds the guest's memory.
class LiveRunner {
 public:
  /// Throws InputError that says why if the host's KVM cannot be used.
  explicit LiveRunner(const HostFacts& host);

  /// A scenario as it ran.
  struct Record {
    /// With what the kernel counted as `expect`, how each access ended as announced, and the words
    /// of `final_memory` as they stood at its end. The fetch of the instruction with which a stub
    /// ends is an access like any other: it stands as an "x" behind the access, unless one stands
    /// there already.
    Scenario scenario;
    std::vector<std::string> wrong;  ///< a line for each op that did not end as was announced
  };
  /// Ops that the host cannot run are left out; notes() says so. Throws InputError for a scenario
  /// that cannot be run live, RunError if a vCPU dies.
  Record record(const Scenario& scenario);

  const HostFacts& host() const { return host_; }
  /// What was left out so far, a line each.
  const std::vector<std::string>& notes() const { return notes_; }

 private:
  void note(const std::string& line);
  Scenario runnable(const Scenario& scenario);
  void lay_out(const Scenario& scenario);
  void record_step(KvmMachine& machine, OpRunner& runner, Record& record, std::size_t index);

  HostFacts host_;
  std::vector<Mapping> memory_;            // at most one
  std::vector<std::string_view> figures_;  // that are compared: KVM's own names
  std::vector<std::string> notes_;
};

/// The scenario with what the guest does at CPL 0 as accesses: the fetches of stubs, and what the
/// delivery of a fault reads, writes and fetches. Where CPL 0 is native they are.
Scenario with_supervisor_accesses(Scenario scenario);

}  // namespace mmuscope
