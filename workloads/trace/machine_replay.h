#pragma once

#include "workloads/trace/machine_trace.h"
#include "workloads/workload.h"

namespace mmuscope {

/// Performs a machine's trace under another pager, or the same: each access, control-register
/// write, invalidation and interrupt on the vCPU that made it, in the order in which they were
/// made. No guest kernel runs, so there are no processes to account for. An access that ends
/// otherwise than when it was recorded (a fault, or none) ends the run (RunError names the record).
class MachineReplay final : public Workload {
 public:
  /// Reads the trace's head. Throws InputError.
  explicit MachineReplay(std::filesystem::path path);

  u64 memory_bytes() const override { return memory_bytes_; }
  /// Reads the trace once, as a stream. Throws InputError where it is damaged.
  void run(Machine& machine, ProcessListener* listener) override;

 private:
  std::filesystem::path path_;
  u64 memory_bytes_;
};

}  // namespace mmuscope
