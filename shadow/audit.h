#pragma once

#include <string>

#include "core/machine.h"

namespace mmuscope {

/// Checks every shadow entry of the machine's pager against the guest's entry, the memory map and
/// the pager's own records. Empty if all is well, else the first thing that is not, in words. For
/// pagers without shadow pages there is nothing to check. Slow: for tests, after any access.
std::string audit_shadow(Machine& machine);

}  // namespace mmuscope
