#pragma once

#include <stdexcept>
#include <string>

namespace mmuscope {

/// Input that a user gave and that cannot be used: an option, a suite, a trace, a scenario, a case.
/// what() is one line that says what, where (file and line or record) and what would be valid.
/// Only main turns it into a message and exit status 2.
struct InputError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// A run that cannot go on, through no fault of its input's form: the guest is out of memory, a
/// limit is too small to make progress. It ends one experiment; the message goes into its status.
struct RunError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace mmuscope
