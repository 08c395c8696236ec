#pragma once

#include <memory>
#include <span>

#include "core/pager.h"
#include "core/params.h"

namespace mmuscope {

class Machine;

/// The keys of the pager `shadow-unsync`: one for each decision in which it differs from `shadow`.
std::span<const ParamInfo> unsync_params();

/// Shadow paging as KVM does it: leaf tables may be written without exits and are brought up to
/// date when the guest flushes; only writes to upper tables are trapped. Needs
/// MachineConfig::virtualized. A run ends with RunError if the limit is too small.
std::unique_ptr<Pager> make_unsync_pager(Machine& machine, const Params& params);

}  // namespace mmuscope
