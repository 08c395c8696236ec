#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "workloads/trace/reader.h"

namespace mmuscope {

/// Which vCPU runs a task of a trace.
enum class Placement : u8 {
  RoundRobin,  ///< task n runs on vCPU n modulo their number
  Recorded,    ///< CPU c of the recorded machine is vCPU c modulo their number
};

/// Decodes a trace once, as a stream, and hands its parts to the vCPUs that replay it. At most
/// kWindowBlocks blocks are held, so a vCPU that is far ahead of the others has to wait.
class TraceFeed {
 public:
  static constexpr unsigned kWindowBlocks = 32;

  /// Consecutive records of one task: accesses, or one call.
  struct Item {
    const TraceBlock* block = nullptr;
    std::size_t from = 0, to = 0;  ///< records of the block
    bool call = false;
    u32 task = kMaxProcesses;  ///< that runs; kMaxProcesses: none (a Spawn by nobody)
    u32 process = 0;           ///< of the task: an index in processes_
    u64 earlier = 0;           ///< items of the task before this one
    u64 process_calls = 0;     ///< calls of the task's process before this one
    u64 process_items = 0;     ///< items of the task's process before this one
  };

  TraceFeed(const std::filesystem::path& path, unsigned vcpus, Placement placement);

  /// The vCPU's next item; it stays the next one until done(). nullptr if there is none now: at
  /// the end of the trace, or when the others have to go on first.
  const Item* next(unsigned vcpu);
  void done(unsigned vcpu);
  /// Nothing is left for this vCPU.
  bool ended(unsigned vcpu) const { return ended_ && queues_[vcpu].empty(); }

  /// What other vCPUs have to do before an item may run. An access comes after all calls of its
  /// process that were made before it; a call after everything that its process did before it; and
  /// a task does one thing after the other, wherever it runs.
  bool may_run(const Item& item) const;

 private:
  struct Slot {
    TraceBlock block;
    std::size_t items_left = 0;
  };
  struct Queued {
    Item item;
    Slot* slot;
  };
  struct Task {
    u32 process = 0;
    unsigned vcpu = 0;
    u64 items = 0, items_done = 0;
  };
  /// What lives in one memory: a child of vfork belongs to its parent's until it calls Exec.
  struct Process {
    u64 items = 0, calls = 0, items_done = 0, calls_done = 0;
  };

  bool decode();
  void split(Slot& slot);
  void add(Slot& slot, std::size_t from, std::size_t to, bool call);
  void note_call(const Call& call);

  TraceReader reader_;
  Placement placement_;
  std::vector<std::deque<Queued>> queues_;  ///< by vCPU
  std::vector<std::unique_ptr<Slot>> slots_;
  std::vector<Slot*> free_;
  std::vector<Task> tasks_;
  std::vector<Process> processes_;
  u32 running_ = kMaxProcesses;
  bool ended_ = false;
};

}  // namespace mmuscope
