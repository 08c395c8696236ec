#include <algorithm>
#include <array>

#include "workloads/synthetic/programs.h"
#include "workloads/synthetic/synthetic.h"

namespace mmuscope {

namespace {

using Kind = ParamInfo::Kind;

constexpr std::array<ParamInfo, 5> kParams = {{
    {"operations", Kind::Count, "200", "operations", "fork + exit + wait, by each process", 1, 1e9,
     ""},
    {"resident", Kind::Bytes, "1m", "bytes", "memory that the process has written before", 0,
     double(u64{1} << 40), ""},
    {"writes", Kind::Count, "4", "pages",
     "pages that child and parent write after the fork, at most all", 0, 1e9, ""},
    kProcessesParam,
    kMemoryParam,
}};

struct Shape {
  u64 bytes, written_bytes;
};

/// Writes some pages, which are shared with the parent until then, and exits.
class Child final : public Program {
 public:
  Child(Gva start, Shape shape) : start_(start), shape_(shape) {}
  bool step(Kernel&, Vcpu& vcpu) override {
    write_every_page(vcpu, start_, shape_.written_bytes, PageSize::k4K);
    return false;
  }

 private:
  Gva start_;
  Shape shape_;
};

/// Forks a child, waits for its exit and writes the same pages, again and again: LMbench's lat_proc
/// fork, with a process of a size to choose.
class Fork final : public Program {
 public:
  Fork(u64 operations, Shape shape) : left_(operations), shape_(shape) {}

  bool step(Kernel& kernel, Vcpu& vcpu) override {
    if (start_ == Gva(0)) {
      start_ = map_or_throw(kernel, vcpu, std::max(shape_.bytes, kPageBytes));
      write_every_page(vcpu, start_, shape_.bytes, PageSize::k4K);
    } else {
      write_every_page(vcpu, start_, shape_.written_bytes, PageSize::k4K);
    }
    if (left_ == 0) return false;
    --left_;
    kernel.fork(vcpu, std::make_unique<Child>(start_, shape_));
    kernel.wait(vcpu);
    return true;
  }

 private:
  u64 left_;
  Shape shape_;
  Gva start_{0};
};

}  // namespace

std::span<const ParamInfo> fork_params() { return kParams; }

std::unique_ptr<Workload> make_fork(const Params& params, u64 seed) {
  Shape shape;
  shape.bytes = whole_pages(params.count("resident"), PageSize::k4K);
  shape.written_bytes = std::min(params.count("writes") * kPageBytes, shape.bytes);
  const u64 operations = params.count("operations");
  return std::make_unique<ProgramsWorkload>(
      "fork", params, shape.bytes + shape.written_bytes, seed,
      [=](u64) -> std::unique_ptr<Program> { return std::make_unique<Fork>(operations, shape); });
}

}  // namespace mmuscope
