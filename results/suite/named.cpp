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
    "workload = micro:op=exec,operations=100\n"
    "workload = kernel-build:files=5\n"
    "workload = web:requests=200\n"
    "workload = java\n"
    "workload = redis-snapshot\n"
    "workload = container-start\n"
    "workload = balloon\n"
    "workload = ksm\n"
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

/// Every workload but the trace, small: a look at everything in seconds.
constexpr std::array<std::string_view, 1> kQuick = {
    "workload = touch:bytes=4m,accesses=100000\n"
    "workload = churn:bytes=4m\n"
    "workload = fork:operations=20\n"
    "workload = ptemod:operations=5000\n"
    "workload = switch:slices=200\n"
    "workload = database:bytes=8m,accesses=200000\n"
    "workload = migrate:bytes=4m,accesses=20000\n"
    "workload = micro:op=sh,operations=20\n"
    "workload = kernel-build:files=1,heap=1m,reads=1000\n"
    "workload = web:requests=20\n"
    "workload = java:heap=4m,reads=10000\n"
    "workload = redis-snapshot:bytes=4m,requests=5000\n"
    "workload = container-start:containers=1,layer-files=4,heap=256k\n"
    "workload = balloon:bytes=4m,rounds=2\n"
    "workload = ksm:bytes=1m,rounds=6,scan=2000\n"
    "pager = native\n"
    "pager = shadow\n"
    "pager = shadow-unsync\n"
    "pager = nested\n",
};

/// The settings behind published results, as far as there are workloads for them. Processes at once
/// have a vCPU each: the papers do not tell how many their machines had.
constexpr std::array<std::string_view, 6> kPaper = {
    // PVM, SOSP 2023, Cascade Lake: fork + exit + wait, protection fault, memory touched block by
    // block (of 4 GB a 16th: its cost is per page).
    "cpu = cascade-lake\n"
    "workload = fork:processes=1\n"
    "workload = ptemod:op=protect\n"
    "workload = churn:bytes=256m,processes=1\n"
    "pager = native\n"
    "pager = shadow\n"
    "pager = shadow-unsync\n"
    "pager = nested\n"
    "set = backing=4k\n"
    "set = backing=2m\n",

    "cpu = cascade-lake\n"
    "workload = churn:bytes=256m,processes=4\n"
    "pager = native\n"
    "pager = shadow-unsync\n"
    "pager = nested\n"
    "vcpus = 4\n",

    "cpu = cascade-lake\n"
    "workload = churn:bytes=256m,processes=16\n"
    "pager = native\n"
    "pager = shadow-unsync\n"
    "pager = nested\n"
    "vcpus = 16\n",

    "cpu = cascade-lake\n"
    "workload = fork:processes=32,operations=50\n"
    "pager = native\n"
    "pager = shadow-unsync\n"
    "pager = nested\n"
    "vcpus = 32\n",

    // VMware's first measurements: EPT on Nehalem, RVI on Barcelona. What gains most and what loses
    // to longer walks, and large pages in guest and hypervisor as the cure.
    "cpu = nehalem\n"
    "cpu = barcelona\n"
    "workload = fork\n"
    "workload = ptemod:op=protect\n"
    "workload = database:bytes=128m\n"
    "workload = database:bytes=128m,guest-page=2m\n"
    "workload = trace:file=workloads/trace/recorded/shell-pipeline.mmt\n"
    "pager = native\n"
    "pager = shadow-unsync\n"
    "pager = nested\n"
    "set = backing=4k\n"
    "set = backing=2m\n",

    // Bhargava et al., ASPLOS 2008: caches for walks in both dimensions, then large host pages.
    "cpu = barcelona\n"
    "workload = database:bytes=128m\n"
    "pager = native\n"
    "pager = nested\n"
    "set = walk-caches=1d\n"
    "set = walk-caches=2d\n"
    "set = walk-caches=2d+ntlb\n"
    "set = backing=4k\n"
    "set = backing=2m\n",
};

/// The same work for every vCPU, on 1 to 32 of them: threads of one process, and processes.
#define MMUSCOPE_VCPUS(N)                                             \
  "workload = churn:bytes=1m,block=256k,threads=" N                   \
  "\n"                                                                \
  "workload = fork:operations=10,processes=" N                        \
  "\n"                                                                \
  "workload = database:bytes=4m,accesses=50000,slice=1000,threads=" N \
  "\n"                                                                \
  "pager = native\n"                                                  \
  "pager = shadow\n"                                                  \
  "pager = shadow-unsync\n"                                           \
  "pager = nested\n"                                                  \
  "vcpus = " N "\n"
