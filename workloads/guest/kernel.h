#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "workloads/guest/address_space.h"
#include "workloads/guest/frame_allocator.h"
#include "workloads/workload.h"

namespace mmuscope {

class Kernel;
class TlbGather;

/// What a process does, cut into time slices.
class Program {
 public:
  virtual ~Program() = default;
  /// Runs one slice as the vCPU's current process, in user mode: accesses through the vCPU, system
  /// calls through the kernel. False: the process is done and exits.
  virtual bool step(Kernel& kernel, Vcpu& vcpu) = 0;
};

/// A process, or a thread of one (then `leader` is the process).
struct Process {
  enum class State : u8 { New, Runnable, Waiting };

  u32 pid = 0;
  std::string name;
  std::shared_ptr<AddressSpace> memory;  ///< made when the process first runs
  std::unique_ptr<Program> program;      ///< may be null if someone else drives the process
  State state = State::New;
  Process* parent = nullptr;
  Process* leader = nullptr;
  unsigned live_children = 0;  ///< children and threads
  unsigned vcpu = 0;           ///< whose run queue it is in
  bool killed = false;         ///< by a segmentation fault; it will not run again
  Counters counters;           ///< what happened while it or a thread of it ran
};

/// What the guest kernel did. For tests and for people; not part of any result.
struct KernelStatistics {
  u64 demand_faults = 0;     ///< pages given on first touch, the zero page included
  u64 copies = 0;            ///< pages copied on write
  u64 reuses = 0;            ///< write faults on a page that had no other user left
  u64 spurious_faults = 0;   ///< the tables permitted the access by the time they were looked at
  u64 segfaults = 0;         ///< processes killed
  u64 flushed_pages = 0;     ///< INVLPG, on any vCPU
  u64 full_flushes = 0;      ///< CR3 reloads in order to flush
  u64 shootdowns = 0;        ///< flushes that had to interrupt other vCPUs
  u64 context_switches = 0;  ///< CR3 writes in order to run another address space
};

/// A small kernel for x86-64 with 4-level tables, which does to page tables what Linux does. All it
/// does to guest memory during a run goes through a Vcpu: tables through the direct map. What it
/// knows besides (mappings, reference counts, run queues) lives outside guest memory.
///
/// System calls act for the process that is current on the vCPU. Lengths are rounded up to pages.
/// Any access may give way to another vCPU, so tables and mappings of an address space change only
/// under its lock.
class Kernel final : public GuestHandler {
 public:
  /// Boots: writes the kernel's tables into guest memory (uncounted), loads them on every vCPU and
  /// becomes the handler of its faults and interrupts. The listener may be null.
  Kernel(Machine& machine, ProcessListener* listener);
  ~Kernel() override;

  /// A new process with an empty address space. Processes go to the vCPUs in turn.
  Process& spawn(std::string name, std::unique_ptr<Program> program = nullptr);
  /// Runs all processes on all vCPUs until every one has exited, then samples for the last time.
  /// Throws RunError when the guest is out of memory.
  void run();

  // --- for whoever schedules by hand, instead of run() -----------------------------------------
  /// Makes the process current on this vCPU, in user mode: loads its tables unless they are loaded.
  void switch_to(Vcpu& vcpu, Process& process);
  /// Tells the listener how things are now.
  void sample() { sample(nullptr); }

  // --- system calls of the current process -----------------------------------------------------
  Process& current(Vcpu& vcpu);
  /// Maps at a multiple of the page size, replacing what is there (MAP_FIXED), or, without an
  /// address, at one that the kernel chooses. nullopt: not a user range, misaligned, or no room.
  std::optional<Gva> mmap(Vcpu& vcpu, std::optional<Gva> where, u64 bytes, u8 rights,
                          Source source = {});
  /// All of these return false, having done nothing, where Linux returns an error: a range that is
  /// not page-aligned, not a user range, partly unmapped (mprotect), or cuts a 2-MByte page.
  bool munmap(Vcpu& vcpu, Gva start, u64 bytes);
  bool mprotect(Vcpu& vcpu, Gva start, u64 bytes, u8 rights);
  /// Moves the end of the heap. The first call of an address space without a heap only says where
  /// its heap begins.
  bool brk(Vcpu& vcpu, Gva end);
  /// Resizes a mapping: at `to` (MREMAP_FIXED), else in place if there is room, else elsewhere.
  std::optional<Gva> mremap(Vcpu& vcpu, Gva start, u64 old_bytes, u64 new_bytes,
                            std::optional<Gva> to = std::nullopt);
  /// A copy of the current process, with this program; the vCPU with the fewest processes runs it.
  Process& fork(Vcpu& vcpu, std::unique_ptr<Program> program = nullptr);
  /// A thread of the current process: another process in the same address space.
  Process& clone_thread(Vcpu& vcpu, std::unique_ptr<Program> program = nullptr);
  /// The current process does not run again before all its children and threads have exited. Takes
  /// effect when its step returns.
  void wait(Vcpu& vcpu);
  /// Gives the current process a new, empty address space.
  void execve(Vcpu& vcpu, std::string name);
  /// Ends the current process; the vCPU has none then. A program ends by its step's result.
  void exit(Vcpu& vcpu);
  /// Not a system call of Linux: changes a bit that only software uses in the entry that maps the
  /// address. One store to a table, no flush. False if nothing is mapped there.
  bool toggle_software_bit(Vcpu& vcpu, Gva va);

