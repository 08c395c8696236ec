#include <algorithm>
#include <array>

#include "workloads/synthetic/programs.h"
#include "workloads/synthetic/synthetic.h"

namespace mmuscope {

namespace {

using Kind = ParamInfo::Kind;

constexpr std::array<ParamInfo, 7> kParams = {{
    {"bytes", Kind::Bytes, "64m", "bytes", "of data, all written before", kPageBytes,
     double(u64{1} << 40), ""},
    {"snapshots", Kind::Count, "2", "snapshots", "each by a forked child that reads all data", 1,
     1e6, ""},
    {"requests", Kind::Count, "50000", "requests", "that the server answers during each snapshot",
     1, 1e12, ""},
    {"writes", Kind::Real, "0.5", "", "share of the requests that write", 0, 1, ""},
    {"skew", Kind::Real, "0.8", "", "exponent of the popularity of pages (Zipf)", 0, 4, ""},
    kProcessesParam,
    kMemoryParam,
}};

constexpr u64 kSlices = 50;  // of the child's reading and of the server's answering

/// Reads the data as it was at the fork, page by page, and writes it to a file.
class Saver final : public Program {
 public:
  Saver(Gva start, u64 bytes) : at_(start), end_(start + bytes), slice_(bytes / kSlices + 1) {}
  bool step(Kernel& kernel, Vcpu& vcpu) override {
    const Gva until = end_ - at_ > slice_ ? at_ + whole_pages(slice_, PageSize::k4K) : end_;
    for (; at_ < until && at_ < end_; at_ = at_ + kPageBytes) {
      vcpu.load(at_);
      kernel.write_null(vcpu, at_, kPageBytes);
    }
    return at_ < end_;
  }

 private:
  Gva at_, end_;
  u64 slice_;
};

/// Answers requests while a child saves: what it writes has to be copied first.
class Redis final : public Program {
 public:
  Redis(const Params& params, u64 bytes, u64 seed)
      : bytes_(bytes),
        requests_(params.count("requests")),
        snapshots_(params.count("snapshots")),
        writes_(params.real("writes")),
        pattern_(bytes, params.real("skew"), seed) {}

  bool step(Kernel& kernel, Vcpu& vcpu) override {
    if (start_ == Gva(0)) {
      start_ = map_or_throw(kernel, vcpu, bytes_);
      write_every_page(vcpu, start_, bytes_, PageSize::k4K);
    }
    if (left_ == 0) {
      if (snapshots_ == 0) return false;
      --snapshots_;
      left_ = requests_;
      kernel.fork(vcpu, std::make_unique<Saver>(start_, bytes_));
    }
    const u64 now = std::min(left_, requests_ / kSlices + 1);
    access_words(vcpu, start_, now, pattern_, writes_);
    left_ -= now;
    if (left_ == 0) kernel.wait(vcpu);
    return true;
  }

 private:
  u64 bytes_, requests_, snapshots_;
  StoreShare writes_;
  ZipfPattern pattern_;
  u64 left_ = 0;
  Gva start_{0};
};

}  // namespace

std::span<const ParamInfo> redis_snapshot_params() { return kParams; }

std::unique_ptr<Workload> make_redis_snapshot(const Params& params, u64 seed) {
  const u64 bytes = whole_pages(params.count("bytes"), PageSize::k4K);
  return std::make_unique<ProgramsWorkload>(
      "redis-snapshot", params, 2 * bytes, seed,
      [params, bytes](u64 own_seed) -> std::unique_ptr<Program> {
        return std::make_unique<Redis>(params, bytes, own_seed);
      });
}

}  // namespace mmuscope
