#pragma once

#include <filesystem>

#include "workloads/trace/format.h"

namespace mmuscope {

struct QemuOptions {
  int compression = 1;  ///< zstd's level, 1..19
};

/// Makes one trace of the logs that the QEMU plugin left in a folder (results/record runs both; the
/// logs' format is qemu_log.h). The logs are read once, as streams; `out` appears when it is whole.
///
/// - Order. Each log carries times at which its thread went on: after every system call, and every
///   few thousand records. Stretches between them are put in the order of these times, so a thread
///   that waited for another one comes after it.
/// - vfork, posix_spawn. QEMU makes a fork of them. What the maker did before its child executed a
///   program or ended comes after that, as Linux would have it; so does what it made meanwhile.
/// - Images. What the loader had mapped when a program began is mapped at its start or exec, as
///   synthesized calls.
/// - Instructions that only began a block which a signal or a fault left are there to its end.
/// - A load and a store of the same bytes by one instruction are one Modify.
/// - A task whose log ends without an exit (a signal killed it) exits there, synthesized.
///
/// Throws InputError: no logs, a file that is none or is damaged, with its word.
TraceTotals import_qemu(const std::filesystem::path& folder, const std::filesystem::path& out,
                        const QemuOptions& options = {});

}  // namespace mmuscope
