// The guest's frames: none is given out twice, and what is free is found in every size it has.

#include "workloads/guest/frame_allocator.h"

#include <doctest/doctest.h>

#include <set>

#include "core/error.h"
#include "core/random.h"

using namespace mmuscope;

namespace {

constexpr Gfn kFirst{512 + 37};
constexpr Gfn kEnd{4 * 512 + 91};

std::vector<Gfn> take_all(FrameAllocator& frames) {
  std::vector<Gfn> all;
  while (frames.free() > 0) all.push_back(frames.allocate());
  return all;
}

}  // namespace

TEST_CASE("frames: all are given out, each once") {
  FrameAllocator frames(kFirst, kEnd);
  const std::vector<Gfn> all = take_all(frames);
  const std::set<Gfn> each(all.begin(), all.end());
  CHECK(each.size() == kEnd - kFirst);
  CHECK(*each.begin() == kFirst);
  CHECK(*each.rbegin() + 1 == kEnd);
  CHECK_THROWS_AS(frames.allocate(), RunError);
  CHECK_THROWS_AS(frames.allocate_pair(), RunError);
}

TEST_CASE("frames: a pair is found wherever two neighbours are free") {
  Random random(7);
  for (int round = 0; round < 50; ++round) {
    FrameAllocator frames(kFirst, kEnd);
    std::set<Gfn> free;
    for (const Gfn frame : take_all(frames)) {
      if (random.below(8) != 0) continue;
      frames.release(frame);
      free.insert(frame);
    }
    std::size_t pairs = 0;
    for (const Gfn f : free) pairs += f.raw() % 2 == 0 && free.count(f + 1) > 0;
    REQUIRE(pairs > 0);
    for (; pairs > 0; --pairs) {
      const Gfn first = frames.allocate_pair();
      CHECK(first.raw() % 2 == 0);
      CHECK(free.erase(first) + free.erase(first + 1) == 2);
    }
    CHECK_THROWS_AS(frames.allocate_pair(), RunError);
    CHECK(frames.free() == free.size());
    for (const Gfn frame : take_all(frames)) CHECK(free.erase(frame) == 1);
    CHECK(free.empty());
  }
}

TEST_CASE(
    "frames: a large one that is split is small ones, and becomes large again when all are free") {
  FrameAllocator frames(kFirst, kEnd);
  const auto large = frames.try_allocate_large();
  REQUIRE(large);
  CHECK(large->raw() % 512 == 0);
  CHECK(frames.head(*large + 5) == *large);
  frames.split(*large);
  CHECK(frames.in_use() == 512);
  CHECK(frames.head(*large + 5) == *large + 5);
  frames.share(*large + 5);
  for (u64 i = 0; i < 512; ++i) frames.release(*large + i);
  CHECK(frames.in_use() == 1);
  std::set<Gfn> others;
  while (const auto other = frames.try_allocate_large()) others.insert(*other);
  CHECK(others.count(*large) == 0);
  frames.release(*large + 5);
  CHECK(frames.try_allocate_large() == large);
}
