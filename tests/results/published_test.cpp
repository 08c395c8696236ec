#include "results/published.h"

#include <doctest/doctest.h>

#include <string>

namespace mmuscope {
namespace {

TEST_CASE("published: agreement is a factor, either way") {
  CHECK(agrees(2.0, 2.6, 1.3));
  CHECK(agrees(2.6, 2.0, 1.3));
  CHECK_FALSE(agrees(2.0, 2.7, 1.3));
  CHECK_FALSE(agrees(2.7, 2.0, 1.3));
}

TEST_CASE("published: the rows that are quick give the ratios that their prices say") {
  for (const PublishedRow& row : published_rows()) {
    if (row.what != "getpid, KPTI" && row.what != "getpid, no KPTI") continue;
    const auto ours = measure(row);
    REQUIRE(ours);
    CHECK(row.calibration);
    CHECK(agrees(row.published, *ours, row.tolerance));
  }
}

}  // namespace
}  // namespace mmuscope
