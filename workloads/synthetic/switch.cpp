#include <array>

#include "workloads/synthetic/programs.h"
#include "workloads/synthetic/synthetic.h"

namespace mmuscope {

namespace {

using Kind = ParamInfo::Kind;

constexpr std::array<ParamInfo, 4> kParams = {{
    {"slices", Kind::Count, "5000", "slices", "time slices that each process gets", 1, 1e12, ""},
    {"pages", Kind::Count, "16", "pages", "working set: pages written once in a slice", 0, 1e9, ""},
    {"processes", Kind::Count, "4", "processes", "processes that take turns on their vCPU", 1, 4096,
     ""},
    kMemoryParam,
}};

/// Touches its working set and gives the vCPU to the next process: LMbench's lat_ctx, without the
/// pipe.
class Switch final : public Program {
 public:
  Switch(u64 slices, u64 pages) : left_(slices), bytes_(pages * kPageBytes) {}

  bool step(Kernel& kernel, Vcpu& vcpu) override {
    if (start_ == Gva(0)) start_ = map_or_throw(kernel, vcpu, bytes_ + kPageBytes);
    write_every_page(vcpu, start_, bytes_, PageSize::k4K);
    return --left_ > 0;
  }

 private:
  u64 left_, bytes_;
  Gva start_{0};
};

}  // namespace

std::span<const ParamInfo> switch_params() { return kParams; }

std::unique_ptr<Workload> make_switch(const Params& params, u64 seed) {
  const u64 slices = params.count("slices"), pages = params.count("pages");
  return std::make_unique<ProgramsWorkload>(
      "switch", params, pages * kPageBytes, seed,
      [=](u64) -> std::unique_ptr<Program> { return std::make_unique<Switch>(slices, pages); });
}

}  // namespace mmuscope
