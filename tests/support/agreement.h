#pragma once

#include <span>
#include <string>

#include "results/catalog.h"

namespace mmuscope {

/// What checking pagers came to.
struct Agreement {
  u64 runs = 0;       ///< guests run, each under one pager on one backing
  u64 checked = 0;    ///< accesses compared with the reference translator
  u64 uncertain = 0;  ///< of those, for which the architecture permits several outcomes
  u64 careful = 0;    ///< scripts whose guest does every flush that the architecture requires
  /// The first wrong thing: which guest, under which pager, what it was told and what it should
  /// have been told. Empty: all pagers agree with the reference and with each other.
  std::string disagreement;
  bool holds() const { return disagreement.empty(); }
};

/// Runs a random script for each seed under every pager of the span, over 4K and (if virtualized)
/// 2M backing, and compares every access with a reference translator written from the manual:
/// outcome, error code, host address, value loaded, A and D bits left behind, and all of memory at
/// the end. Where the guest does every required flush, all pagers must also have told it the same.
/// Ends at the first disagreement.
///
/// The pagers may be the catalogue's, a caller's own, or both: a PagerInfo is all it takes.
Agreement check_scripts(std::span<const PagerInfo> pagers, u64 first_seed, u64 last_seed,
                        unsigned length = 120);

/// The same for a workload, "NAME:key=value,...", on that many vCPUs. Every access costs about a
/// thousand times what it costs in a run: keep it small. The rest of the machine is as `config`
/// says. Throws InputError for a bad SPEC.
Agreement check_workload(std::span<const PagerInfo> pagers, const std::string& workload,
                         unsigned vcpus, const MachineConfig& config = {});

/// The script of a seed, an op a line, to see what a disagreement is about.
std::string script_text(u64 seed, unsigned length = 120);

}  // namespace mmuscope
