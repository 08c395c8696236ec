#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/machine.h"
#include "core/params.h"

namespace mmuscope {

/// What a run tells whoever accounts for it about one guest process. Uncounted.
struct ProcessView {
  u32 pid = 0;
  std::string name;
  std::vector<Gpa> roots;     ///< its page-table roots
  u64 guest_table_pages = 0;  ///< table pages of its own; the shared kernel half not included
  Counters counters;          ///< what happened while it ran, on any vCPU
};

/// Called at the moments at which a process's memory is worth measuring.
class ProcessListener {
 public:
  virtual ~ProcessListener() = default;
  /// The processes alive now, before anything of `leaving` (null at the end of the run and at
  /// samples in between) is torn down.
  virtual void on_sample(Machine& machine, std::span<const ProcessView> alive,
                         const ProcessView* leaving, u64 guest_table_pages_in_all) = 0;
  /// Guest accesses between samples, besides those at exits of processes and at the end. A sample
  /// is taken when the step of a program that reaches this many ends.
  virtual u64 sample_period() const { return u64{1} << 23; }
};

/// A deterministic guest and what it does. Runs under any pager and names none.
class Workload {
 public:
  virtual ~Workload() = default;
  /// Guest memory that the run needs, in bytes.
  virtual u64 memory_bytes() const = 0;
  /// Boots a guest on a fresh machine and runs it to its end on all its vCPUs. Throws RunError when
  /// the guest runs out of memory.
  virtual void run(Machine& machine, ProcessListener* listener) = 0;
};

struct WorkloadInfo {
  std::string_view name;
  std::string_view description;
  std::span<const ParamInfo> params;
  std::unique_ptr<Workload> (*make)(const Params& params, u64 seed);
};

/// Every workload, in the order of `list workloads`. Defined in workloads/catalog.cpp.
std::span<const WorkloadInfo> workload_catalog();

}  // namespace mmuscope
