#pragma once

#include <filesystem>

#include "workloads/trace/feed.h"
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
///   same file. Shared mappings of files share what is written, too;
///   shared anonymous ones are treated as private ones.
/// - On one vCPU tasks run as the trace says. On several, each vCPU runs its tasks in their own
///   order, at most a window of TraceFeed ahead of the others; a task waits for its making, for
///   what its process asked of the kernel before, and its process's calls for what it did before.
/// - A child of vfork runs in its parent's memory until it calls Exec or Exit; nothing is copied.
/// - Of madvise only MADV_DONTNEED, MADV_HUGEPAGE and MADV_NOHUGEPAGE do anything.
class TraceReplay final : public Workload {
 public:
  struct Options {
    u64 memory_bytes = u64{1} << 30;
    unsigned cpus = 0;  ///< vCPUs that are used; 0: all
    Placement placement = Placement::RoundRobin;
  };
  /// Reads the trace's head. Throws InputError.
  TraceReplay(std::filesystem::path path, const Options& options);

  u64 memory_bytes() const override { return options_.memory_bytes; }
  /// Reads the trace once, as a stream. Throws InputError where it is damaged.
  void run(Machine& machine, ProcessListener* listener) override;

 private:
  std::filesystem::path path_;
  Options options_;
};

/// Parameters of the workload `trace`, and what makes it of them.
std::span<const ParamInfo> trace_params();
std::unique_ptr<Workload> make_trace_workload(const Params& params, u64 seed);

}  // namespace mmuscope
