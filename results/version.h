#pragma once

#include <string_view>

namespace mmuscope {

/// The release, "1.2.3".
std::string_view version();

/// How this program was built: compiler and kind of build.
std::string_view build_description();

}  // namespace mmuscope
