#pragma once

#include <filesystem>

#include "workloads/trace/format.h"

namespace mmuscope {

// Sources that say less than a recording. Both throw InputError with file and line, and the rules
// by which they fill what is missing stand in the trace's info.

/// Makes a trace of `strace -f -o LOG -e trace=memory,process PROGRAM ARGS...` (-y adds the names
/// of files; times, as -t to -ttt write them, are passed over): the mappings, forks and programs.
/// - Calls that are <unfinished ...> count where they are resumed; a process that appears while a
///   fork is unfinished is that fork's.
/// - Pages that a call names though none mapped them (the program's image) are mapped before it.
/// - Accesses are made up: one to each of the first 16 pages of what is mapped readable.
void import_strace(const std::filesystem::path& log, const std::filesystem::path& out,
                   int compression = 17);

/// Makes a trace of a page-fault list: of `perf record -e page-faults -c 1 -d`, printed by
/// `perf script -F comm,pid,tid,time,event,addr,ip`, or of `perf record -e
/// exceptions:page_fault_user`, printed by `perf script`. Each user-half fault is one access.
/// - What it was the error code says; without one a fault at the instruction itself is a fetch, any
///   other a store.
/// - Each process begins where it appears. The 64 KiB around a fault are mapped if they are not.
void import_perf(const std::filesystem::path& log, const std::filesystem::path& out,
                 int compression = 17);

}  // namespace mmuscope
