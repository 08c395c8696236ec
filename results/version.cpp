#include "results/version.h"

#ifdef __clang__
#define MMUSCOPE_COMPILER "clang " __clang_version__
#else
#define MMUSCOPE_COMPILER "g++ " __VERSION__
#endif

namespace mmuscope {

std::string_view version() { return MMUSCOPE_VERSION; }

std::string_view build_description() { return MMUSCOPE_COMPILER ", " MMUSCOPE_BUILD_TYPE; }

}  // namespace mmuscope
