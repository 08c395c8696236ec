// Longer scripts drawn from seeds. MMUSCOPE_SEED=N runs one alone.

#include <doctest/doctest.h>

#include <cstdlib>
#include <string>

#include "tests/support/random_script.h"
#include "tests/support/oracle.h"
#include "tests/support/setups.h"

namespace mmuscope {
namespace {

constexpr unsigned kLength = 120;

std::string label(u64 seed, const Setup& setup, const RandomScript& script) {
  return "MMUSCOPE_SEED=" + std::to_string(seed) + " under " + setup.name() + ", " +
         std::to_string(script.start.vcpus) + " vCPUs, " +
         (script.careful ? "with every flush" : "anything goes");
}

struct Tally {
  u64 careful = 0, checked = 0, uncertain = 0;
};

void check_seed(u64 seed, Tally& tally) {
  const RandomScript script = random_script(seed, kLength);
  tally.careful += script.careful;
  ScriptEnd first;
  for (const Setup& setup : all_setups()) {
    INFO(label(seed, setup, script));
    try {
      const ScriptEnd end = run_script(setup, script.start, script.script);
      tally.checked += end.checked;
      tally.uncertain += end.uncertain;
      if (!script.careful) continue;
      REQUIRE(end.uncertain == 0);
      if (first.checked == 0) first = end;
      REQUIRE(end.seen == first.seen);
      REQUIRE(end.memory == first.memory);
    } catch (const Disagreement& d) {
      FAIL(std::string(d.what()));
    }
  }
}

void check_seeds(u64 first, u64 last) {
  if (const char* only = std::getenv("MMUSCOPE_SEED")) {
    first = last = std::strtoull(only, nullptr, 10);
    MESSAGE(text_of(random_script(first, kLength).script));
  }
  Tally tally;
  for (u64 seed = first; seed <= last; ++seed) check_seed(seed, tally);
  if (first == last) return;
  // Both kinds were drawn, and the second does leave outcomes open.
  CHECK(tally.careful > (last - first) / 3);
  CHECK(tally.careful < (last - first) * 2 / 3);
  CHECK(tally.uncertain > 0);
  MESSAGE(tally.checked << " accesses checked, " << tally.uncertain << " with a choice");
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
