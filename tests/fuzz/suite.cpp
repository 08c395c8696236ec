// Any bytes as a suite file and as a CSV file: refused with InputError, or read.
#include "results/suite/suite.h"

#include <cstdint>
#include <string_view>

#include "core/error.h"
#include "results/csv.h"

using namespace mmuscope;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    (void)parse_suite(text, "fuzz.suite");
  } catch (const InputError&) {
  }
  try {
    (void)parse_csv(text, "fuzz.csv");
  } catch (const InputError&) {
  }
  return 0;
}
