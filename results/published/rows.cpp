#include <limits>

#include "results/published/published.h"

namespace mmuscope {
namespace {

constexpr std::string_view kArithmetic =
    "arithmetic on the formats; 24 and 4 are in the literature";
constexpr std::string_view kPvm = "PVM, SOSP 2023";
constexpr std::string_view kVmwareEpt = "VMware, EPT on Nehalem, 2009";
constexpr std::string_view kVmwareRvi = "VMware, RVI on Barcelona, 2008";
constexpr std::string_view kBhargava = "Bhargava et al., ASPLOS 2008";
constexpr std::string_view kAdams = "Adams and Agesen, ASPLOS 2006 (from memory)";
constexpr std::string_view kXen = "Xen's out-of-sync L1 shadows, 2008";

constexpr std::string_view kKpti = "kpti=on", kNoKpti = "kpti=off";
constexpr std::string_view kShadow = "shadow-unsync", kNested = "nested";
constexpr double kClose = 1.3, kFactorTwo = 2, kAnyMore = std::numeric_limits<double>::infinity();

/// Time under shadow paging as KVM does it over that under nested paging.
Figure gap(const Load& load, std::string_view label = "") {
  return {label, {load, kShadow}, {load, kNested}};
}
/// Two columns of one run.
Figure share(const Load& load, std::string_view pager, std::string_view of, std::string_view over) {
  return {"", {load, pager, of}, {load, pager, over}};
}
/// One column, for each operation.
Figure per_operation(const Load& load, std::string_view pager, std::string_view column) {
  return {"", {load, pager, column}, {}};
}

// --- walks ---------------------------------------------------------------------------------------

constexpr std::string_view kCold = "walk-caches=off", kCold2M = "walk-caches=off,backing=2m",
                           kCold1G = "walk-caches=off,backing=1g",
                           kColdLa57 = "walk-caches=off,guest-levels=5";
constexpr std::string_view k4k = "lone-access:page=4k", k2m = "lone-access:page=2m",
                           k1g = "lone-access:page=1g";

PublishedRow walk(std::string_view what, double published, std::string_view pager,
                  std::string_view page, std::string_view settings,
                  std::string_view column = "table_refs") {
  return {Section::Walks, kArithmetic,
          what,           {{"", {{page, 0, 0, 1, settings}, pager, column}, {}}},
          Judge::Near,    published,
          published,      1,
          false};
}

void add_walks(std::vector<PublishedRow>& rows) {
  const std::vector<PublishedRow> walks = {
      walk("native, 4 levels", 4, "native", k4k, kCold),
      walk("native, 5 levels", 5, "native", k4k, kColdLa57),
      walk("shadow, 4 levels", 4, "shadow", k4k, kCold),
      walk("shadow, 5 levels", 5, "shadow", k4k, kColdLa57),
      walk("nested, 4 x 4 levels", 24, "nested", k4k, kCold),
      walk("nested, 5 x 5 levels", 35, "nested:levels=5", k4k, kColdLa57),
      walk("nested, EPT pages of 2M", 19, "nested", k4k, kCold2M),
      walk("nested, guest pages of 2M", 19, "nested", k2m, kCold),
      walk("nested, both of 2M", 15, "nested", k2m, kCold2M),
      walk("nested, EPT pages of 1G", 14, "nested", k4k, kCold1G),
      walk("nested, both of 1G", 8, "nested", k1g, kCold1G),
      walk("the trade press's 16: EPT entries for guest tables", 16, "nested", k4k, kCold,
           "table_refs_for_guest_tables"),
  };
  rows.insert(rows.end(), walks.begin(), walks.end());
}

// --- PVM -----------------------------------------------------------------------------------------

PublishedRow pvm(std::string_view what, double published, double tolerance, const Figure& figure,
                 std::string_view why = "") {
  return {Section::Pvm, kPvm,      what,      {figure}, Judge::Near,
          published,    published, tolerance, false,    why};
}
PublishedRow calibration(PublishedRow row) {
  row.calibration = true;
  return row;
}
Load getpid(std::string_view settings) {
  return {"micro:op=getpid,operations=OPS", 200, 2200, 1, settings};
}
Load touch(std::string_view workload, unsigned processes) {
  return {workload, 4, 12, processes, kKpti};
}
constexpr std::string_view kTouch1 = "churn:block=1m,bytes=OPSm",
                           kTouch4 = "churn:block=1m,processes=4,bytes=OPSm",
                           kTouch16 = "churn:block=1m,processes=16,bytes=OPSm",
                           kForks32 = "micro:op=fork,processes=32,operations=OPS";
constexpr Load kForkOneLock = {kForks32, 5, 25, 32, "kpti=on,lock=coarse"};
constexpr Load kForkFineLocks = {kForks32, 5, 25, 32, "kpti=on,lock=fine"};
constexpr Load kForkAlone = {"micro:op=fork,operations=OPS", 5, 25, 1, "kpti=on,lock=coarse"};

/// What many at once take over what one takes, each as much.
Figure growth(std::string_view pager, const Load& many, const Load& one) {
  return {"", {many, pager}, {one, pager}};
}

// How many vCPUs the VM had is not published: as many as processes here.
void add_pvm(std::vector<PublishedRow>& rows) {
  const std::vector<PublishedRow> all = {
      calibration(pvm("getpid, no KPTI", 1.0, kClose, gap(getpid(kNoKpti)))),
      calibration(pvm("getpid, KPTI", 9.5, kClose, gap(getpid(kKpti)))),
      pvm("page fault, mapped file", 6.2, kClose,
          gap({"micro:op=page-fault,operations=OPS", 512, 5120, 1, kKpti})),
      pvm("protection fault", 4.8, kClose,
          gap({"micro:op=protection-fault,operations=OPS", 200, 2200, 1, kKpti})),
      pvm("fork + exit + wait", 6.1, kClose,
          gap({"micro:op=fork,operations=OPS", 20, 120, 1, kKpti}),
          "a process costs nested paging what it did there, shadow paging half: its 154 exits, at "
          "the prices of faults and CR3 writes, do not add up to what that kernel spent. Those "
          "prices are of one kind of exit in a loop, its code and data at hand; between other work "
          "an exit's indirect cost can be several times the direct one (Landau et al., SplitX)"),
      pvm("fork, 32 at once, one lock", 62, kFactorTwo, gap(kForkOneLock)),
      pvm("fork, 32 at once, fine locks", 10.5, kFactorTwo, gap(kForkFineLocks)),
      calibration(pvm("touch 4 GB, a page", 2.1, kClose, gap({kTouch1, 4, 20, 1, kKpti}))),
      pvm("touch 4 GB, 4 at once", 1.75, kClose, gap(touch(kTouch4, 4))),
      pvm("touch 4 GB, 16 at once", 1.87, kClose, gap(touch(kTouch16, 16)),
          "the two rows of growth below say which side: shadow paging grows as published; EPT "
          "grew threefold, ours not at all"),
      pvm("touch 4 GB, 16 at once over 1, shadow", 20.98 / 7.72, kClose,
          growth(kShadow, touch(kTouch16, 16), touch(kTouch1, 1))),
      pvm("touch 4 GB, 16 at once over 1, EPT", 11.23 / 3.65, kClose,
          growth(kNested, touch(kTouch16, 16), touch(kTouch1, 1)),
          "nothing in the guest or the machine gets slower here with 16 processes on 16 vCPUs. "
          "There 4 processes already took 1.89 times as long as one, too much for any lock of a "
          "kernel that spends 8,600 cycles on a page: CPUs that share a core's two threads, fewer "
          "vCPUs than processes, the clock that falls with the number of busy cores, or the host's "
          "one lock, had every page been new to it (tried in results/README.md); the paper does "
          "not say which"),
      pvm("fork, 32 at once over 1, shadow", 32000 / 504.67, kFactorTwo,
          growth(kShadow, kForkOneLock, kForkAlone),
          "with 32 waiting for the one lock, a fork there holds up the others for 1 ms, twice as "
          "long as it takes alone; here it holds the lock for part of its time"),
      pvm("fork, 32 at once over 1, EPT", 513.5 / 82.13, kFactorTwo,
          growth(kNested, kForkOneLock, kForkAlone),
          "the guest's own locks are hardly waited for here"),
      pvm("kernel build", 1.71, kClose, gap({"kernel-build:files=OPS", 2, 6, 1, kKpti})),
      pvm("SPECjbb2005, time of a unit: java", 50.0 / 53, kClose,
          gap({"java:return=off,collections=OPS", 24, 28, 1, kKpti})),
      pvm("fluidanimate: tables that stay", 0.99, kClose,
          gap({"database:bytes=64m,accesses=OPS000", 200, 800, 1, kKpti})),
  };
  rows.insert(rows.end(), all.begin(), all.end());
}

// --- others --------------------------------------------------------------------------------------

PublishedRow other(std::string_view source, std::string_view what, double low, double high,
                   double tolerance, std::vector<Figure> figures, std::string_view why = "") {
  return {Section::Others, source, what, std::move(figures), Judge::Near, low, high,
          tolerance,       false,  why};
}

constexpr std::string_view kForks = "micro:op=fork,operations=OPS",
                           kExecs = "micro:op=exec,operations=OPS",
                           kMmaps = "micro:op=mmap,operations=OPS",
                           kSwitches = "micro:op=context-switch,operations=OPS",
                           kBuild = "kernel-build:files=OPS", kWeb = "web:requests=OPS";

/// On CPUs of a time without KPTI.
Load micro_on(std::string_view cpu, std::string_view workload) {
  return {workload, 20, 120, 1, kNoKpti, cpu};
}
Load build_on(std::string_view cpu) { return {kBuild, 2, 4, 1, kNoKpti, cpu}; }
std::vector<Figure> micros_on(std::string_view cpu) {
  return {gap(micro_on(cpu, kForks), "fork"), gap(micro_on(cpu, kExecs), "exec"),
          gap(micro_on(cpu, kMmaps), "mmap"), gap(micro_on(cpu, kSwitches), "switch")};
}
std::vector<Figure> programs_on(std::string_view cpu) {
  return {gap(build_on(cpu), "build"), gap({kWeb, 20, 60, 1, kNoKpti, cpu}, "web")};
}

constexpr std::string_view kPteWrites = "ptemod:op=flag,operations=OPS";
Load pte_writes_on(std::string_view cpu) { return {kPteWrites, 200, 1200, 1, kNoKpti, cpu}; }

/// Cycles of an exit to the hypervisor and back, its work not included.
PublishedRow round_trip(std::string_view source, std::string_view what, double low, double high,
                        std::string_view cpu) {
  return calibration(other(source, what, low, high, 1.05,
                           {share(pte_writes_on(cpu), "shadow", "cycles_exit", "exits")}));
}

constexpr std::string_view kBarcelona = "barcelona";
Load walks_with(std::string_view settings) {
  return {"database:bytes=128m,accesses=OPS000", 500, 1500, 1, settings, kBarcelona};
}
/// What better caches or larger pages gain nested paging.
Figure gain(std::string_view before, std::string_view after) {
  return {"", {walks_with(before), kNested}, {walks_with(after), kNested}};
}

constexpr Load kLogged = {"migrate:bytes=16m,rounds=OPS", 2, 4};
constexpr Load kTpcC = {"database:bytes=128m,accesses=OPS000", 500,      1500, 1,
                        "table-lines=on,backing=2m",           "haswell"};
constexpr Load kPages = {kTouch1, 4, 20, 1, kNoKpti};
constexpr std::string_view kHypervisor = "cycles_exit+cycles_vmm";

/// A build with leaf tables out of sync, over one where every PTE write is emulated.
Figure out_of_sync(std::string_view label, std::string_view pager, std::string_view emulating) {
  const Load build = build_on("cascade-lake");
  return {label, {build, pager}, {build, emulating}};
}
void add_others(std::vector<PublishedRow>& rows) {
  const std::vector<PublishedRow> all = {
      round_trip("SplitX, WIOV 2011", "exit round trip, Nehalem, cycles", 2000, 2000, "nehalem"),
      round_trip(kPvm, "exit round trip, Cascade Lake, cycles", 1150, 1150, "cascade-lake"),
      round_trip("Linux KVM mailing list, 2020", "exit round trip, AMD of 2020, cycles", 1344, 1376,
                 "zen2"),
      other(kPvm, "exits for a fresh page, shadow: 2 and 1 to n table writes", 3, 6, 1,
            {share(kPages, "shadow", "exits", "guest_page_faults")}),
      other(kPvm, "exits for a fresh page, EPT", 0, 0, 1,
            {share(kPages, kNested, "exits", "guest_page_faults")}),
      other(kVmwareEpt, "MMU-intensive programs, up to +48 %", 0, 1.48, kClose,
            programs_on("nehalem"),
            "web maps, reads and unmaps a file for each request and computes nothing: it is nearer "
            "to a microbenchmark"),
      other(kVmwareEpt, "microbenchmarks, up to +600 %", 0, 7, kClose, micros_on("nehalem")),
      other(kVmwareRvi, "MMU-intensive programs, up to +42 %", 0, 1.42, kClose,
            programs_on(kBarcelona), "as on Nehalem"),
      other(kVmwareRvi, "microbenchmarks, up to +500 %", 0, 6, kClose, micros_on(kBarcelona)),
      other(kBhargava, "walk cache in two dimensions over one", 1.15, 1.38, 1.1,
            {gain("table-lines=on,walk-caches=1d", "table-lines=on,walk-caches=2d")}),
      other(kBhargava, "nested TLB more", 1.03, 1.07, 1.03,
            {gain("table-lines=on,walk-caches=2d", "table-lines=on,walk-caches=2d+ntlb")}),
      other(kBhargava, "host pages of 2M more", 1.03, 1.22, 1.05,
            {gain("table-lines=on,walk-caches=2d+ntlb",
                  "table-lines=on,walk-caches=2d+ntlb,backing=2m")}),
      other("Merrifield and Taheri, VEE 2016", "TPC-C, time in TLB misses, VM over bare metal",
            (0.20 / 0.80) / (0.158 / 0.842), (0.20 / 0.80) / (0.158 / 0.842), 1.1,
            {{"", {kTpcC, kNested, "cycles_walk"}, {kTpcC, "native", "cycles_walk"}}}),
      other(kXen, "build, over every PTE write emulated", 0.75, 0.93, 1.05,
            {out_of_sync("", "shadow-unsync:policy=xen", "shadow-unsync:policy=xen,unsync=off")},
            "an emulated write is an exit of its own here, and our build does little besides what "
            "changes tables: what is saved is a larger part of it than of a Windows build"),
      other("KVM kernbench, 2011", "kernel build", 2.2, 2.2, kClose, {gap(build_on("nehalem"))}),
      other("JANUS, OSDI 2026", "dirty page, write protection less PML, cycles", 4250, 4250, kClose,
            {share(kLogged, "nested:pml=off", kHypervisor, "dirty_pages")},
            "a violation has a shadow page fault's price here, which the fit to PVM's host lowered "
            "by a tenth; what JANUS's CPU makes of 1.7 us is taken to be that at 2.5 GHz, too"),
      other(kAdams, "emulated PTE write, in round trips of an exit", 12733.0 / 3963, 12733.0 / 3963,
            kClose, {share(pte_writes_on("cascade-lake"), "shadow", kHypervisor, "cycles_exit")}),
      other(kAdams, "true page fault, in round trips of an exit", (11242.0 - 1093) / 3963,
            (11242.0 - 1093) / 3963, kClose,
            {share({"micro:op=protection-fault,operations=OPS", 200, 1200, 1, kNoKpti}, "shadow",
                   kHypervisor, "cycles_exit")},
            "by PVM's figures KVM reflects a fault in 1,600 cycles, 450 of them its own work; "
            "VMware's hypervisor of 2006 spent 6,200 on the Pentium 4"),
  };
  rows.insert(rows.end(), all.begin(), all.end());
}

// --- conclusions ---------------------------------------------------------------------------------

PublishedRow conclusion(std::string_view what, Judge judge, double low, double high,
                        double tolerance, std::vector<Figure> figures, std::string_view why = "") {
  return {Section::Conclusions,
          "the papers above",
          what,
          std::move(figures),
          judge,
          low,
          high,
          tolerance,
          false,
          why};
}

std::vector<Figure> forks_at_once() {
  constexpr std::string_view kOneLock = "kpti=on,lock=coarse";
  return {gap({kForks, 5, 25, 1, kOneLock}, "1:"),
          gap({"micro:op=fork,processes=4,operations=OPS", 5, 25, 4, kOneLock}, "4:"),
          gap({"micro:op=fork,processes=8,operations=OPS", 5, 25, 8, kOneLock}, "8:"),
          gap({"micro:op=fork,processes=16,operations=OPS", 5, 25, 16, kOneLock}, "16:"),
          gap(kForkOneLock, "32:")};
}

std::vector<Figure> builds_at_once() {
  return {gap({"kernel-build:heap=1m,jobs=1,files=OPS", 1, 3, 1, kKpti}, "1:"),
          gap({"kernel-build:heap=1m,jobs=4,files=OPS", 1, 3, 4, kKpti}, "4:"),
          gap({"kernel-build:heap=1m,jobs=16,files=OPS", 1, 3, 16, kKpti}, "16:")};
}

constexpr Load kStatic = {"database:bytes=64m,accesses=OPS000", 200, 800, 1, kKpti};
constexpr Load kStaticLarge = {"database:bytes=64m,guest-page=2m,accesses=OPS000", 200, 800, 1,
                               "kpti=on,backing=2m"};

/// Programs that keep the memory they have and compute on it.
std::vector<Figure> computing() {
  return {
      gap(kStatic, "database"),
      gap(kStaticLarge, "with 2M pages"),
      gap({"database:bytes=2m,accesses=OPS000", 200, 800, 1, kKpti}, "small"),
      gap({"touch:bytes=8m,pattern=sequential,populate=on,accesses=OPS000", 500, 1500, 1, kKpti},
          "sequential"),
      gap({"java:heap=8m,return=off,collections=OPS", 24, 28, 1, kKpti}, "small java"),
  };
}

void add_conclusions(std::vector<PublishedRow>& rows) {
  const std::vector<PublishedRow> all = {
      conclusion(
          "1: nested wins where tables change", Judge::Near, 1.05, kAnyMore, 1,
          {gap({kForks, 20, 120, 1, kNoKpti}, "fork"), gap({kExecs, 20, 120, 1, kNoKpti}, "exec"),
           gap({"micro:op=page-fault,operations=OPS", 512, 5120, 1, kNoKpti}, "page fault"),
           gap({kMmaps, 20, 120, 1, kNoKpti}, "mmap"), gap(kPages, "touch")}),
      conclusion("2: the gap of fork grows with processes under one lock", Judge::Rising, 0, 0,
                 1.05, forks_at_once()),
      conclusion("2: the gap of a build grows with vCPUs", Judge::Rising, 0, 0, 1.05,
                 builds_at_once()),
      conclusion("2: finer locks shrink the gap of fork by 32", Judge::Falling, 0, 0, 1.05,
                 {gap(kForkOneLock, "coarse"), gap(kForkFineLocks, "fine")}),
      conclusion("3: shadow wins 5 to 10 % on static tables", Judge::Near, 0.90, 0.95, 1.02,
                 {gap(kStatic)}),
      conclusion("3: large pages at both levels remove most of it", Judge::Halving, 0, 0, 1,
                 {gap(kStatic, "4K"), gap(kStaticLarge, "2M")}),
      conclusion("4: most programs that compute tie", Judge::Most, 0.95, 1.05, 1, computing()),
      conclusion("5: a system call has no exit under shadow paging", Judge::Near, 0, 0.02, 1,
                 {per_operation(getpid(kNoKpti), kShadow, "exits")}),
      conclusion("5: with KPTI it has two", Judge::Near, 2, 2.02, 1,
                 {per_operation(getpid(kKpti), kShadow, "exits")}),
      conclusion("6: tables out of sync beat traps by 7 % or more on builds", Judge::Near, 0, 0.93,
                 1,
                 {out_of_sync("Xen's way", "shadow-unsync:policy=xen",
                              "shadow-unsync:policy=xen,unsync=off"),
                  out_of_sync("KVM's", "shadow-unsync", "shadow-unsync:unsync=off")}),
  };
  rows.insert(rows.end(), all.begin(), all.end());
}

std::vector<PublishedRow> all_rows() {
  std::vector<PublishedRow> rows;
  add_walks(rows);
  add_pvm(rows);
  add_others(rows);
  add_conclusions(rows);
  return rows;
}

}  // namespace

std::span<const PublishedRow> published_rows() {
  static const std::vector<PublishedRow> kRows = all_rows();
  return kRows;
}

}  // namespace mmuscope
