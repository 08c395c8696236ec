#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "workloads/trace/format.h"

namespace mmuscope {

/// What `trace info` tells about a trace.
struct TraceSummary {
  struct Process {
    u64 pid = 0;                 ///< where it was recorded
    u32 parent = kMaxProcesses;  ///< number of the task that made it; kMaxProcesses: none
    std::string name;            ///< of the last program that it ran
    u64 accesses = 0;
    u64 calls = 0;
    bool thread = false;  ///< of another process
  };
  TraceInfo info;
  TraceTotals totals;
  std::array<u64, kCallKinds> calls{};  ///< by CallKind
  u64 synthesized_calls = 0;
  u64 file_bytes = 0;
  std::vector<Process> processes;
};

/// Reads a whole trace and checks it. Throws InputError as TraceReader does.
TraceSummary trace_info(const std::filesystem::path& path);

/// The summary as lines of text, for `trace info`.
std::string describe(const TraceSummary& summary);

/// The same of any trace, a program's or a machine's.
std::string trace_description(const std::filesystem::path& path);

/// Writes the first `count` records from record `first` on as a trace of its own. Of a program's
/// trace what its processes asked of the kernel before is kept, so that the rest fits; of a
/// machine's only a beginning can be cut out (first = 0). Throws InputError.
void trace_cut(const std::filesystem::path& path, const std::filesystem::path& out, u64 first,
               u64 count, int compression = 3);

/// Makes one trace of several programs', as if they had been started together: each in turn makes
/// `quantum` accesses. Throws InputError.
void trace_merge(std::span<const std::filesystem::path> paths, const std::filesystem::path& out,
                 u64 quantum, int compression = 3);

}  // namespace mmuscope
