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

/// How large TLBs must be for nested paging to cost what shadow paging does.
constexpr std::array<std::string_view, 1> kTlbSweep = {
    "workload = database:bytes=64m,accesses=4000000\n"
    "workload = touch:bytes=32m,accesses=4000000,pattern=uniform,populate=on\n"
    "pager = native\n"
    "pager = shadow-unsync\n"
    "pager = nested\n"
    "set = tlb-scale=0.25\n"
    "set = tlb-scale=0.5\n"
    "set = tlb-scale=1\n"
    "set = tlb-scale=2\n"
    "set = tlb-scale=4\n"
    "set = tlb-scale=8\n",
};

/// Tags, backing and walk caches, on the same guest.
constexpr std::array<std::string_view, 3> kHardware = {
    "workload = database:bytes=64m,accesses=4000000\n"
    "pager = native\n"
    "pager = shadow-unsync\n"
    "pager = nested\n"
    "set = vpid=on\n"
    "set = vpid=off\n"
    "set = backing=4k\n"
    "set = backing=2m\n"
    "set = backing=1g\n"
    "set = backing=mixed\n",

    "workload = database:bytes=64m,accesses=4000000,guest-page=2m\n"
    "pager = native\n"
    "pager = shadow-unsync\n"
    "pager = nested\n"
    "set = backing=4k\n"
    "set = backing=2m\n"
    "set = backing=1g\n",

    "workload = database:bytes=64m,accesses=4000000\n"
    "pager = nested\n"
    "set = walk-caches=off\n"
    "set = walk-caches=1d\n"
    "set = walk-caches=2d\n"
    "set = walk-caches=2d+ntlb\n"
    "set = backing=4k\n"
    "set = backing=2m\n"
    "set = guest-levels=4\n"
    "set = guest-levels=5\n",
};

/// Live migration by rounds: the difference of two numbers of rounds is what one costs.
constexpr std::array<std::string_view, 1> kMigration = {
    "workload = migrate:rounds=1\n"
    "workload = migrate:rounds=2\n"
    "workload = migrate:rounds=4\n"
    "workload = migrate:rounds=8\n"
    "pager = shadow-unsync\n"
    "pager = nested:pml=off\n"
    "pager = nested:pml=on\n"
    "set = backing=4k\n"
    "set = backing=2m\n"
    "set = vpid=on\n"
    "set = vpid=off\n",
};

/// What tables cost in memory as processes multiply.
constexpr std::array<std::string_view, 1> kMemory = {
    "workload = fork:operations=2,resident=256k,processes=1\n"
    "workload = fork:operations=2,resident=256k,processes=4\n"
    "workload = fork:operations=2,resident=256k,processes=16\n"
    "workload = fork:operations=2,resident=256k,processes=64\n"
    "workload = fork:operations=2,resident=256k,processes=256\n"
    "workload = database:bytes=4m,accesses=20000,slice=1000,processes=1\n"
    "workload = database:bytes=4m,accesses=20000,slice=1000,processes=4\n"
    "workload = database:bytes=4m,accesses=20000,slice=1000,processes=16\n"
    "workload = database:bytes=4m,accesses=20000,slice=1000,processes=64\n"
    "workload = database:bytes=4m,accesses=20000,slice=1000,processes=256\n"
    "pager = shadow\n"
    "pager = shadow-unsync\n"
    "pager = nested\n"
    "set = backing=4k\n"
    "set = backing=2m\n",
};

/// What each decision of KVM's shadow pager is worth: one turned off at a time, and Xen's set.
constexpr std::array<std::string_view, 1> kOptions = {
    "workload = touch:bytes=8m\n"
    "workload = churn:bytes=16m\n"
    "workload = fork:operations=50\n"
    "workload = ptemod:op=protect,operations=20000\n"
    "workload = switch:slices=1000\n"
    "workload = database:bytes=16m,accesses=500000\n"
    "workload = trace:file=workloads/trace/recorded/shell-pipeline.mmt\n"
    "pager = shadow-unsync\n"
    "pager = shadow-unsync:unsync=off\n"
    "pager = shadow-unsync:prefetch=off\n"
    "pager = shadow-unsync:flood=0\n"
    "pager = shadow-unsync:roots=0\n"
    "pager = shadow-unsync:rmap-limit=0\n"
    "pager = shadow-unsync:policy=xen\n"
    "pager = shadow\n",
};

constexpr std::array kNamed = {
    NamedSuite{"default",
               "every workload and the recorded trace under every pager, with 4K and 2M backing; "
               "fork, churn and touch also with 1 and 16 processes and 1 and 4 vCPUs",
               kDefault},
    NamedSuite{"tlb-sweep", "database and touch with a quarter to 8 times the CPU's TLBs",
               kTlbSweep},
    NamedSuite{
        "hardware",
        "database with and without VPID, on host pages of each size, with each setting of the "
        "walk caches, with 4 and 5 levels",
        kHardware},
    NamedSuite{
        "migration",
        "dirty-page harvests under shadow paging, write protection and the page-modification "
        "log",
        kMigration},
    NamedSuite{
        "memory",
        "bytes of tables for 1 to 256 processes under each virtualizing pager, with 4K and 2M "
        "backing",
        kMemory},
    NamedSuite{"options",
               "the shadow pager that works as KVM's does, with one of its optimisations off at a "
               "time, beside Xen's set and the plain pager",
               kOptions},
};

}  // namespace

std::span<const NamedSuite> named_suites() { return kNamed; }

}  // namespace mmuscope
