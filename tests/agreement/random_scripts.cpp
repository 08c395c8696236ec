// Longer scripts drawn from seeds. MMUSCOPE_SEED=N runs one alone.

#include <doctest/doctest.h>

#include <cstdlib>

#include "tests/support/agreement.h"

namespace mmuscope {
namespace {

void check_seeds(u64 first, u64 last) {
  if (const char* only = std::getenv("MMUSCOPE_SEED")) {
    first = last = std::strtoull(only, nullptr, 10);
    MESSAGE(script_text(first));
  }
  const Agreement all = check_scripts(pager_catalog(), first, last);
  INFO("MMUSCOPE_SEED=N runs the script of a seed alone and prints it");
  CHECK(all.disagreement == "");
  if (first == last) return;
  // Both kinds were drawn, and the second does leave outcomes open.
  CHECK(all.careful > (last - first) / 3);
  CHECK(all.careful < (last - first) * 2 / 3);
  CHECK(all.uncertain > 0);
  MESSAGE(all.checked << " accesses checked, " << all.uncertain << " with a choice");
}

TEST_CASE("random scripts agree with the reference translator, seeds 1 to 250") {
  check_seeds(1, 250);
}
TEST_CASE("random scripts agree with the reference translator, seeds 251 to 500") {
  check_seeds(251, 500);
}
TEST_CASE("random scripts agree with the reference translator, seeds 501 to 750") {
  check_seeds(501, 750);
}
TEST_CASE("random scripts agree with the reference translator, seeds 751 to 1000") {
  check_seeds(751, 1000);
}

}  // namespace
}  // namespace mmuscope
