#include <algorithm>
#include <array>

#include "core/error.h"
#include "workloads/synthetic/image.h"
#include "workloads/synthetic/programs.h"
#include "workloads/synthetic/synthetic.h"

namespace mmuscope {

namespace {

using Kind = ParamInfo::Kind;

constexpr std::array<ParamInfo, 4> kParams = {{
    {"op", Kind::Choice, "getpid", "",
     "getpid; null-io: read of a byte from /dev/zero and write of one to /dev/null in turn; "
     "page-fault: read of a page of a mapped file that is in the page cache; protection-fault: "
     "write to a read-only page, caught by a signal handler; mmap: 512 KiB of a file mapped, read "
     "every 16 KiB, unmapped; context-switch: to a partner and so on; fork, exec, sh: fork + exit "
     "+ wait, with an execve between, and through a shell",
     0, 0, "getpid|null-io|page-fault|protection-fault|mmap|context-switch|fork|exec|sh"},
    {"operations", Kind::Count, "1000", "operations", "by each process", 1, 1e12, ""},
    kProcessesParam,
    kMemoryParam,
}};

constexpr u32 kProgramFile = 2, kShellFile = 3, kDataFile = 4;
constexpr u64 kCachedPages = 256;  // of the file that page-fault and mmap map
constexpr u64 kSlice = 256;  // operations a step that ends without a process switch of its own

Image image_of(u32 file) {
  Image image;
  image.file = file;
  return image;
}

/// Executes a program, which exits; a shell first runs one more and waits for it.
class Executed final : public Program {
 public:
  explicit Executed(bool through_shell) : through_shell_(through_shell) {}
  bool step(Kernel& kernel, Vcpu& vcpu) override {
    if (!started_) {
      started_ = true;
      exec_image(kernel, vcpu, through_shell_ ? "sh" : "program",
                 image_of(through_shell_ ? kShellFile : kProgramFile));
      if (!through_shell_) return false;
      kernel.fork(vcpu, std::make_unique<Executed>(false));
      kernel.wait(vcpu);
      return true;
    }
    return false;
  }

 private:
  bool through_shell_, started_ = false;
};

class Exits final : public Program {
 public:
  bool step(Kernel&, Vcpu& vcpu) override {
    run_after_fork(vcpu, image_of(kProgramFile));
    return false;
  }
};

/// Passes a token: what it does in a slice is a system call on either side of a switch.
class Partner final : public Program {
 public:
  Partner(Gva buffer, u64 operations) : buffer_(buffer), left_(operations) {}
  bool step(Kernel& kernel, Vcpu& vcpu) override {
    kernel.read_zeros(vcpu, buffer_, 1);
    kernel.write_null(vcpu, buffer_, 1);
    return --left_ > 0;
  }

 private:
  Gva buffer_;
  u64 left_;
};

/// One microbenchmark: the operations of LMbench (McVoy and Staelin, USENIX 1996), as the SOSP 2023
/// paper on PVM names them.
class Micro final : public Program {
 public:
  explicit Micro(const Params& params)
      : op_(params.text("op")), left_(params.count("operations")) {}

  bool step(Kernel& kernel, Vcpu& vcpu) override {
    if (!started_) start(kernel, vcpu);
    if (op_ == "fork") return fork(kernel, vcpu, std::make_unique<Exits>());
    if (op_ == "exec") return fork(kernel, vcpu, std::make_unique<Executed>(false));
    if (op_ == "sh") return fork(kernel, vcpu, std::make_unique<Executed>(true));
    if (op_ == "context-switch") {
      partner_->step(kernel, vcpu);
      return --left_ > 0;
    }
    const u64 now = std::min(left_, kSlice);
    for (u64 i = 0; i < now; ++i) operate(kernel, vcpu, i);
    left_ -= now;
    return left_ > 0;
  }