constexpr std::array<std::string_view, 6> kVcpus = {
    MMUSCOPE_VCPUS("1"), MMUSCOPE_VCPUS("2"),  MMUSCOPE_VCPUS("4"),
    MMUSCOPE_VCPUS("8"), MMUSCOPE_VCPUS("16"), MMUSCOPE_VCPUS("32"),
};
#undef MMUSCOPE_VCPUS

/// What keeping in step costs: the same work for each of 1 to 64 vCPUs, in modelled time, under
/// each kind of lock. (KVM's: coarse for shadow paging, rw for nested.)
#define MMUSCOPE_SCALING(N)                                                               \
  "workload = churn:bytes=128k,block=64k,threads=" N                                      \
  "\n"                                                                                    \
  "workload = fork:operations=5,resident=256k,processes=" N                               \
  "\n"                                                                                    \
  "workload = switch:slices=50,processes=" N                                              \
  "\n"                                                                                    \
  "workload = web:requests=5,workers=" N                                                  \
  "\n"                                                                                    \
  "workload = kernel-build:files=1,heap=64k,reads=1000,jobs=" N                           \
  "\n"                                                                                    \
  "workload = container-start:containers=1,layer-files=1,heap=16k,workers=1,processes=" N \
  "\n"                                                                                    \
  "workload = database:bytes=4m,accesses=20000,slice=1000,threads=" N                     \
  "\n"                                                                                    \
  "workload = touch:bytes=256k,accesses=10000,processes=" N                               \
  "\n"                                                                                    \
  "workload = ptemod:op=protect,operations=200,pages=64,processes=" N                     \
  "\n"                                                                                    \
  "workload = micro:op=mmap,operations=10,processes=" N                                   \
  "\n"                                                                                    \
  "workload = java:heap=1m,collections=2,reads=2000,processes=" N                         \
  "\n"                                                                                    \
  "workload = redis-snapshot:bytes=256k,snapshots=1,requests=1000,processes=" N           \
  "\n"                                                                                    \
  "workload = balloon:bytes=256k,rounds=2,processes=" N                                   \
  "\n"                                                                                    \
  "workload = ksm:bytes=256k,rounds=3,reads=200,writes=10,scan=1000,processes=" N         \
  "\n"                                                                                    \
  "workload = migrate:bytes=256k,rounds=2,accesses=2000,processes=" N                     \
  "\n"                                                                                    \
  "pager = native\n"                                                                      \
  "pager = shadow\n"                                                                      \
  "pager = shadow-unsync\n"                                                               \
  "pager = nested\n"                                                                      \
  "set = schedule=time\n"                                                                 \
  "set = lock=coarse\n"                                                                   \
  "set = lock=rw\n"                                                                       \
  "set = lock=fine\n"                                                                     \
  "vcpus = " N "\n"
constexpr std::array<std::string_view, 7> kScaling = {
    MMUSCOPE_SCALING("1"),  MMUSCOPE_SCALING("2"),  MMUSCOPE_SCALING("4"),  MMUSCOPE_SCALING("8"),
    MMUSCOPE_SCALING("16"), MMUSCOPE_SCALING("32"), MMUSCOPE_SCALING("64"),
};
#undef MMUSCOPE_SCALING

/// CPUs that VMs share: tags or none, a TLB of each size, ASIDs that run out; and threads on fewer
/// CPUs than vCPUs, whose flushes reach vCPUs that do not run.
constexpr std::array<std::string_view, 3> kPlacement = {
    "workload = database:bytes=4m,accesses=200000\n"
    "pager = native\n"
    "pager = shadow-unsync\n"
    "pager = nested\n"
    "vms = 1,2\n"
    "set = schedule=time\n"
    "set = cpus=1\n"
    "set = slice=250000\n"
    "set = vpid=on\n"
    "set = vpid=off\n"
    "set = tlb-scale=0.25\n"
    "set = tlb-scale=1\n"
    "set = tlb-scale=4\n",
    "workload = database:bytes=1m,accesses=100000\n"
    "pager = shadow-unsync\n"
    "pager = nested\n"
    "cpu = zen3\n"
    "vms = 4\n"
    "set = schedule=time\n"
    "set = cpus=1\n"
    "set = slice=250000\n"
    "set = tags=3\n"
    "set = tags=5\n"
    "set = tags=0\n",
    "workload = churn:bytes=512k,block=64k,threads=8\n"
    "pager = native\n"
    "pager = shadow-unsync\n"
    "pager = nested\n"
    "vcpus = 8\n"
    "set = schedule=time\n"
    "set = slice=250000\n"
    "set = cpus=8\n"
    "set = cpus=2\n"
    "set = pv-flush=off\n"
    "set = pv-flush=on\n"
    "set = apicv=on\n"
    "set = apicv=off\n",
};

