#include <array>
#include <optional>

#include "core/random.h"
#include "core/same_page_merger.h"
#include "workloads/synthetic/programs.h"
#include "workloads/synthetic/synthetic.h"

namespace mmuscope {

namespace {

using Kind = ParamInfo::Kind;

constexpr std::array<ParamInfo, 8> kParams = {{
    {"bytes", Kind::Bytes, "16m", "bytes", "memory of each process, all written before", kPageBytes,
     double(u64{1} << 40), ""},
    {"equal", Kind::Real, "0.5", "", "share of its pages that every other process has, too", 0, 1,
     ""},
    {"rounds", Kind::Count, "10", "rounds", "of accesses of each process", 1, 1e9, ""},
    {"reads", Kind::Count, "2000", "accesses", "random reads of a process in a round", 0, 1e12, ""},
    {"writes", Kind::Count, "20", "accesses",
     "random writes of a process in a round, to pages that were equal", 0, 1e12, ""},
    {"scan", Kind::Count, "5000", "frames",
     "that the host looks at after each round of a process; 5000 is what ksmd looks at in a second "
     "(100 every 20 ms); 0: it does not merge",
     0, 1e12, ""},
    {"processes", Kind::Count, "4", "processes", "independent copies of the program", 1, 4096, ""},
    kMemoryParam,
}};

/// The host's ksmd, which runs between the guest's time slices.
class HostScan {
 public:
  explicit HostScan(u64 frames) : frames_(frames) {}
  void take_turn(Vcpu& vcpu) {
    if (frames_ == 0) return;
    if (!merger_) merger_.emplace(vcpu.machine());
    merger_->scan(vcpu, frames_);
  }

 private:
  u64 frames_;
  std::optional<SamePageMerger> merger_;
};

class Merged final : public Program {
 public:
  Merged(const Params& params, u64 bytes, u64 seed, std::shared_ptr<HostScan> host)
      : pages_(bytes / kPageBytes),
        equal_(static_cast<u64>(params.real("equal") * static_cast<double>(pages_))),
        left_(params.count("rounds")),
        reads_(params.count("reads")),
        writes_(params.count("writes")),
        random_(seed),
        host_(std::move(host)) {}

  bool step(Kernel& kernel, Vcpu& vcpu) override {
    if (start_ == Gva(0)) {
      start_ = map_or_throw(kernel, vcpu, pages_ * kPageBytes);
      for (u64 i = 0; i < pages_; ++i) {
        vcpu.store<u64>(start_ + i * kPageBytes, i < equal_ ? i + 1 : random_.next());
      }
    }
    for (u64 i = 0; i < reads_; ++i) vcpu.load(start_ + random_.below(pages_) * kPageBytes);
    for (u64 i = 0; i < writes_ && equal_ > 0; ++i) {
      vcpu.store<u64>(start_ + random_.below(equal_) * kPageBytes, random_.next());
    }
    host_->take_turn(vcpu);
    return --left_ > 0;
  }

 private:
  u64 pages_, equal_, left_, reads_, writes_;
  Random random_;
  std::shared_ptr<HostScan> host_;
  Gva start_{0};
};

}  // namespace

std::span<const ParamInfo> ksm_params() { return kParams; }

std::unique_ptr<Workload> make_ksm(const Params& params, u64 seed) {
  const u64 bytes = whole_pages(params.count("bytes"), PageSize::k4K);
  const auto host = std::make_shared<HostScan>(params.count("scan"));
  return std::make_unique<ProgramsWorkload>(
      "ksm", params, bytes, seed, [params, bytes, host](u64 own) -> std::unique_ptr<Program> {
        return std::make_unique<Merged>(params, bytes, own, host);
      });
}

}  // namespace mmuscope
