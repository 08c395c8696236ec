#include <algorithm>
#include <array>

#include "workloads/synthetic/image.h"
#include "workloads/synthetic/programs.h"
#include "workloads/synthetic/synthetic.h"

namespace mmuscope {

namespace {

using Kind = ParamInfo::Kind;

constexpr std::array<ParamInfo, 6> kParams = {{
    {"requests", Kind::Count, "500", "requests", "that each worker serves", 1, 1e12, ""},
    {"files", Kind::Count, "200", "files", "that are served, Zipf-distributed", 1, 1e6, ""},
    {"file-size", Kind::Bytes, "64k", "bytes", "of each file, mapped, read and unmapped",
     kPageBytes, double(u64{1} << 30), ""},
    {"workers", Kind::Count, "8", "processes", "forked by each server", 1, 1024, ""},
    kProcessesParam,
    kMemoryParam,
}};

constexpr u32 kServerFile = 2, kFirstFile = 100;
constexpr u64 kCode = 80, kArena = 16;  // pages of code that a request runs, of memory it writes

/// Serves requests: reads one from the network, maps its file, reads every page of it, unmaps it.
/// Apache's prefork with mmap (EnableMMAP), its default.
class Worker final : public Program {
 public:
  Worker(const Params& params, u64 seed)
      : left_(params.count("requests")),
        pages_(whole_pages(params.count("file-size"), PageSize::k4K) / kPageBytes),
        popular_(params.count("files") * kPageBytes, 0.8, seed) {}

  bool step(Kernel& kernel, Vcpu& vcpu) override {
    if (arena_ == Gva(0)) {
      arena_ = map_or_throw(kernel, vcpu, kArena * kPageBytes);
      write_pages(vcpu, arena_, kArena);
    }
    kernel.read_zeros(vcpu, arena_, 512);
    fetch_pages(vcpu, kProgramText, kCode);
    write_pages(vcpu, arena_, kArena);
    const auto file = kFirstFile + static_cast<u32>(popular_.next() / kPageBytes);
    const auto at =
        kernel.mmap(vcpu, std::nullopt, pages_ * kPageBytes, prot::kRead, Source::of_file(file, 0));
    for (u64 i = 0; i < pages_; ++i) vcpu.load(*at + i * kPageBytes);
    kernel.write_null(vcpu, arena_, 512);
    kernel.munmap(vcpu, *at, pages_ * kPageBytes);
    return --left_ > 0;
  }

 private:
  static constexpr Gva kProgramText{0x5555'5555'4000};
  u64 left_, pages_;
  ZipfPattern popular_;
  Gva arena_{0};
};

class WebServer final : public Program {
 public:
  WebServer(const Params& params, u64 seed) : params_(params), seeds_(seed) {}

  bool step(Kernel& kernel, Vcpu& vcpu) override {
    if (std::exchange(started_, true)) return false;
    Image image;
    image.file = kServerFile;
    image.text = 160, image.text_used = kCode, image.heap = 200, image.heap_used = 150;
    exec_image(kernel, vcpu, "web", image);
    for (u64 i = 0; i < params_.count("workers"); ++i) {
      kernel.fork(vcpu, std::make_unique<Worker>(params_, seeds_.next()));
    }
    kernel.wait(vcpu);
    return true;
  }

 private:
  Params params_;
  Random seeds_;
  bool started_ = false;
};

}  // namespace

std::span<const ParamInfo> web_params() { return kParams; }

std::unique_ptr<Workload> make_web(const Params& params, u64 seed) {
  const u64 cached = params.count("files") * whole_pages(params.count("file-size"), PageSize::k4K);
  const u64 workers = params.count("workers") * (u64{4} << 20);
  return std::make_unique<ProgramsWorkload>("web", params, cached + workers, seed,
                                            [params](u64 own_seed) -> std::unique_ptr<Program> {
                                              return std::make_unique<WebServer>(params, own_seed);
                                            });
}

}  // namespace mmuscope
