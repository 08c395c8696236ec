#include "core/memory_map.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "core/cpu_model.h"
#include "core/tlb.h"

using namespace mmuscope;

namespace {

constexpr u64 kBytes = u64{8} << 30;
constexpr u64 kRegions = kBytes >> 21;

/// How many 2-MByte regions are in host pages of each size.
std::array<u64, kPageSizes> sizes(u32 fragmented, u64 seed = 1) {
  PhysicalMemory memory(kBytes, 1 << 21);
  MemoryMap map(memory, kBytes, {PageSize::k1G, fragmented, seed});
  std::array<u64, kPageSizes> count{};
  for (u64 i = 0; i < kRegions; ++i) {
    const Backing b = map.back(Gfn(i * 512 + 3));
    CHECK((b.frame.raw() & (page_bytes(b.size) / kPageBytes - 1)) ==
          ((i * 512 + 3) & (page_bytes(b.size) / kPageBytes - 1)));
    ++count[static_cast<unsigned>(b.size)];
  }
  return count;
}

}  // namespace

TEST_CASE("mixed backing falls back to 2M and 4K pages by the share that is fragmented") {
  using Sizes = std::array<u64, kPageSizes>;
  CHECK(sizes(0) == Sizes{0, 0, kRegions});
  CHECK(sizes(1'000'000) == Sizes{kRegions, 0, 0});
  const Sizes half = sizes(500'000);
  CHECK(half[2] % 512 == 0);
  CHECK(half[2] > 0);
  CHECK(half[1] > 0);
  CHECK(half[0] > 0);
  // Of the regions outside 1G pages half are to be small.
  const double share = double(half[0]) / double(half[0] + half[1]);
  CHECK(share > 0.4);
  CHECK(share < 0.6);
  CHECK(sizes(500'000) == half);
  CHECK(sizes(500'000, 2) != half);
}

TEST_CASE("all of memory can be backed at once, with frames of their own") {
  PhysicalMemory memory(u64{3} << 29, 1 << 21);
  MemoryMap map(memory, u64{3} << 29, {PageSize::k1G, 700'000, 5});
  map.back_all();
  std::vector<u64> frames;
  for (Gfn g(0); map.contains(g); g = g + 512) {
    REQUIRE(map.find(g));
    frames.push_back(map.find(g)->frame.raw());
  }
  std::sort(frames.begin(), frames.end());
  CHECK(std::adjacent_find(frames.begin(), frames.end()) == frames.end());
}

TEST_CASE("TLBs are scaled by their sets, fully associative ones by their ways") {
  for (const CpuModel& cpu : cpu_models()) {
    CAPTURE(cpu.name);
    for (const unsigned percent : {25u, 50u, 100u, 200u, 800u}) {
      CAPTURE(percent);
      const CpuModel scaled = with_tlbs_scaled(cpu, percent);
      REQUIRE(scaled.l2_data.size() == cpu.l2_data.size());
      const TlbGeometry &now = scaled.l2_data[0], &was = cpu.l2_data[0];
      CHECK(now.entries == was.entries * percent / 100);
      CHECK(now.ways == was.ways);
      for (const TlbGeometry& g : scaled.l1_load) {
        CHECK(g.entries >= 1);
        CHECK(g.entries % g.ways == 0);
      }
      const Tlb buildable(scaled);
    }
  }
  const CpuModel quarter = with_tlbs_scaled(cpu_model("zen3"), 25);
  CHECK(quarter.l1_load[0].entries == 16);
  CHECK(quarter.l1_load[0].ways == 16);
}
