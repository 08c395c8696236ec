#pragma once

#include <filesystem>
#include <span>

#include "workloads/trace/format.h"

namespace mmuscope {

struct LackeyOptions {
  /// Accesses that a process makes before another one has its turn.
  u64 quantum = 20000;
  /// Of each process only the first so many accesses are kept, and all calls; 0: everything.
  u64 limit = 0;
  int compression = 17;  ///< zstd's level, 1..19
};

/// What an import made of its logs.
struct LackeySummary {
  TraceTotals totals;
  u64 bytes = 0;  ///< of the file
  TraceInfo info;
};

/// Makes one trace of the logs that `valgrind --tool=lackey --trace-mem=yes --trace-syscalls=yes
/// --trace-children=yes --log-file=t.%p.lk PROGRAM ARGS...` left on amd64: one log a process, in
/// any order. The logs are read twice, as streams; `out` appears when it is whole.
///
/// What the logs do not say is made up by these rules, and info.synthesized counts each use:
/// - Order. A process is made where a log names it, as the last of a queue; the first of the queue
///   runs for a quantum and goes to its end. A wait lets a process rest until a child has ended.
///   A process whose making no log names (its maker's log begins with a later exec) starts with
///   the others of its kind, by pid, before everything else.
/// - Fork to exec. Lackey starts a process's log anew at exec, so what a child does before it is
///   lost. A child of fork stores 8 bytes where its parent stored last, and execs. A child of
///   vfork, which shares its parent's memory until then, execs at once.
/// - Images. The kernel's loader is not in the logs: pages that are used, or get other rights, and
///   that no call explains (program, dynamic linker, stack, valgrind's own stubs) are mapped at
///   exec. Neighbours with the same rights become one mapping, over gaps of up to 256 pages; rights
///   are those used. What is never written is mapped from a file: from 4000000h to 4100000h, where
///   valgrind puts it, the dynamic linker, elsewhere the program.
/// - Exit. A process ends where its log does. A child without a log ends at once.
/// - Threads are not told apart: their accesses are their process's, in the order of the log.
///
/// Throws InputError: a log that is none, with file and line; two logs of one process; logs without
/// accesses or without calls; a process with more than 4 GiB of pages that nothing explains.
LackeySummary import_lackey(std::span<const std::filesystem::path> logs,
                            const std::filesystem::path& out, const LackeyOptions& options = {});

}  // namespace mmuscope
