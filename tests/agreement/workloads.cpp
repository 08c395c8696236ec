// Every workload at a small size: access by access against the reference translator, and the same
// guest under every pager.

#include <doctest/doctest.h>

#include <string>

#include "results/catalog.h"
#include "tests/support/oracle.h"
#include "tests/support/setups.h"

namespace mmuscope {
namespace {

struct SmallWorkload {
  const char* spec;
  unsigned vcpus;
};
constexpr SmallWorkload kTrace = {
    "trace:file=" MMUSCOPE_SOURCE_DIR "/workloads/trace/recorded/shell-pipeline.mmt", 1};
constexpr SmallWorkload kSmall[] = {
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
};

struct WorkloadEnd {
  u64 seen = 0, memory = 0, checked = 0, uncertain = 0;
};

WorkloadEnd run_watched(const Setup& setup, const SmallWorkload& small) {
  const Spec spec = parse_spec(small.spec);
  const WorkloadInfo& info = find_workload(spec.name);
  Params params("workload " + spec.name, info.params);
  params.set_list(spec.list);
  const std::unique_ptr<Workload> workload = info.make(params, 1);
  MachineConfig config;
  config.memory_bytes = workload->memory_bytes();
  config.vcpus = small.vcpus;
  const auto machine = make_machine(setup, config);
  Oracle oracle(*machine);
  workload->run(*machine, nullptr);
  oracle.check_memory();
  return {oracle.digest(), oracle.memory_digest(), oracle.checked(), oracle.uncertain()};
}

void check_workload(const SmallWorkload& small, const std::vector<Setup>& setups) {
  WorkloadEnd first;
  for (const Setup& setup : setups) {
    const std::string where = std::string(small.spec) + " on " + std::to_string(small.vcpus) +
                              " vCPUs under " + setup.name();
    INFO(where);
    try {
      const WorkloadEnd run = run_watched(setup, small);
      if (first.checked == 0) first = run;
      CHECK(run.checked == first.checked);
      CHECK(run.seen == first.seen);
      CHECK(run.memory == first.memory);
      CHECK(run.checked > 1000);
    } catch (const Disagreement& d) {
      FAIL_CHECK(std::string(d.what()));
    }
  }
  MESSAGE(std::string(small.spec) << ": " << first.checked << " accesses, " << first.uncertain
                                  << " with a choice");
}

void check_workloads(unsigned begin, unsigned end) {
  for (unsigned i = begin; i < end; ++i) check_workload(kSmall[i], all_setups());
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
TEST_CASE("slow: the recorded trace agrees with the reference translator and across pagers") {
  std::vector<Setup> setups;
  for (const Setup& setup : all_setups()) {
    if (setup.backing == PageSize::k4K) setups.push_back(setup);
  }
  check_workload(kTrace, setups);
}

}  // namespace
}  // namespace mmuscope
