#include <array>
#include <utility>

#include "workloads/synthetic/image.h"
#include "workloads/synthetic/programs.h"
#include "workloads/synthetic/synthetic.h"

namespace mmuscope {

namespace {

using Kind = ParamInfo::Kind;

constexpr std::array<ParamInfo, 7> kParams = {{
    {"containers", Kind::Count, "8", "containers", "started one after another", 1, 1e9, ""},
    {"images", Kind::Count, "2", "images", "that they are made of: those of one share its files", 1,
     1e6, ""},
    {"layer-files", Kind::Count, "40", "files",
     "of 64k that a container's program maps, reads and unmaps as it starts", 0, 1e6, ""},
    {"heap", Kind::Bytes, "4m", "bytes", "that a container's program allocates and writes",
     kPageBytes, double(u64{1} << 36), ""},
    {"workers", Kind::Count, "2", "processes", "that it forks", 0, 1024, ""},
    kProcessesParam,
    kMemoryParam,
}};

enum : u32 { kRuntimeFile = 2, kShimFile, kRuncFile, kImageFile = 100 };
constexpr u32 kFilesOfImage = 1 << 20;
constexpr u64 kLayerPages = 16;

struct Container {
  u32 image;
  u64 layer_files, heap_pages, workers;
};

/// A Go program of the container runtime: large, linked statically, of which a start touches
/// little.
Image go_program(u32 file) {
  Image image;
  image.file = file;
  image.text = 2400, image.text_used = 350;  // some 10 MB, as Debian 12's runc has
  image.data = 120;
  image.library_text = image.library_used = image.library_data = 0;
  image.heap = 1024, image.heap_used = 300;
  return image;
}

class Worker final : public Program {
 public:
  explicit Worker(const Image& image) : image_(image) {}
  bool step(Kernel&, Vcpu& vcpu) override {
    run_after_fork(vcpu, image_);
    return false;
  }

 private:
  Image image_;
};

/// The container's own program: begins as a copy of runc, as its init does, and executes it.
class App final : public Program {
 public:
  explicit App(const Container& container) : container_(container) {}

  bool step(Kernel& kernel, Vcpu& vcpu) override {
    if (started_) return false;
    started_ = true;
    Image image;
    image.file = kImageFile + container_.image * kFilesOfImage;
    image.text = 500, image.text_used = 200, image.data = 20;
    exec_image(kernel, vcpu, "app", image);
    for (u32 f = 1; f <= container_.layer_files; ++f) {
      const auto at = kernel.mmap(vcpu, std::nullopt, kLayerPages * kPageBytes, prot::kRead,
                                  Source::of_file(image.file + f, 0));
      for (u64 i = 0; i < kLayerPages; ++i) vcpu.load(*at + i * kPageBytes);
      kernel.munmap(vcpu, *at, kLayerPages * kPageBytes);
    }
    write_pages(vcpu, map_or_throw(kernel, vcpu, container_.heap_pages * kPageBytes),
                container_.heap_pages);
    for (u64 i = 0; i < container_.workers; ++i) kernel.fork(vcpu, std::make_unique<Worker>(image));
    kernel.wait(vcpu);
    return true;
  }

 private:
  Container container_;
  bool started_ = false;
};

/// The programs that lead to it, each of which starts the next and waits for it: Go starts programs
/// by vfork (os/exec, CLONE_VFORK | CLONE_VM), and runc's init forks itself in C (nsexec).
class Starter final : public Program {
 public:
  enum class Stage : u8 { Shim, Create, Init };
  Starter(Stage stage, const Container& container) : stage_(stage), container_(container) {}

  bool step(Kernel& kernel, Vcpu& vcpu) override {
    if (started_) {
      // Back from vfork, whose child has executed: only now it is waited for.
      if (waits_) kernel.wait(vcpu);
      return std::exchange(waits_, false);
    }
    started_ = true;
    const bool shim = stage_ == Stage::Shim;
    exec_image(kernel, vcpu, shim ? "containerd-shim" : "runc",
               go_program(shim ? kShimFile : kRuncFile));
    if (stage_ == Stage::Init) {
      kernel.fork(vcpu, std::make_unique<App>(container_));
      kernel.wait(vcpu);
    } else {
      waits_ = true;
      kernel.vfork(vcpu, std::make_unique<Starter>(shim ? Stage::Create : Stage::Init, container_));
    }
    return true;
  }

 private:
  Stage stage_;
  Container container_;
  bool started_ = false, waits_ = false;
};

/// containerd: starts one container after another.
class Runtime final : public Program {
 public:
  explicit Runtime(const Params& params)
      : containers_(params.count("containers")),
        images_(params.count("images")),
        container_{0, params.count("layer-files"),
                   whole_pages(params.count("heap"), PageSize::k4K) / kPageBytes,
                   params.count("workers")} {}

  bool step(Kernel& kernel, Vcpu& vcpu) override {
    if (started_ == 0) exec_image(kernel, vcpu, "containerd", go_program(kRuntimeFile));
    if (waiting_) {
      waiting_ = false;
      kernel.wait(vcpu);
      return true;
    }
    if (started_ == containers_) return false;
    container_.image = static_cast<u32>(started_++ % images_);
    kernel.vfork(vcpu, std::make_unique<Starter>(Starter::Stage::Shim, container_));
    waiting_ = true;
    return true;
  }

 private:
  u64 containers_, images_;
  Container container_;
  u64 started_ = 0;
  bool waiting_ = false;
};

}  // namespace

std::span<const ParamInfo> container_start_params() { return kParams; }

std::unique_ptr<Workload> make_container_start(const Params& params, u64 seed) {
  const u64 files = params.count("images") * (params.count("layer-files") * kLayerPages + 1000);
  const u64 each =
      (u64{64} << 20) + (params.count("workers") + 1) * params.count("heap") + files * kPageBytes;
  return std::make_unique<ProgramsWorkload>(
      "container-start", params, each, seed,
      [params](u64) -> std::unique_ptr<Program> { return std::make_unique<Runtime>(params); });
}

}  // namespace mmuscope