 private:
  void start(Kernel& kernel, Vcpu& vcpu) {
    started_ = true;
    exec_image(kernel, vcpu, "micro", image_of(kProgramFile));
    buffer_ = map_or_throw(kernel, vcpu, kPageBytes);
    vcpu.store<u64>(buffer_, 0);
    if (op_ == "page-fault" || op_ == "mmap") {
      map_file(kernel, vcpu);  // the page cache is full from here on
      for (u64 i = 0; i < kCachedPages; ++i) vcpu.load(file_ + i * kPageBytes);
      unmap_file(kernel, vcpu);
    }
    if (op_ == "protection-fault") {
      kernel.handle_segv(vcpu, buffer_ + kPageBytes);
      readonly_ = map_or_throw(kernel, vcpu, kPageBytes);
      vcpu.store<u64>(readonly_, 0);
      kernel.mprotect(vcpu, readonly_, kPageBytes, prot::kRead);
    }
    if (op_ == "context-switch") {
      partner_ = std::make_unique<Partner>(buffer_, left_);
      kernel.fork(vcpu, std::make_unique<Partner>(buffer_, left_));
    }
  }

  bool fork(Kernel& kernel, Vcpu& vcpu, std::unique_ptr<Program> child) {
    run_after_fork(vcpu, image_of(kProgramFile));
    if (left_ == 0) return false;
    --left_;
    kernel.fork(vcpu, std::move(child));
    kernel.wait(vcpu);
    return true;
  }

  void operate(Kernel& kernel, Vcpu& vcpu, u64 i) {
    if (op_ == "getpid") {
      kernel.getpid(vcpu);
    } else if (op_ == "null-io") {
      if (i % 2 == 0) {
        kernel.read_zeros(vcpu, buffer_, 1);
      } else {
        kernel.write_null(vcpu, buffer_, 1);
      }
    } else if (op_ == "page-fault") {
      if (next_page_ == 0) map_file(kernel, vcpu);
      vcpu.load(file_ + next_page_ * kPageBytes);
      next_page_ = (next_page_ + 1) % kCachedPages;
      if (next_page_ == 0) unmap_file(kernel, vcpu);
    } else if (op_ == "protection-fault") {
      vcpu.store<u64>(readonly_, 1);  // given up; the handler runs
      vcpu.fetch(kHandler);
      vcpu.store<u64>(buffer_, i);
      kernel.sigreturn(vcpu);
    } else {  // mmap
      constexpr u64 kMapped = kCachedPages / 2, kStride = 4;
      map_file(kernel, vcpu, kMapped);
      for (u64 p = 0; p < kMapped; p += kStride) vcpu.load(file_ + p * kPageBytes);
      kernel.munmap(vcpu, file_, kMapped * kPageBytes);
    }
  }

  void map_file(Kernel& kernel, Vcpu& vcpu, u64 pages = kCachedPages) {
    const auto at = kernel.mmap(vcpu, std::nullopt, pages * kPageBytes, prot::kRead,
                                Source::of_file(kDataFile, 0));
    if (!at) throw RunError("no room for a file's mapping");
    file_ = *at;
  }
  void unmap_file(Kernel& kernel, Vcpu& vcpu) {
    kernel.munmap(vcpu, file_, kCachedPages * kPageBytes);
  }

  static constexpr Gva kHandler{0x5555'5555'4000};  // in the program's text

  std::string op_;
  u64 left_;
  bool started_ = false;
  Gva buffer_{0}, file_{0}, readonly_{0};
  u64 next_page_ = 0;
  std::unique_ptr<Partner> partner_;
};

}  // namespace

std::span<const ParamInfo> micro_params() { return kParams; }

std::unique_ptr<Workload> make_micro(const Params& params, u64 seed) {
  return std::make_unique<ProgramsWorkload>(
      "micro", params, u64{8} << 20, seed,
      [params](u64) -> std::unique_ptr<Program> { return std::make_unique<Micro>(params); });
}

}  // namespace mmuscope
