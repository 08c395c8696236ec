#include "tests/support/paths.h"

namespace mmuscope {

std::string source_dir() { return MMUSCOPE_SOURCE_DIR; }
std::string build_dir() { return MMUSCOPE_BINARY_DIR; }

}  // namespace mmuscope
