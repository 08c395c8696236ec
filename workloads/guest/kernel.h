#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "workloads/guest/memory_manager.h"
#include "workloads/workload.h"

namespace mmuscope {

class Kernel;

/// What a process does, cut into time slices.
class Program {
 public:
  virtual ~Program() = default;
  /// Runs one slice as the vCPU's current process, in user mode: accesses through the vCPU, system
  /// calls through the kernel (not exit). False: the process is done and exits.
  virtual bool step(Kernel& kernel, Vcpu& vcpu) = 0;
};

/// A process, or a thread of one.
struct Process {
  enum class State : u8 { New, Runnable, Waiting };

  u32 pid = 0;
  std::string name;
  State state = State::New;
  Gfn stack;                             ///< the top page of its kernel stack; given with memory
  std::shared_ptr<AddressSpace> memory;  ///< made when the process first runs
  std::unique_ptr<Program> program;      ///< null if someone else drives the process
  Process* parent = nullptr;             ///< of a thread its leader
  Process* leader = nullptr;             ///< the process that a thread belongs to; itself otherwise
  Process* vfork_parent = nullptr;       ///< who waits for its memory
  unsigned children = 0;                 ///< live ones, threads included
  unsigned threads = 0;                  ///< live ones besides the leader
  unsigned vcpu = 0;                     ///< whose run queue it is in
  bool done = false;                     ///< its program has ended or was killed
  bool killed = false;                   ///< by a segmentation fault
  Gva signal_stack = Gva(0);             ///< where its handler of SIGSEGV has its frame; 0: none
  Counters counters;                     ///< what happened while it or a thread of it ran
};

/// A small kernel for x86-64 with 4- or 5-level tables, which does to page tables what Linux does.
/// All it does to guest memory during a run goes through a Vcpu. What it knows besides (mappings,
/// run queues) lives outside guest memory. Of its instructions it fetches one in each part of its
/// text that it enters; of its data it touches stacks and page structs.
///
/// System calls act for the process that is current on the vCPU. Lengths are rounded up to pages.
class Kernel final : public GuestHandler {
 public:
  /// Boots: writes the boot image into guest memory (uncounted), loads its tables on every vCPU and
  /// becomes the handler of their faults and interrupts. The listener may be null.
  Kernel(Machine& machine, ProcessListener* listener);
  ~Kernel() override;
  Kernel(const Kernel&) = delete;
  Kernel& operator=(const Kernel&) = delete;

  /// A new process with an empty address space. Processes go to the vCPUs in turn.
  Process& spawn(std::string name, std::unique_ptr<Program> program = nullptr);
  /// Runs all processes on all vCPUs until every one has exited, then samples for the last time.
  /// Throws RunError when the guest is out of memory.
  void run();

  // --- for whoever schedules by hand, instead of run() -----------------------------------------
  /// Makes the process current on this vCPU, in user mode.
  void switch_to(Vcpu& vcpu, Process& process);
  /// The vCPU, one of several, has nothing to run for a turn: it halts until its next one.
  void idle(Vcpu& vcpu);
  /// Tells the listener how things are now.
  void sample() { sample(nullptr); }
  /// The same if it has not been told for a while. run() does so after each slice.
  void sample_if_due();

  // --- system calls of the current process -----------------------------------------------------
  Process& current(const Vcpu& vcpu);
  /// Maps at an address, replacing what is there (MAP_FIXED), or without one where the kernel
  /// chooses. nullopt: no user range, misaligned, or no room.
  std::optional<Gva> mmap(Vcpu& vcpu, std::optional<Gva> where, u64 bytes, u8 rights,
                          Source source = {});
  // These return false, having done nothing, where Linux returns an error: a range that is not
  // page-aligned, no user range, not wholly mapped (mprotect), or cuts a 2-MByte page.
  bool munmap(Vcpu& vcpu, Gva start, u64 bytes);
  bool mprotect(Vcpu& vcpu, Gva start, u64 bytes, u8 rights);
  /// madvise(MADV_DONTNEED): drops the pages of a range that is wholly mapped; what is private and
  /// anonymous reads as zeros afterwards.
  bool discard(Vcpu& vcpu, Gva start, u64 bytes);
  /// madvise(MADV_HUGEPAGE) and its opposite; MADV_COLLAPSE, false if it found nothing to collapse
  /// in some 2 MBytes of the range.
  bool advise_huge(Vcpu& vcpu, Gva start, u64 bytes, HugeAdvice advice);
  bool collapse(Vcpu& vcpu, Gva start, u64 bytes);
  /// Moves the end of the heap. The first call of an address space without a heap only says where
  /// its heap begins.
  bool brk(Vcpu& vcpu, Gva end);
  /// Resizes a mapping or a part of it: at `to` (MREMAP_FIXED), else in place if there is room,
  /// else elsewhere. nullopt as mmap, or if the old range is not within one mapping.
  std::optional<Gva> mremap(Vcpu& vcpu, Gva start, u64 old_bytes, u64 new_bytes,
                            std::optional<Gva> to = std::nullopt);
  /// A copy of the current process, with this program; the vCPU with the fewest processes runs it.
  Process& fork(Vcpu& vcpu, std::unique_ptr<Program> program = nullptr);
  /// A child that runs in the current process's memory until it executes a program or exits; the
  /// current process does not run before. Takes effect, as wait(), when its step returns.
  Process& vfork(Vcpu& vcpu, std::unique_ptr<Program> program = nullptr);
  /// A thread of the current process: another one that runs in the same address space.
  Process& clone_thread(Vcpu& vcpu, std::unique_ptr<Program> program = nullptr);
  /// The current process does not run again before all its children and threads have exited. Takes
  /// effect when its step returns.
  void wait(Vcpu& vcpu);
  /// Gives the current process a new, empty address space, and a new name.
  void execve(Vcpu& vcpu, std::string name);
  /// Ends the current process, which must not have threads left; the vCPU has none then. Programs
  /// end by their step's result instead.
  void exit(Vcpu& vcpu);
  /// The system call that does least: into the kernel and back.
  void getpid(Vcpu& vcpu);
  /// read(2) from /dev/zero into user memory, or write(2) from there to /dev/null: at most to the
  /// end of the page. The kernel's own fault on user memory is served like the user's.
  void read_zeros(Vcpu& vcpu, Gva to, u64 bytes);
  void write_null(Vcpu& vcpu, Gva from, u64 bytes);
  /// Installs a handler for SIGSEGV at this address, with its stack: an access that no mapping
  /// permits is then given up, the kernel writes a frame below `stack`, and what the handler does
  /// is the caller's: it ends with sigreturn.
  void handle_segv(Vcpu& vcpu, Gva stack);
  void sigreturn(Vcpu& vcpu);
  /// No system call of Linux: flips a bit that only software uses in the entry that maps the
  /// address. One store to a table, no flush. False if nothing is mapped there.
  bool toggle_software_bit(Vcpu& vcpu, Gva va);

