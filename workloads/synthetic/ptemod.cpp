#include <algorithm>
#include <array>

#include "core/random.h"
#include "workloads/synthetic/programs.h"
#include "workloads/synthetic/synthetic.h"

namespace mmuscope {

namespace {

using Kind = ParamInfo::Kind;

constexpr std::array<ParamInfo, 7> kParams = {{
    {"operations", Kind::Count, "100000", "operations", "entries changed, by each process", 1, 1e12,
     ""},
    {"op", Kind::Choice, "flag", "",
     "flag: one store to the entry, a software bit; protect: mprotect of the page, off and on in "
     "turn (an exchange, a store, and INVLPG for each off)",
     0, 0, "flag|protect"},
    {"pages", Kind::Count, "512", "pages", "pages among which the one to change is chosen", 1, 1e9,
     ""},
    {"read", Kind::Switch, "off", "", "whether the page is read after the change", 0, 0, ""},
    {"slice", Kind::Count, "1000", "operations", "time slice of a process on a vCPU with several",
     1, 1e12, ""},
    kProcessesParam,
    kMemoryParam,
}};

/// Changes one page-table entry per operation.
class PteMod final : public Program {
 public:
  PteMod(const Params& params, u64 seed)
      : left_(params.count("operations")),
        slice_(params.count("slice")),
        protect_(params.text("op") == "protect"),
        read_(params.on("read")),
        writable_(params.count("pages"), true),
        random_(seed) {}

  bool step(Kernel& kernel, Vcpu& vcpu) override {
    const u64 pages = writable_.size();
    if (start_ == Gva(0)) {
      start_ = map_or_throw(kernel, vcpu, pages * kPageBytes);
      write_every_page(vcpu, start_, pages * kPageBytes, PageSize::k4K);
    }
    const u64 now = std::min(left_, slice_);
    for (u64 i = 0; i < now; ++i) change(kernel, vcpu, random_.below(pages));
    left_ -= now;
    return left_ > 0;
  }

 private:
  void change(Kernel& kernel, Vcpu& vcpu, u64 page) {
    const Gva at = start_ + page * kPageBytes;
    if (protect_) {
      writable_[page] = !writable_[page];
      kernel.mprotect(vcpu, at, kPageBytes,
                      writable_[page] ? prot::kRead | prot::kWrite : prot::kRead);
    } else {
      kernel.toggle_software_bit(vcpu, at);
    }
    if (read_) vcpu.load<u64>(at);
  }

  u64 left_, slice_;
  bool protect_, read_;
  std::vector<bool> writable_;
  Random random_;
  Gva start_{0};
};

}  // namespace

std::span<const ParamInfo> ptemod_params() { return kParams; }

std::unique_ptr<Workload> make_ptemod(const Params& params, u64 seed) {
  return std::make_unique<ProgramsWorkload>("ptemod", params, params.count("pages") * kPageBytes,
                                            seed,
                                            [params](u64 own_seed) -> std::unique_ptr<Program> {
                                              return std::make_unique<PteMod>(params, own_seed);
                                            });
}

}  // namespace mmuscope
