#pragma once

#include <string>

namespace mmuscope {

/// The project's root. A function, not a macro, so that objects do not depend on where they were
/// compiled and a compiler cache can share them between checkouts.
std::string source_dir();
/// The folder of the program under test.
std::string build_dir();

}  // namespace mmuscope
