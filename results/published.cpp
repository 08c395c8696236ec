#include "results/published.h"

#include <algorithm>
#include <array>
#include <vector>

#include "results/experiment.h"

namespace mmuscope {
namespace {

constexpr std::string_view kPvm = "PVM, SOSP 2023";
constexpr std::string_view kKpti = "kpti=on", kNoKpti = "kpti=off";
constexpr double kClose = 1.3, kFactorTwo = 2;

// On Cascade Lake. How many vCPUs the VM had is not published: as many as processes here.
constexpr std::array kRows = {
    PublishedRow{kPvm, "getpid, no KPTI", "micro:op=getpid,operations=OPS", 200, 2200, 1, kNoKpti,
                 1.0, kClose, true},
    PublishedRow{kPvm, "getpid, KPTI", "micro:op=getpid,operations=OPS", 200, 2200, 1, kKpti, 9.5,
                 kClose, true},
    PublishedRow{kPvm, "page fault, mapped file", "micro:op=page-fault,operations=OPS", 512, 5120,
                 1, kKpti, 6.2, kClose, false},
    PublishedRow{kPvm, "protection fault", "micro:op=protection-fault,operations=OPS", 200, 2200, 1,
                 kKpti, 4.8, kClose, false},
    PublishedRow{kPvm, "fork + exit + wait", "micro:op=fork,operations=OPS", 20, 120, 1, kKpti, 6.1,
                 kClose, false},
    PublishedRow{kPvm, "fork, 32 at once, one lock", "micro:op=fork,processes=32,operations=OPS", 5,
                 25, 32, "kpti=on,lock=coarse", 62, kFactorTwo, false},
    PublishedRow{kPvm, "fork, 32 at once, fine locks", "micro:op=fork,processes=32,operations=OPS",
                 5, 25, 32, "kpti=on,lock=fine", 10.5, kFactorTwo, false},
    PublishedRow{kPvm, "touch 4 GB, a page", "churn:block=1m,bytes=OPSm", 4, 20, 1, kKpti, 2.1,
                 kClose, true},
    PublishedRow{kPvm, "touch 4 GB, 4 at once", "churn:block=1m,processes=4,bytes=OPSm", 4, 12, 4,
                 kKpti, 1.75, kClose, false},
    PublishedRow{kPvm, "touch 4 GB, 16 at once", "churn:block=1m,processes=16,bytes=OPSm", 4, 12,
                 16, kKpti, 1.87, kClose, false},
    PublishedRow{kPvm, "kernel build", "kernel-build:files=OPS", 2, 6, 1, kKpti, 1.71, kClose,
                 false},
    PublishedRow{kPvm, "SPECjbb2005, time of a unit: java", "java:collections=OPS", 4, 8, 1, kKpti,
                 50.0 / 53, kClose, false},
    PublishedRow{kPvm, "fluidanimate: tables that stay", "database:bytes=64m,accesses=OPS000", 200,
                 800, 1, kKpti, 0.99, kClose, false},
};

/// Modelled time from the beginning to the end of the run.
std::optional<u64> elapsed(const PublishedRow& row, std::string_view pager, u64 operations) {
  ExperimentText text;
  text.workload = row.workload;
  text.workload.replace(text.workload.find("OPS"), 3, std::to_string(operations));
  text.pager = pager;
  text.vcpus = row.vcpus;
  text.set = {"schedule=time", "prebacked=on"};
  for (std::string_view left = row.settings; !left.empty();) {
    const auto comma = left.find(',');
    text.set.emplace_back(left.substr(0, comma));
    left = comma == left.npos ? "" : left.substr(comma + 1);
  }
  const Result result = run_experiment(parse_experiment(text));
  if (!result.ok()) return std::nullopt;
  u64 longest = 0;
  for (const Result::OfVcpu& v : result.vcpus) longest = std::max(longest, v.clock);
  return longest;
}

/// Cycles of the operations between the two numbers of them.
std::optional<double> cost(const PublishedRow& row, std::string_view pager) {
  const auto few = elapsed(row, pager, row.few), many = elapsed(row, pager, row.many);
  if (!few || !many || *many <= *few) return std::nullopt;
  return static_cast<double>(*many - *few);
}

}  // namespace

std::span<const PublishedRow> published_rows() { return kRows; }

std::optional<double> measure(const PublishedRow& row) {
  const auto shadow = cost(row, "shadow-unsync"), nested = cost(row, "nested");
  if (!shadow || !nested) return std::nullopt;
  return *shadow / *nested;
}

bool agrees(double published, double ours, double tolerance) {
  return std::max(published / ours, ours / published) <= tolerance;
}

}  // namespace mmuscope