  // --- what the kernel does for its host
  // ----------------------------------------------------------
  /// See Balloon. `pages` of 4 KBytes; how many there were.
  u64 inflate_balloon(Vcpu& vcpu, u64 pages);
  u64 deflate_balloon(Vcpu& vcpu, u64 pages);
  u64 report_free_pages(Vcpu& vcpu);

  // --- what tests and drivers look at ----------------------------------------------------------
  const std::vector<std::unique_ptr<Process>>& processes() const { return processes_; }
  MemoryManager& memory() { return *memory_; }
  const KernelStatistics& statistics() const { return statistics_; }
  Machine& machine() { return machine_; }
  const BootImage& boot_image() const { return image_; }

  // --- GuestHandler ----------------------------------------------------------------------------
  bool on_fault(Vcpu& vcpu, const GuestFault& fault) override;
  void on_ipi(Vcpu& vcpu) override;

 private:
  /// What the kernel keeps for each vCPU.
  struct Cpu {
    Process* current = nullptr;
    std::vector<Process*> queue;
    std::size_t turn = 0;  ///< index in queue of what ran last
    bool idle = false;
    bool booted = false;
    Counters mark;  ///< the vCPU's counters when they were last given to a process
  };
  Cpu& cpu(const Vcpu& vcpu) { return cpus_[vcpu.index()]; }

  class Mode;
  bool fault_in_kernel(Vcpu& vcpu, const GuestFault& fault);
  /// What the vCPU does once, before its first process: PCIDs are switched on.
  void boot(Vcpu& vcpu);
  void enter_from_user(Vcpu& vcpu);
  void return_to_user(Vcpu& vcpu);
  static Gva stack_top(const Process& p);
  void run_vcpu(Vcpu& vcpu);
  void run_slice(Vcpu& vcpu, Process& process);
  Process* next_runnable(Cpu& cpu);
  void account(const Vcpu& vcpu);
  void wake(Vcpu& vcpu, Process& process);
  void wake_vfork_parent(Vcpu& vcpu, Process& child);
  void change_task_list(Vcpu& vcpu);
  Process& add_process(std::string name, std::unique_ptr<Program> program, unsigned vcpu);
  void remove_process(Vcpu& vcpu, Process& process);
  unsigned least_loaded(unsigned preferred) const;
  void sample(const Process* leaving);
  void khugepaged_if_due(Vcpu& vcpu);
  /// The first address space at or after that number, kept alive by a user more.
  std::shared_ptr<AddressSpace> hold_space(u64 from);
  void put_space(Vcpu& vcpu, const std::shared_ptr<AddressSpace>& space);

  Machine& machine_;
  ProcessListener* listener_;
  KernelStatistics statistics_;
  BootImage image_;
  std::unique_ptr<MemoryManager> memory_;
  std::vector<Cpu> cpus_;
  std::vector<std::unique_ptr<Process>> processes_;
  GuestLock task_list_lock_;
  u32 next_pid_ = 1;
  unsigned next_vcpu_ = 0;
  u64 next_sample_;
  unsigned held_spaces_ = 0;
  u64 next_collapse_;
  std::pair<u64, Gva> collapse_at_{0, Gva(0)};  // address space and address
};

}  // namespace mmuscope
