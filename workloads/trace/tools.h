#pragma once

#include <cstdio>
#include <filesystem>
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

/// Writes every record as a line: number, process, kind, address in hexadecimal, bytes; calls with
/// their arguments. Throws InputError as TraceReader does, after the records before the damage.
void trace_dump(const std::filesystem::path& path, std::FILE* out);

}  // namespace mmuscope
