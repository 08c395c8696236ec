#include <array>

#include "workloads/synthetic/programs.h"
#include "workloads/synthetic/synthetic.h"

namespace mmuscope {

namespace {

using Kind = ParamInfo::Kind;

constexpr std::array<ParamInfo, 5> kParams = {{
    {"bytes", Kind::Bytes, "64m", "bytes", "that are written, freed and given back to the host",
     kPageBytes, double(u64{1} << 40), ""},
    {"rounds", Kind::Count, "4", "rounds", "of that", 1, 1e9, ""},
    {"method", Kind::Choice, "inflate", "",
     "how the host gets them: a balloon that is inflated and deflated, free page reporting, or not",
     0, 0, "inflate|report|none"},
    kProcessesParam,
    kMemoryParam,
}};

/// Uses memory and frees it; the kernel gives the host what is free, and wants it back.
class Ballooned final : public Program {
 public:
  explicit Ballooned(const Params& params)
      : bytes_(whole_pages(params.count("bytes"), PageSize::k4K)),
        left_(params.count("rounds")),
        method_(params.text("method")) {}

  bool step(Kernel& kernel, Vcpu& vcpu) override {
    const Gva start = map_or_throw(kernel, vcpu, bytes_);
    write_every_page(vcpu, start, bytes_, PageSize::k4K);
    kernel.munmap(vcpu, start, bytes_);
    if (method_ == "inflate") {
      kernel.deflate_balloon(vcpu, kernel.inflate_balloon(vcpu, bytes_ / kPageBytes));
    } else if (method_ == "report") {
      kernel.report_free_pages(vcpu);
    }
    return --left_ > 0;
  }

 private:
  u64 bytes_, left_;
  std::string method_;
};

}  // namespace

std::span<const ParamInfo> balloon_params() { return kParams; }

std::unique_ptr<Workload> make_balloon(const Params& params, u64 seed) {
  const u64 bytes = whole_pages(params.count("bytes"), PageSize::k4K);
  return std::make_unique<ProgramsWorkload>(
      "balloon", params, bytes, seed,
      [params](u64) -> std::unique_ptr<Program> { return std::make_unique<Ballooned>(params); });
}

}  // namespace mmuscope
