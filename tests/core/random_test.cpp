#include "core/random.h"

#include <doctest/doctest.h>

#include <vector>

namespace mmuscope {
namespace {

// The expected values come from the published algorithms written down in another language.
TEST_CASE("random outputs are pinned") {
  Random one(1);
  for (const u64 due : {u64{0xb3f2af6d0fc710c5}, u64{0x853b559647364cea}, u64{0x92f89756082a4514},
                        u64{0x642e1c7bc266a3a7}}) {
    CHECK(one.next() == due);
  }
  Random zero(0);
  for (const u64 due : {u64{0x99ec5f36cb75f2b4}, u64{0xbf6e1f784956452a}})
    CHECK(zero.next() == due);
  Random bounded(42);
  const std::vector<u64> bounds = {10, 1000, 3, u64{1} << 63, (u64{1} << 63) + 1, 7};
  const std::vector<u64> due = {
      u64{0}, u64{378}, u64{2}, u64{8528787054591062096}, u64{9147776489032658738}, u64{5}};
  for (std::size_t i = 0; i < bounds.size(); ++i) CHECK(bounded.below(bounds[i]) == due[i]);
}

TEST_CASE("a bounded draw reaches every value and no other, a fraction stays below one") {
  Random random(7);
  std::vector<u64> seen(5);
  for (int i = 0; i < 5000; ++i) ++seen.at(random.below(5));
  for (const u64 count : seen) CHECK((count > 850 && count < 1150));
  for (int i = 0; i < 1000; ++i) {
    const double unit = random.unit();
    CHECK((unit >= 0 && unit < 1));
  }
  CHECK_FALSE(random.chance(0, 3));
  CHECK(random.chance(3, 3));
}

}  // namespace
}  // namespace mmuscope