/// Page sizes of the guest against those of the host, and nested paging with smaller leaves than
/// the host's pages allow.
constexpr std::array<std::string_view, 1> kPages = {
    "workload = database:bytes=64m,accesses=1000000\n"
    "workload = database:bytes=64m,accesses=1000000,guest-page=2m\n"
    "workload = touch:bytes=64m,pattern=uniform,populate=on\n"
    "workload = touch:bytes=64m,pattern=uniform,populate=on,guest-page=2m\n"
    "pager = native\n"
    "pager = shadow-unsync\n"
    "pager = nested\n"
    "pager = nested:page=2m\n"
    "pager = nested:page=4k\n"
    "set = backing=4k\n"
    "set = backing=mixed\n"
    "set = backing=2m\n"
    "set = backing=1g\n",
};

/// How large TLBs must be for nested paging to cost what shadow paging does.
constexpr std::array<std::string_view, 1> kTlbSweep = {
    "workload = database:bytes=64m,accesses=20000000\n"
    "workload = touch:bytes=32m,accesses=20000000,pattern=uniform,populate=on\n"
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

/// Page sizes, tags, walk caches and fragmentation, each on the same guest.
constexpr std::array<std::string_view, 4> kHardware = {
    "workload = database:bytes=64m,accesses=20000000\n"
    "workload = database:bytes=64m,accesses=20000000,guest-page=2m\n"
    "pager = native\n"
    "pager = shadow-unsync\n"
    "pager = nested\n"
    "set = backing=4k\n"
    "set = backing=2m\n"
    "set = backing=1g\n",

    "workload = database:bytes=2m,accesses=1000000,slice=2000,processes=4\n"
    "pager = native\n"
    "pager = shadow-unsync\n"
    "pager = nested\n"
    "set = vpid=on\n"
    "set = vpid=off\n"
    "set = pcid=on\n"
    "set = pcid=off\n",

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

    // A VM of 2 GiB asks for two pages of 1 GiB.
    "workload = database:bytes=1500m,accesses=2000000,memory=2g\n"
    "pager = native\n"
    "pager = nested\n"
    "set = backing=mixed\n"
    "set = fragmentation=0\n"
    "set = fragmentation=0.5\n"
    "set = fragmentation=0.75\n"
    "set = fragmentation=1\n",
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

/// Microbenchmarks at two lengths: the difference is what the operations between cost.
constexpr std::array<std::string_view, 1> kMicro = {
    "workload = micro:op=getpid,operations=200\n"
    "workload = micro:op=null-io,operations=200\n"
    "workload = micro:op=page-fault,operations=2560\n"
    "workload = micro:op=protection-fault,operations=200\n"
    "workload = micro:op=mmap,operations=200\n"
    "workload = micro:op=context-switch,operations=200\n"
    "workload = micro:op=fork,operations=200\n"
    "workload = micro:op=exec,operations=200\n"
    "workload = micro:op=sh,operations=200\n"
    "workload = churn:bytes=4m\n"
    "workload = ptemod:op=protect,operations=200\n"
    "workload = micro:op=getpid,operations=400\n"
    "workload = micro:op=null-io,operations=400\n"
    "workload = micro:op=page-fault,operations=5120\n"
    "workload = micro:op=protection-fault,operations=400\n"
    "workload = micro:op=mmap,operations=400\n"
    "workload = micro:op=context-switch,operations=400\n"
    "workload = micro:op=fork,operations=400\n"
    "workload = micro:op=exec,operations=400\n"
    "workload = micro:op=sh,operations=400\n"
    "workload = churn:bytes=8m\n"
    "workload = ptemod:op=protect,operations=400\n"
    "pager = shadow\n"
    "pager = shadow-unsync\n"
    "pager = nested\n"
    "set = kpti=off\n"
    "set = kpti=on\n"
    "set = pcid=on\n"
    "set = pcid=off\n",
};

/// The same programs in one VM with as many vCPUs as the paper's, one to all at once.
constexpr std::array<std::string_view, 1> kMicroProcesses = {
    "workload = micro:op=fork,operations=100,processes=1\n"
    "workload = micro:op=fork,operations=100,processes=4\n"
    "workload = micro:op=fork,operations=100,processes=16\n"
    "workload = micro:op=fork,operations=100,processes=32\n"
    "workload = churn:bytes=4m,processes=1\n"
    "workload = churn:bytes=4m,processes=4\n"
    "workload = churn:bytes=4m,processes=16\n"
    "workload = churn:bytes=4m,processes=32\n"
    "pager = shadow-unsync\n"
    "pager = nested\n"
    "set = kpti=on\n"
    "vcpus = 32\n",
};

/// Whole programs' worth of kernel work.
constexpr std::array<std::string_view, 1> kMacro = {
    "workload = kernel-build\n"
    "workload = web\n"
    "workload = database\n"
    "workload = java\n"
    "workload = redis-snapshot\n"
    "workload = container-start\n"
    "workload = balloon\n"
    "workload = ksm\n"
    "pager = native\n"
    "pager = shadow\n"
    "pager = shadow-unsync\n"
    "pager = nested\n"
    "set = kpti=off\n"
    "set = kpti=on\n",
};

/// What tables cost in memory as processes multiply, and what it costs to do with fewer.
constexpr std::array<std::string_view, 2> kMemory = {
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

    "workload = database:bytes=4m,accesses=20000,slice=1000,processes=64\n"
    "pager = shadow-unsync\n"
    "pager = shadow-unsync:limit=512\n"
    "pager = shadow-unsync:limit=256\n"
    "pager = shadow-unsync:limit=128\n",
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
    NamedSuite{"quick", "every workload but the trace under every pager, small: some seconds",
               kQuick},
    NamedSuite{
        "paper",
        "the settings of published results, for the ratios to compare with: PVM (SOSP 2023) "
        "on Cascade Lake, VMware's first EPT and RVI machines, Bhargava et al. (ASPLOS 2008)",
        kPaper},
    NamedSuite{"vcpus",
               "1 to 32 vCPUs with the same work for each: threads that release memory, processes "
               "that fork, threads that read tables that stay",
               kVcpus},
    NamedSuite{"scaling",
               "1 to 64 vCPUs with the same work for each, every workload, in modelled time: what "
               "keeping in step costs under one MMU lock, one that readers share, and one for "
               "each table; some minutes",
               kScaling},
    NamedSuite{"placement",
               "VMs that share a CPU, with tags and without, TLBs of each size, ASIDs that run "
               "out; more vCPUs than CPUs, flushes of those that do not run",
               kPlacement},
    NamedSuite{"pages",
               "guest pages of 4K and 2M on host pages of 4K, 2M, 1G and mixed, and smaller EPT "
               "leaves than the host's pages",
               kPages},
    NamedSuite{"tlb-sweep", "database and touch with a quarter to 8 times the CPU's TLBs",
               kTlbSweep},
    NamedSuite{
        "hardware",
        "database on guest and host pages of each size, with and without VPID and PCID, with each "
        "setting of the walk caches, with 4 and 5 levels, on memory more and more fragmented",
        kHardware},
    NamedSuite{
        "migration",
        "dirty-page harvests under shadow paging, write protection and the page-modification "
        "log",
        kMigration},
    NamedSuite{
        "memory",
        "bytes of tables for 1 to 256 processes under each virtualizing pager, with 4K and 2M "
        "backing; the shadow pager also with a limit on its pages",
        kMemory},
    NamedSuite{
        "micro",
        "each microbenchmark at two lengths, with and without KPTI and PCIDs: the difference "
        "is what its operations cost",
        kMicro},
    NamedSuite{"micro-processes", "fork and churn by 1 to 32 processes at once on 32 vCPUs",
               kMicroProcesses},
    NamedSuite{"macro", "the programs whole, from kernel-build to ksm, with and without KPTI",
               kMacro},
    NamedSuite{"options",
               "the shadow pager that works as KVM's does, with one of its optimisations off at a "
               "time, beside Xen's set and the plain pager",
               kOptions},
};

}  // namespace

std::span<const NamedSuite> named_suites() { return kNamed; }

}  // namespace mmuscope
