#pragma once

#include <memory>
#include <vector>

#include "core/machine_config.h"
#include "core/physical_cpu.h"
#include "core/scheduler.h"

namespace mmuscope {

/// What VMs run on: CPUs with their TLBs, and the time that their vCPUs share.
///
/// Under Schedule::Lockstep vCPUs take turns of a quantum, in order of VM and index. Under
/// Schedule::Time each has a clock, the sum of what its events cost and of what it waited, and the
/// one that is furthest behind runs, ties by VM and index: a discrete-event simulation. A vCPU that
/// runs gives way when it is not the furthest behind any more: at exits, locks, interrupts, waits
/// and ends of its quantum, so that it may run ahead by no more than what lies between two of them.
class Host final : private Scheduler::Order {
 public:
  /// As many CPUs as the config says; 0: one for each of `vcpus`.
  Host(const MachineConfig& config, unsigned vcpus);
  Host(const Host&) = delete;
  Host& operator=(const Host&) = delete;

  Scheduler& scheduler() { return scheduler_; }
  const CostTable& costs() const { return config_.costs; }
  const CpuModel& cpu_model() const { return model_; }
  unsigned cpu_count() const { return static_cast<unsigned>(cpus_.size()); }
  PhysicalCpu& cpu(unsigned i) { return *cpus_[i]; }
  /// True if clocks decide who runs, and waiting takes time.
  bool timed() const { return config_.schedule == Schedule::Time; }

  /// The CPU on which the next vCPU will stay: they take turns.
  PhysicalCpu& next_cpu() { return *cpus_[placed_ % cpus_.size()]; }
  void place(Vcpu& vcpu);
  /// The vCPU begins, or ends, to have a body to run.
  void enlist(Vcpu& vcpu);
  void dismiss(Vcpu& vcpu);

  /// Lets vCPUs run whose clocks are behind this one's, and another one on its CPU if its time
  /// slice is over. Nothing happens without clocks.
  void keep_time(Vcpu& vcpu);
  /// One turn of a wait: lets others run. With clocks, time goes on for the vCPU as it does for the
  /// furthest behind of those that do not wait; `why` counts it.
  void wait(Vcpu& vcpu, Event why);
  /// The vCPU is about to run its guest on its CPU: what a change of vCPU there takes, is done.
  void begins_to_run(Vcpu& vcpu);

  /// The VPID of a vCPU; 0 if there is none left.
  u32 vpid_of(const Vcpu& vcpu) const;
  /// Gives the vCPU an ASID of its CPU's, another one if `anew`.
  void give_asid(Vcpu& vcpu, bool anew = false);

 private:
  std::size_t next(std::span<Vcpu* const> ready) override;
  Vcpu* successor(const PhysicalCpu& cpu, const Vcpu& vcpu, bool halted_ones) const;
  void hand_over(PhysicalCpu& cpu, Vcpu& from, Vcpu& to);
  void end_slice_if_due(Vcpu& vcpu);
  u64 tags() const;

  MachineConfig config_;
  CpuModel model_;
  std::unique_ptr<LineCache> llc_;  // if data caches are modelled
  std::vector<std::unique_ptr<PhysicalCpu>> cpus_;
  std::vector<Vcpu*> enlisted_;  // by VM and index
  Scheduler scheduler_;
  u64 placed_ = 0;  // vCPUs
  u64 waits_ = 0;   // in a row, with nobody doing anything else
  u64 turn_ = 0;
};

}  // namespace mmuscope
