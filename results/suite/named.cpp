#include <array>

#include "results/suite/suite.h"

namespace mmuscope {
namespace {

/// Every workload and the recorded trace; then what changes with processes and with vCPUs.
constexpr std::array<std::string_view, 2> kDefault = {
    "workload = touch\n"
    "workload = churn\n"
    "workload = fork\n"
    "workload = ptemod\n"
    "workload = switch\n"
    "workload = database:bytes=32m,accesses=30000000\n"
    "workload = trace:file=workloads/trace/recorded/shell-pipeline.mmt\n"
    "pager = native\n"
    "pager = shadow\n"
    "pager = shadow-unsync\n"
    "pager = nested\n"
    "set = backing=4k\n"
    "set = backing=2m\n",

    "workload = touch:bytes=4m,processes=1\n"
    "workload = touch:bytes=4m,processes=16\n"
    "workload = churn:bytes=4m,processes=1\n"
    "workload = churn:bytes=4m,processes=16\n"
    "workload = churn:bytes=4m,processes=1,threads=4\n"
    "workload = fork:operations=20,processes=1\n"
    "workload = fork:operations=20,processes=16\n"
    "pager = native\n"
    "pager = shadow\n"
    "pager = shadow-unsync\n"
    "pager = nested\n"
    "set = backing=4k\n"
    "set = backing=2m\n"
    "vcpus = 1,4\n",
};

constexpr std::array kNamed = {
    NamedSuite{"default",
               "every workload and the recorded trace under every pager, with 4K and 2M backing; "
               "fork, churn and touch also with 1 and 16 processes and 1 and 4 vCPUs",
               kDefault},
};

}  // namespace

std::span<const NamedSuite> named_suites() { return kNamed; }

}  // namespace mmuscope
