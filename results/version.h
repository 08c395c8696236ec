#pragma once

#include <string>
#include <string_view>

namespace mmuscope {

/// The release, "1.2.3".
std::string_view version();

/// How this program was built: compiler and kind of build.
std::string_view build_description();

/// Of the bytes of the running program: two programs with the same one count alike. Empty where the
/// system does not show them.
std::string program_digest();

}  // namespace mmuscope
