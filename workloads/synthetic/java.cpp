#include <algorithm>
#include <array>

#include "workloads/synthetic/programs.h"
#include "workloads/synthetic/synthetic.h"

namespace mmuscope {

namespace {

using Kind = ParamInfo::Kind;

constexpr std::array<ParamInfo, 8> kParams = {{
    {"heap", Kind::Bytes, "64m", "bytes", "that objects are allocated in; half of it is young",
     u64{1} << 20, double(u64{1} << 40), ""},
    {"collections", Kind::Count, "8", "collections", "of the young half, each when it is full", 1,
     1e9, ""},
    {"survivors", Kind::Real, "0.05", "", "share of the young pages that a collection copies", 0,
     0.5, ""},
    {"reads", Kind::Count, "200000", "accesses", "to old objects between two collections", 0, 1e12,
     ""},
    {"work", Kind::Count, "100", "cycles",
     "of its own for each of them: an object from the last-level cache, about 70, and 30 "
     "instructions",
     0, 1e9, ""},
    {"return", Kind::Switch, "on", "",
     "whether a collection gives the young pages back (MADV_DONTNEED)", 0, 0, ""},
    kProcessesParam,
    kMemoryParam,
}};

/// A generational collector: objects are allocated in order through the young half; when that is
/// full every thread is stopped by making the safepoint page unreadable (HotSpot's polling page),
/// what survives is copied to the old half, and the young half is given back.
class Java final : public Program {
 public:
  Java(const Params& params, u64 seed)
      : half_(whole_pages(params.count("heap") / 2, PageSize::k4K)),
        left_(params.count("collections")),
        survivors_(
            static_cast<u64>(params.real("survivors") * static_cast<double>(half_ / kPageBytes))),
        reads_(params.count("reads")),
        work_(params.count("work")),
        gives_back_(params.on("return")),
        random_(seed) {}

  bool step(Kernel& kernel, Vcpu& vcpu) override {
    if (young_ == Gva(0)) {
      young_ = map_or_throw(kernel, vcpu, half_);
      old_ = map_or_throw(kernel, vcpu, half_);
      safepoint_ = map_or_throw(kernel, vcpu, kPageBytes);
      vcpu.store<u64>(safepoint_, 0);
    }
    for (u64 at = 0; at < half_; at += kPageBytes) {
      vcpu.store<u64>(young_ + at, at);
      vcpu.load(safepoint_);
    }
    for (u64 i = 0; i < reads_ && used_ > 0; ++i) {
      vcpu.counters[Event::GuestWork] += work_;
      vcpu.load(old_ + random_.below(used_) * kPageBytes + random_.below(kPageBytes / 8) * 8);
    }
    collect(kernel, vcpu);
    return --left_ > 0;
  }

 private:
  void collect(Kernel& kernel, Vcpu& vcpu) {
    kernel.mprotect(vcpu, safepoint_, kPageBytes, prot::kNone);
    const u64 old_pages = half_ / kPageBytes;
    for (u64 i = 0; i < survivors_; ++i) {
      const Gva from = young_ + random_.below(old_pages) * kPageBytes;
      vcpu.store<u64>(old_ + next_old_ * kPageBytes, vcpu.load(from));
      next_old_ = (next_old_ + 1) % old_pages;
      used_ = std::max(used_, next_old_ == 0 ? old_pages : next_old_);
    }
    if (gives_back_) kernel.discard(vcpu, young_, half_);
    kernel.mprotect(vcpu, safepoint_, kPageBytes, prot::kRead);
  }

  u64 half_, left_, survivors_, reads_, work_;
  bool gives_back_;
  Random random_;
  Gva young_{0}, old_{0}, safepoint_{0};
  u64 next_old_ = 0, used_ = 0;  // pages of the old half
};

}  // namespace

std::span<const ParamInfo> java_params() { return kParams; }

std::unique_ptr<Workload> make_java(const Params& params, u64 seed) {
  return std::make_unique<ProgramsWorkload>("java", params, params.count("heap"), seed,
                                            [params](u64 own) -> std::unique_ptr<Program> {
                                              return std::make_unique<Java>(params, own);
                                            });
}

}  // namespace mmuscope
