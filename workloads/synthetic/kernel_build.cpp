#include <array>

#include "workloads/synthetic/image.h"
#include "workloads/synthetic/programs.h"
#include "workloads/synthetic/synthetic.h"

namespace mmuscope {

namespace {

using Kind = ParamInfo::Kind;

constexpr std::array<ParamInfo, 6> kParams = {{
    {"files", Kind::Count, "20", "files", "sources that each make compiles, one after another", 1,
     1e9, ""},
    {"jobs", Kind::Count, "1", "processes", "makes side by side, as make -j has children", 1, 256,
     ""},
    {"heap", Kind::Bytes, "8m", "bytes", "memory that a compiler allocates and writes", kPageBytes,
     double(u64{1} << 36), ""},
    {"reads", Kind::Count, "20000", "accesses", "random accesses of a compiler to its memory", 0,
     1e12, ""},
    kProcessesParam,
    kMemoryParam,
}};

enum : u32 { kMakeFile = 2, kDriverFile, kCompilerFile, kAssemblerFile, kSourceFile = 100 };
constexpr u64 kSourcePages = 64;  // headers and all
constexpr u64 kHeaders = 8;       // files that all sources read
constexpr u64 kArenaPages = 256;  // the compiler's allocator asks for a MiB at a time

struct Costs {
  u64 heap_pages, reads;
};

/// cc1 or as: reads its source, fills its heap, looks things up in it.
class Tool final : public Program {
 public:
  Tool(u32 file, Costs costs, u64 seed) : file_(file), costs_(costs), random_(seed) {}

  bool step(Kernel& kernel, Vcpu& vcpu) override {
    Image image;
    image.file = file_;
    if (file_ == kCompilerFile) {
      // cc1 of gcc 12 has some 30 MB of text, of which a small source reaches a part.
      image.text = 7000, image.text_used = 900, image.data = 24;
    }
    exec_image(kernel, vcpu, file_ == kCompilerFile ? "cc1" : "as", image);
    for (u32 h = 0; h < kHeaders; ++h) read_file(kernel, vcpu, kSourceFile + h);
    std::vector<Gva> arenas;
    for (u64 left = costs_.heap_pages; left > 0; left -= std::min(left, kArenaPages)) {
      const u64 pages = std::min(left, kArenaPages);
      arenas.push_back(map_or_throw(kernel, vcpu, pages * kPageBytes));
      write_pages(vcpu, arenas.back(), pages);
    }
    for (u64 i = 0; i < costs_.reads; ++i) {
      const u64 page = random_.below(costs_.heap_pages);
      const Gva at = arenas[page / kArenaPages] + page % kArenaPages * kPageBytes;
      vcpu.load(at + random_.below(kPageBytes / 8) * 8);
    }
    return false;
  }

 private:
  static void read_file(Kernel& kernel, Vcpu& vcpu, u32 file) {
    const auto at = kernel.mmap(vcpu, std::nullopt, kSourcePages * kPageBytes, prot::kRead,
                                Source::of_file(file, 0));
    for (u64 i = 0; i < kSourcePages; ++i) vcpu.load(*at + i * kPageBytes);
    kernel.munmap(vcpu, *at, kSourcePages * kPageBytes);
  }

  u32 file_;
  Costs costs_;
  Random random_;
};

/// gcc: starts cc1, then as, by vfork, and waits for each.
class Driver final : public Program {
 public:
  Driver(Costs costs, u64 seed) : costs_(costs), seeds_(seed) {}

  bool step(Kernel& kernel, Vcpu& vcpu) override {
    switch (stage_++) {
      case 0: {
        Image image;
        image.file = kDriverFile;
        image.text = 240, image.text_used = 60;
        exec_image(kernel, vcpu, "gcc", image);
        kernel.vfork(vcpu, std::make_unique<Tool>(kCompilerFile, costs_, seeds_.next()));
        return true;
      }
      case 1:
      case 3:
        kernel.wait(vcpu);
        return true;
      case 2:
        kernel.vfork(vcpu, std::make_unique<Tool>(
                               kAssemblerFile, Costs{costs_.heap_pages / 8 + 1, costs_.reads / 8},
                               seeds_.next()));
        return true;
      default:
        return false;
    }
  }

 private:
  Costs costs_;
  Random seeds_;
  unsigned stage_ = 0;
};

/// make: forks a child for each file, which becomes the shell's command, and waits for it. With
/// several jobs it is the top make, which starts the others.
class Make final : public Program {
 public:
  Make(const Params& params, u64 seed, u64 more_jobs)
      : files_(params.count("files")),
        costs_{params.count("heap") / kPageBytes, params.count("reads")},
        params_(params),
        seeds_(seed),
        more_jobs_(more_jobs) {}

  bool step(Kernel& kernel, Vcpu& vcpu) override {
    if (!started_) {
      started_ = true;
      Image image;
      image.file = kMakeFile;
      image.heap = 512, image.heap_used = 400;  // what it knows of a large tree
      exec_image(kernel, vcpu, "make", image);
      for (; more_jobs_ > 0; --more_jobs_) {
        kernel.fork(vcpu, std::make_unique<Make>(params_, seeds_.next(), 0));
      }
    }
    if (files_ == 0) {
      kernel.wait(vcpu);
      return !std::exchange(done_, true);
    }
    --files_;
    kernel.fork(vcpu, std::make_unique<Driver>(costs_, seeds_.next()));
    kernel.wait(vcpu);
    return true;
  }

 private:
  u64 files_;
  Costs costs_;
  Params params_;
  Random seeds_;
  u64 more_jobs_;
  bool started_ = false, done_ = false;
};

}  // namespace

std::span<const ParamInfo> kernel_build_params() { return kParams; }

std::unique_ptr<Workload> make_kernel_build(const Params& params, u64 seed) {
  const u64 jobs = params.count("jobs");
  return std::make_unique<ProgramsWorkload>(
      "kernel-build", params, jobs * (2 * params.count("heap") + (u64{16} << 20)), seed,
      [params, jobs](u64 own_seed) -> std::unique_ptr<Program> {
        return std::make_unique<Make>(params, own_seed, jobs - 1);
      });
}

}  // namespace mmuscope
