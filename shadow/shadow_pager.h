#pragma once

#include <memory>
#include <span>

#include "core/pager.h"
#include "core/params.h"

namespace mmuscope {

class Machine;

/// The keys of the pager `shadow`.
std::span<const ParamInfo> shadow_params();

/// Classic shadow paging: every guest table in use is write-protected, every write to one exits and
/// is emulated, so that the shadows never lag behind.
/// Needs MachineConfig::virtualized. A run ends with RunError if the limit is too small.
std::unique_ptr<Pager> make_shadow_pager(Machine& machine, const Params& params);

}  // namespace mmuscope
