#pragma once

#include <string>

namespace mmuscope {

/// What a command came to.
struct Ran {
  int status = -1;  ///< 128 + N for signal N, as shells have it
  std::string out, err;
};

/// Runs a shell script in the project's root, in which $mmuscope is the program under test.
Ran shell(const std::string& script);

}  // namespace mmuscope
