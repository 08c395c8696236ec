// Every workload at a small size: access by access against the reference translator, and the same
// guest under every pager.

#include <doctest/doctest.h>

#include <span>
#include <string>

#include "tests/support/agreement.h"
#include "tests/support/setups.h"

namespace mmuscope {
namespace {

constexpr GuestSpec kSmall[] = {
    {"touch:bytes=256k,accesses=3000,processes=2,slice=500", 1},
    {"touch:bytes=4m,accesses=3000,guest-page=2m", 1},
    {"churn:bytes=1m,block=256k", 1},
    {"churn:bytes=512k,block=128k,processes=2", 2},
    {"churn:bytes=256k,block=64k,threads=3", 3},
    {"fork:operations=8,resident=64k,writes=3", 1},
    {"fork:operations=4,resident=32k,writes=2,processes=3", 2},
    {"ptemod:operations=500,pages=64,read=on", 1},
    {"ptemod:operations=300,op=protect,pages=16,read=on,processes=2,slice=50", 2},
    {"switch:slices=80,pages=4,processes=3", 1},
    {"switch:slices=80,pages=4,processes=4", 2},
    {"database:bytes=1m,accesses=3000,threads=2,slice=500", 2},
    {"micro:op=sh,operations=1", 1},
    {"micro:op=mmap,operations=4,processes=2", 2},
    {"micro:op=context-switch,operations=50,processes=4", 1},
    {"web:requests=4,files=5,file-size=32k,workers=3", 2},
    {"java:heap=1m,collections=2,reads=500", 1},
    {"redis-snapshot:bytes=256k,requests=1000", 2},
};

/// Under the first `ways_tried` ways for the guest kernel to keep its address spaces apart.
void check_workloads(unsigned begin, unsigned end, unsigned ways_tried = 4) {
  for (const GuestSpec& small : std::span(kSmall).subspan(begin, end - begin)) {
    for (unsigned ways = 0; ways < ways_tried; ++ways) {
      MachineConfig config;
      config.kpti = (ways & 1) != 0;
      config.pcid = (ways & 2) == 0;
      CAPTURE(small.workload);
      CAPTURE(config.kpti);
      CAPTURE(config.pcid);
      const Agreement all = check_workload(pager_catalog(), small.workload, small.vcpus, config);
      CHECK(all.disagreement == "");
      CHECK(all.checked > 1000 * all.runs);
      if (ways != 0) continue;
      MESSAGE(std::string(small.workload) << ": " << all.checked / all.runs << " accesses, "
                                          << all.uncertain / all.runs << " with a choice");
    }
  }
}

/// A guest kernel that does more of what Linux does, as `config` says.
void check_kernel(std::span<const GuestSpec> workloads, const MachineConfig& config) {
  for (const GuestSpec& small : workloads) {
    CAPTURE(small.workload);
    const Agreement all = check_workload(pager_catalog(), small.workload, small.vcpus, config);
    CHECK(all.disagreement == "");
    CHECK(all.checked > 1000 * all.runs);
  }
}

TEST_CASE("workloads agree with the reference translator and across pagers: huge pages") {
  constexpr GuestSpec kHuge[] = {
      {"touch:bytes=4m,accesses=1000,slice=100", 1},
      {"fork:operations=2,resident=4m,writes=3", 1},
      {"redis-snapshot:bytes=4m,requests=300,snapshots=1", 2},
  };
  MachineConfig config;
  config.thp = HugePages::Always;
  config.khugepaged = 300;
  check_kernel(kHuge, config);
}

TEST_CASE("workloads agree with the reference translator and across pagers: the host") {
  constexpr GuestSpec kHosted[] = {
      {"balloon:bytes=1m,rounds=2", 1},
      {"balloon:bytes=4m,rounds=2,method=report", 2},
      {"ksm:bytes=64k,rounds=6,reads=50,writes=2,scan=200", 1},
      {"ksm:bytes=64k,rounds=4,reads=50,writes=2,scan=200,processes=3", 2},
      {"container-start:containers=1,layer-files=2,heap=64k,workers=1", 1},
  };
  check_kernel(kHosted, {});
}

TEST_CASE("workloads agree with the reference translator and across pagers: swap") {
  constexpr GuestSpec kSwapping[] = {
      {"touch:bytes=8m,accesses=1000,memory=12m,slice=100", 1},
      {"redis-snapshot:bytes=6m,requests=300,snapshots=1,memory=12m", 2},
  };
  MachineConfig config;
  config.swap_bytes = u64{16} << 20;
  check_kernel(kSwapping, config);
}

TEST_CASE("workloads agree with the reference translator and across pagers: touch, churn") {
  check_workloads(0, 5);
}
TEST_CASE("workloads agree with the reference translator and across pagers: fork, ptemod") {
  check_workloads(5, 9);
}
TEST_CASE("workloads agree with the reference translator and across pagers: switch, database") {
  check_workloads(9, 12);
}
TEST_CASE("workloads agree with the reference translator and across pagers: programs") {
  check_workloads(12, 18, 2);  // as many accesses as all others together
}
}  // namespace
}  // namespace mmuscope
