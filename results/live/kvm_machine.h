#pragma once

#include <linux/kvm.h>
#include <sched.h>
#include <sys/time.h>

#include <csignal>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/types.h"
#include "core/vcpu.h"

namespace mmuscope {

/// A file descriptor that is closed with its owner.
class Descriptor {
 public:
  explicit Descriptor(int fd = -1) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor();
  int get() const { return fd_; }

 private:
  int fd_;
};

/// Memory shared with the kernel, zero at first and unmapped with its owner.
class Mapping {
 public:
  /// Anonymous memory, every page of it present and small, so that KVM finds what it looks for and
  /// never a huge page.
  explicit Mapping(std::size_t bytes);
  /// Of a file, shared.
  Mapping(int fd, std::size_t bytes);
  Mapping(Mapping&& other) noexcept;
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping();
  std::byte* data() const { return data_; }
  std::size_t size() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

/// The statistics of a VM or a vCPU, as the descriptors of their own file name them.
class KvmStats {
 public:
  explicit KvmStats(Descriptor file);
  struct Figure {
    u64 value = 0;
    bool gauge = false;  ///< a value at an instant, not a count that only grows
  };
  void read();
  /// What the last read() saw; nothing if this kernel has no such plain number.
  std::optional<Figure> find(std::string_view name) const;

 private:
  struct Entry {
    std::string name;
    bool gauge;
    std::size_t at;  // in data_, in words
  };
  Descriptor file_;
  std::size_t data_offset_ = 0;
  std::vector<Entry> entries_;
  std::vector<u64> data_;
};

/// A stub of guest code that a vCPU is to run.
enum class Stub : u8 { Fetch, Read, Write, Cr3, Invlpg, Cr0, Cr4 };
bool runs_as_supervisor(Stub stub);

/// Where the stubs lie, guest-virtual and guest-physical, in one page; and behind them what the
/// delivery of #PF and #GP needs: descriptor tables, a task state with the stack, handlers that
/// only give control back.
inline constexpr u64 kStubPage = 0x10000;
/// The stack of the handlers ends here, in the same page.
inline constexpr u64 kHandlerStack = kStubPage + 0x400;

/// A virtual machine of the host's KVM, in 64-bit mode: one slot of memory from address 0, vCPUs
/// that run one stub at a time, all in this thread. Throws InputError when the host cannot give it
/// one, RunError when a vCPU does something else than its stub.
class KvmMachine {
 public:
  struct Config {
    unsigned vcpus = 1;
    u64 cr0 = 0, cr3 = 0, cr4 = 0, efer = 0;
    bool alignment_check = false;  ///< EFLAGS.AC
  };
  /// `memory` outlives the machine; the stubs are written into it.
  KvmMachine(const Config& config, Mapping& memory);

  /// Runs the stub to its end, or to the #PF or #GP that ends it, which is delivered; `address` and
  /// `value` are its operands. A Fetch from elsewhere than kStubPage must fault: there is no stub.
  AccessResult run(unsigned vcpu, Stub stub, u64 address, u64 value);
  void log_dirty(bool on);
  /// Pages written since the log was started or last harvested; 0 without a log.
  u64 harvest_dirty();
  void limit_shadow_pages(u64 pages);

  void read_stats();
  /// The sum over the vCPUs, or the VM's own.
  std::optional<KvmStats::Figure> stat(std::string_view name) const;

 private:
  struct Cpu {
    Descriptor fd;
    Mapping run;
    KvmStats stats;
    kvm_sregs state{};
    bool supervisor = false;
  };
  void add_vcpu(const Config& config, unsigned index);
  void set_slot(u32 flags);
  void enter(Cpu& cpu, unsigned index);
  AccessResult ending(Cpu& cpu, unsigned index, Stub stub);
  GuestFault delivered(Cpu& cpu, u8 vector);
  void set_privilege(Cpu& cpu, bool supervisor);

  Descriptor kvm_, vm_;
  Mapping& memory_;
  bool alignment_check_;
  bool logging_dirty_ = false;
  std::vector<Cpu> cpus_;
  std::vector<KvmStats> vm_stats_;  // one
};

/// While one lives, this thread stays on one CPU and is woken now and then, so that a vCPU that
/// does not come back can be given up. Both are undone at its end.
class LiveThread {
 public:
  LiveThread();
  LiveThread(const LiveThread&) = delete;
  LiveThread& operator=(const LiveThread&) = delete;
  ~LiveThread();

 private:
  cpu_set_t affinity_{};
  struct sigaction action_ {};
  itimerval timer_{};
};

}  // namespace mmuscope
