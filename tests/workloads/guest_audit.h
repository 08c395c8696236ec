#pragma once

#include <functional>

#include "workloads/guest/kernel.h"

namespace mmuscope {

/// Reads all tables of all processes through the harness's door and checks what must hold whenever
/// no vCPU is inside a change of them: no frame is owned twice, reference counts are what the
/// tables and the page cache add up to, every entry is explained by a mapping and every table by
/// one below it, and every frame in use is accounted for. Failures are doctest checks.
void audit(Kernel& kernel);

/// Runs the closures one a step.
class Steps final : public Program {
 public:
  using Step = std::function<void(Kernel&, Vcpu&)>;
  explicit Steps(std::vector<Step> steps) : steps_(std::move(steps)) {}
  bool step(Kernel& kernel, Vcpu& vcpu) override {
    if (next_ < steps_.size()) steps_[next_++](kernel, vcpu);
    return next_ < steps_.size();
  }

 private:
  std::vector<Step> steps_;
  std::size_t next_ = 0;
};

/// A native machine with a kernel on it.
struct Guest {
  explicit Guest(unsigned vcpus = 1, u64 memory = u64{64} << 20, u64 quantum = 64,
                 ProcessListener* listener = nullptr, bool kpti = false, bool pcid = true);
  /// On any machine, made native.
  explicit Guest(MachineConfig config);
  Machine machine;
  Kernel kernel;
};

}  // namespace mmuscope
