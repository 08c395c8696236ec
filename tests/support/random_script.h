#pragma once

#include "tests/support/script.h"

namespace mmuscope {

/// A script drawn from a seed, and how to start it.
struct RandomScript {
  ScriptStart start;
  Script script;
  /// The guest does every flush that the architecture requires, and no page table is data: then all
  /// pagers owe it the same. Else the script does anything.
  bool careful = false;
};
RandomScript random_script(u64 seed, unsigned length);

}  // namespace mmuscope
