#pragma once

#include <filesystem>

#include "workloads/trace/format.h"
#include "workloads/workload.h"

namespace mmuscope {

/// Replays a trace as processes of the guest kernel: its calls are system calls there, its accesses
/// are made at the recorded addresses in the process that made them.
///
/// - An instruction is a fetch, a modify a load and a store; an access that crosses into another
///   page is made in both. What paging sees is the page, so each access moves one byte: a store the
///   low byte of its record's number.
/// - A call that the guest kernel refuses, and an access that no mapping permits, end the run: the
///   trace does not fit together (RunError names the record).
/// - Private mappings of files share the file's pages until they write, as do all that name the
/// same
///   file. Shared mappings are treated as private ones.
/// - On one vCPU processes run as the trace says. On several, process n runs on vCPU n modulo their
///   number, in its own order; it waits only for its making.
class TraceReplay final : public Workload {
 public:
  /// Reads the whole trace once, so that damage is found before anything runs. Throws InputError.
  TraceReplay(std::filesystem::path path, u64 memory_bytes);

  u64 memory_bytes() const override { return memory_bytes_; }
  void run(Machine& machine, ProcessListener* listener) override;

  const TraceTotals& totals() const { return totals_; }

 private:
  std::filesystem::path path_;
  u64 memory_bytes_;
  TraceTotals totals_;
};

/// Parameters of the workload `trace`, and what makes it of them.
std::span<const ParamInfo> trace_params();
std::unique_ptr<Workload> make_trace_workload(const Params& params, u64 seed);

}  // namespace mmuscope
