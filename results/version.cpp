#include "results/version.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <fstream>
#include <iterator>

#ifdef __clang__
#define MMUSCOPE_COMPILER "clang " __clang_version__
#else
#define MMUSCOPE_COMPILER "g++ " __VERSION__
#endif

namespace mmuscope {

std::string_view version() { return MMUSCOPE_VERSION; }

std::string_view build_description() { return MMUSCOPE_COMPILER ", " MMUSCOPE_BUILD_TYPE; }

std::string program_digest() {
  std::ifstream in("/proc/self/exe", std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  return bytes.empty() ? "" : fmt::format("{:016x}", XXH3_64bits(bytes.data(), bytes.size()));
}

}  // namespace mmuscope
