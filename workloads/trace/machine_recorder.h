#pragma once

#include <optional>

#include "core/machine.h"
#include "workloads/trace/machine_trace.h"

namespace mmuscope {

/// Records what a machine's guest does, as a machine's trace: attached before anything is written
/// to the machine, taken off by finish(). Recording changes no counter. It must see operations one
/// after the other, so the vCPUs' schedule has to be the lockstep one.
class MachineRecorder final : public AccessObserver {
 public:
  /// program: what ran, for whoever reads the trace. Throws InputError.
  MachineRecorder(Machine& machine, const std::filesystem::path& path, const std::string& program);
  ~MachineRecorder() override;
  /// Puts the file in place. Throws InputError.
  void finish();

  void on_access(Vcpu& vcpu, const Seen& seen) override;
  void on_cr3(Vcpu& vcpu, u64 value) override;
  void on_controls(Vcpu& vcpu, const Controls& to) override;
  void on_invlpg(Vcpu& vcpu, Gva va) override;
  void on_invpcid(Vcpu& vcpu, InvpcidType type, u32 pcid, Gva va) override;
  void on_send_ipi(Vcpu& vcpu, Vcpu& target) override;
  void on_interrupt(Vcpu& vcpu) override;
  void on_halt(Vcpu& vcpu, bool halted) override;
  void on_compute(Vcpu& vcpu, u64 cycles) override;
  void on_note(Vcpu& vcpu, Event event, u64 count) override;
  void on_host_write(Gpa where, u64 value) override;
  void on_offer(Vcpu& vcpu, Gfn first, u64 frames, bool same_call) override;

 private:
  struct Known {
    bool started = false;
    bool ac = false;
    std::optional<Gva> copied_from;  ///< the load of a string copy; its store comes next
  };
  void select(Vcpu& vcpu);
  void put_fault(const Seen& seen);

  Machine& machine_;
  MachineTraceWriter writer_;
  std::vector<Known> known_;
  unsigned running_ = 0;
};

}  // namespace mmuscope
