#pragma once

#include <memory>

#include "core/pager.h"

namespace mmuscope {

class Machine;

/// The baseline: no virtualization. The hardware walks the guest's tables, guest-physical is
/// host-physical, nothing exits. Needs MachineConfig::virtualized = false.
std::unique_ptr<Pager> make_native_pager(Machine& machine);

}  // namespace mmuscope
