#pragma once

#include <functional>

#include "results/scenario.h"

namespace mmuscope {

/// A scenario of random ops that a real vCPU can run live: one to six processes on one to three
/// vCPUs that touch pages, edit tables of every level through an identity mapping of the low 2 MiB,
/// flush as a careful guest does, or too little, or too much; dirty logging and the limit in some.
/// In some the guest's tables forbid accesses now and then. The same seed gives the same scenario.
Scenario random_scenario(u64 seed);

/// The scenario with as few ops and initial words as `differs` still holds for; each access with
/// its fetch, and each other op, is a step of its own. `differs` holds for the scenario given.
Scenario shrink(Scenario scenario, const std::function<bool(const Scenario&)>& differs);

/// How many ops a scenario has, an access and the fetch before it counting as one.
std::size_t units(const Scenario& scenario);

}  // namespace mmuscope
