#include <algorithm>
#include <array>
#include <variant>

#include "workloads/synthetic/programs.h"
#include "workloads/synthetic/synthetic.h"

namespace mmuscope {

namespace {

using Kind = ParamInfo::Kind;

constexpr std::array<ParamInfo, 12> kParams = {{
    {"pattern", Kind::Choice, "uniform", "", "order of the addresses", 0, 0,
     "sequential|strided|uniform|zipf"},
    {"bytes", Kind::Bytes, "64m", "bytes", "memory that each process maps", kPageBytes,
     double(u64{1} << 45), ""},
    {"accesses", Kind::Count, "1000000", "accesses", "8-byte accesses by each process", 1, 1e12,
     ""},
    {"stores", Kind::Real, "0.3", "", "share of the accesses that are stores", 0, 1, ""},
    {"stride", Kind::Bytes, "4k", "bytes", "distance in the strided pattern, a multiple of 8", 8,
     double(u64{1} << 40), ""},
    {"skew", Kind::Real, "0.99", "", "exponent of the zipf pattern, over pages", 0, 4, ""},
    {"work", Kind::Count, "0", "cycles", "of its own for each access", 0, 1e9, ""},
    {"populate", Kind::Switch, "off", "", "whether every page is written once before", 0, 0, ""},
    {"slice", Kind::Count, "50000", "accesses", "time slice of a process on a vCPU with several", 1,
     1e12, ""},
    kGuestPageParam,
    kProcessesParam,
    kMemoryParam,
}};

using AnyPattern = std::variant<StridePattern, UniformPattern, ZipfPattern>;

AnyPattern make_pattern(const Params& params, u64 bytes, u64 seed) {
  const std::string& name = params.text("pattern");
  if (name == "sequential") return StridePattern(bytes, 8);
  if (name == "strided") return StridePattern(bytes, params.count("stride") & ~u64{7});
  if (name == "uniform") return UniformPattern(bytes, seed);
  return ZipfPattern(bytes, params.real("skew"), seed);
}

/// Maps one block of memory and reads and writes words of it.
class Touch final : public Program {
 public:
  Touch(const Params& params, u64 bytes, u64 seed)
      : source_(source_of(params)),
        bytes_(bytes),
        left_(params.count("accesses")),
        slice_(params.count("slice")),
        work_(params.count("work")),
        populate_(params.on("populate")),
        stores_(params.real("stores")),
        pattern_(make_pattern(params, bytes, seed)) {}

  bool step(Kernel& kernel, Vcpu& vcpu) override {
    if (start_ == Gva(0)) {
      start_ = map_or_throw(kernel, vcpu, bytes_, source_);
      if (populate_) write_every_page(vcpu, start_, bytes_, page_of(source_));
    }
    const u64 now = std::min(left_, slice_);
    std::visit([&](auto& p) { access_words(vcpu, start_, now, p, stores_, work_); }, pattern_);
    left_ -= now;
    return left_ > 0;
  }

 private:
  Source source_;
  u64 bytes_, left_, slice_, work_;
  bool populate_;
  StoreShare stores_;
  AnyPattern pattern_;
  Gva start_{0};
};

}  // namespace

std::span<const ParamInfo> touch_params() { return kParams; }

std::unique_ptr<Workload> make_touch(const Params& params, u64 seed) {
  const u64 bytes = whole_pages(params.count("bytes"), page_of(source_of(params)));
  return std::make_unique<ProgramsWorkload>(
      "touch", params, bytes, seed, [params, bytes](u64 own_seed) -> std::unique_ptr<Program> {
        return std::make_unique<Touch>(params, bytes, own_seed);
      });
}

}  // namespace mmuscope
