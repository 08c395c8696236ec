#include <algorithm>
#include <array>

#include "workloads/synthetic/programs.h"
#include "workloads/synthetic/synthetic.h"

namespace mmuscope {

namespace {

using Kind = ParamInfo::Kind;

constexpr std::array<ParamInfo, 5> kParams = {{
    {"bytes", Kind::Bytes, "64m", "bytes",
     "memory that each thread of each process allocates in all; 4g is the published size",
     kPageBytes, double(u64{1} << 45), ""},
    {"block", Kind::Bytes, "1m", "bytes", "size of one allocation", kPageBytes,
     double(u64{1} << 40), ""},
    {"threads", Kind::Count, "1", "threads", "threads of a process, in one address space", 1, 256,
     ""},
    kProcessesParam,
    kMemoryParam,
}};

/// Allocates a block, writes a word to each of its pages, releases it, until it has allocated so
/// many bytes: "touch 4 GB" of the SOSP 2023 paper on PVM.
class Churn final : public Program {
 public:
  Churn(u64 bytes, u64 block, u64 more_threads)
      : bytes_(bytes), left_(bytes), block_(block), more_threads_(more_threads) {}

  bool step(Kernel& kernel, Vcpu& vcpu) override {
    for (; more_threads_ > 0; --more_threads_) {
      kernel.clone_thread(vcpu, std::make_unique<Churn>(bytes_, block_, 0));
    }
    const u64 now = std::min(left_, block_);
    const Gva at = map_or_throw(kernel, vcpu, now);
    write_every_page(vcpu, at, now, PageSize::k4K);
    kernel.munmap(vcpu, at, now);
    left_ -= now;
    return left_ > 0;
  }

 private:
  u64 bytes_, left_, block_, more_threads_;
};

}  // namespace

std::span<const ParamInfo> churn_params() { return kParams; }

std::unique_ptr<Workload> make_churn(const Params& params, u64 seed) {
  const u64 bytes = params.count("bytes"), threads = params.count("threads");
  const u64 block = std::min(params.count("block"), bytes);
  return std::make_unique<ProgramsWorkload>(
      "churn", params, threads * block, seed, [=](u64) -> std::unique_ptr<Program> {
        return std::make_unique<Churn>(bytes, block, threads - 1);
      });
}

}  // namespace mmuscope
