#pragma once

#include <string_view>

namespace mmuscope {

// The sources of the page, as they were when the program was built: see CMakeLists.txt.
extern const std::string_view kPageHtml, kPageCss, kPageJs, kUplotCss, kUplotJs;

}  // namespace mmuscope