  // --- what tests and drivers look at ----------------------------------------------------------
  const std::vector<std::unique_ptr<Process>>& processes() const { return processes_; }
  const FrameAllocator& frames() const { return *frames_; }
  const KernelStatistics& statistics() const { return statistics_; }
  u64 kernel_table_pages() const { return kernel_table_pages_; }
  u64 cached_file_pages() const { return page_cache_.size(); }
  bool is_zero_page(Gfn frame) const { return frame == zero_page_; }
  Gpa kernel_root() const { return kernel_root_; }
  Machine& machine() { return machine_; }

  // --- GuestHandler ----------------------------------------------------------------------------
  bool on_fault(Vcpu& vcpu, const GuestFault& fault) override;
  void on_ipi(Vcpu& vcpu) override;

 private:
  friend class TlbGather;
  /// A request to other vCPUs to flush; it lives on its sender's stack until all have answered.
  struct FlushRequest {
    AddressSpace* space;
    Gva start, end;
    PageSize stride;
    bool full;
    u64 generation;
    unsigned unanswered;
  };
  /// What the kernel keeps for each vCPU.
  struct Cpu {
    Process* current = nullptr;
    std::vector<Process*> queue;
    std::size_t turn = 0;  // the index in queue that was run last
    AddressSpace* loaded = nullptr;
    bool lazy = false;   // idle, with the tables of `loaded` still in CR3
    u64 generation = 0;  // of `loaded`, up to which the TLB is flushed
    bool idle = false;
    Counters mark;  // the vCPU's counters when they were last given to a process
    std::vector<FlushRequest*> requests;
  };
  class Entry;   // in the kernel, for a scope
  class Locked;  // an address space's lock, for a scope

  // boot.cpp
  void boot();
  u64 map_direct(Gpa table, unsigned level, Gpa from, Gfn& next_table);
  // kernel.cpp
  void run_vcpu(Vcpu& vcpu);
  Process* next_runnable(Cpu& cpu);
  void idle(Vcpu& vcpu);
  void account(Vcpu& vcpu);
  void wake(Vcpu& vcpu, Process& process);
  Process& add_process(std::string name, std::unique_ptr<Program> program, unsigned vcpu);
  void remove_process(Vcpu& vcpu, Process& process);
  unsigned least_loaded(unsigned preferred) const;
  void sample(const Process* leaving);
  void sample_now_and_then();
  void leave_address_space(Vcpu& vcpu, std::shared_ptr<AddressSpace> space);
  // tables.cpp
  std::shared_ptr<AddressSpace> make_address_space(Vcpu& vcpu);
  Gpa allocate_table(Vcpu& vcpu);
  std::optional<Gpa> find_entry(Vcpu& vcpu, const AddressSpace& space, Gva va, unsigned level);
  Gpa make_entry(Vcpu& vcpu, AddressSpace& space, Gva va, unsigned level);
  template <class Visit>
  void for_each_entry(Vcpu& vcpu, Gpa table, unsigned level, Gva start, Gva end, unsigned leaf,
                      Visit&& visit);
  void clear_range(Vcpu& vcpu, TlbGather& gather, const Vma& vma, bool whole_space);
  void free_tables(Vcpu& vcpu, TlbGather& gather, Gpa table, unsigned level, Gva start, Gva end,
                   Gva floor, Gva ceiling);
  void protect_range(Vcpu& vcpu, TlbGather& gather, const Vma& vma);
  void copy_range(Vcpu& vcpu, AddressSpace& from, AddressSpace& to, const Vma& vma);
  void move_range(Vcpu& vcpu, TlbGather& gather, const Vma& from, Gva to);
  void destroy(Vcpu& vcpu, AddressSpace& space);
  // mappings.cpp
  void unmap(Vcpu& vcpu, AddressSpace& space, Gva start, Gva end);
  std::optional<Gva> move_mapping(Vcpu& vcpu, AddressSpace& space, const Vma& vma, u64 bytes,
                                  std::optional<Gva> to);
  // faults.cpp
  bool handle_page_fault(Vcpu& vcpu, AddressSpace& space, const GuestFault& fault);
  void map_first(Vcpu& vcpu, AddressSpace& space, Vma& vma, Gva va, Gpa entry, bool write);
  void map_file(Vcpu& vcpu, AddressSpace& space, Vma& vma, Gva va, Gpa entry, bool write);
  void write_shared(Vcpu& vcpu, AddressSpace& space, Vma& vma, Gva va, Gpa where, u64 entry);
  Gfn file_page(Vcpu& vcpu, u32 file, u64 page);
  Gfn zeroed_page(Vcpu& vcpu, PageSize size);
  // tlb.cpp
  void flush(Vcpu& vcpu, AddressSpace& space, Gva start, Gva end, PageSize stride, bool full,
             bool freed_tables);
  void flush_here(Vcpu& vcpu, const FlushRequest& request);
  void leave_to_kernel_tables(Vcpu& vcpu);
  Cpu& cpu(const Vcpu& vcpu) { return cpus_[vcpu.index()]; }

  Machine& machine_;
  ProcessListener* listener_;
  Gpa kernel_root_;
  Gfn zero_page_;
  u64 kernel_table_pages_ = 0;
  std::unique_ptr<FrameAllocator> frames_;
  std::vector<Cpu> cpus_;
  std::vector<std::unique_ptr<Process>> processes_;
  std::map<std::pair<u32, u64>, Gfn> page_cache_;
  KernelStatistics statistics_;
  u32 next_pid_ = 1;
  u64 next_sample_ = 0;
};

}  // namespace mmuscope
