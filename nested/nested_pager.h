#pragma once

#include <memory>
#include <span>

#include "core/pager.h"
#include "core/params.h"

namespace mmuscope {

class Machine;

/// The keys of the pager `nested`.
std::span<const ParamInfo> nested_params();

/// Two-dimensional paging: the guest owns its tables, CR3 and INVLPG, the hardware walks the
/// guest's tables and the hypervisor's (EPT or NPT) for every address it meets, and only memory
/// that the second dimension does not map yet makes the guest exit.
/// Needs MachineConfig::virtualized. Throws InputError for keys that the CPU cannot do.
std::unique_ptr<Pager> make_nested_pager(Machine& machine, const Params& params);

}  // namespace mmuscope
