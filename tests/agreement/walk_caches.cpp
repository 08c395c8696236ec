// Random scripts with every cache of walks that there is, of either kind.

#include <doctest/doctest.h>

#include "tests/support/random_script.h"
#include "tests/support/script.h"
#include "tests/support/setups.h"

namespace mmuscope {
namespace {

void check_seeds(WalkCacheKind kind, u64 first, u64 last) {
  u64 checked = 0, hits = 0;
  for (u64 seed = first; seed <= last; ++seed) {
    CAPTURE(seed);
    const RandomScript script = random_script(seed, 120);
    for (Setup setup : all_setups()) {
      setup.walk_cache_kind = kind;
      for (const WalkCaches caches : {WalkCaches::OneD, WalkCaches::TwoD, WalkCaches::TwoDTlb}) {
        setup.walk_caches = caches;
        CAPTURE(setup.name());
        const ScriptEnd end = run_script(setup, script.start, script.script);
        checked += end.checked;
        hits += end.counters[Event::WalkCacheHit];
      }
    }
  }
  CHECK(checked > 1000);
  CHECK(hits > 1000);
}

TEST_CASE("random scripts agree with the reference translator, all walk caches by prefix") {
  check_seeds(WalkCacheKind::Prefix, 2001, 2150);
}
TEST_CASE("random scripts agree with the reference translator, all walk caches by entry") {
  check_seeds(WalkCacheKind::Entry, 2001, 2150);
}

}  // namespace
}  // namespace mmuscope
