#pragma once

#include <vector>

#include "workloads/trace/format.h"

namespace mmuscope {

inline constexpr const char* kNoSwitch =
    "a switch to no living process, or to one that waits for a child of its vfork";

/// Which tasks of a trace there are, which one runs, and which others may, call by call.
class TraceTasks {
 public:
  /// How many were made.
  std::size_t made() const { return tasks_.size(); }
  /// kMaxProcesses: none.
  u32 running() const { return running_; }
  /// It lives, and does not wait for a child that it made by vfork.
  bool may_run(u64 task) const {
    return task < tasks_.size() && tasks_[task].alive && !tasks_[task].waits;
  }
  void run(u64 task) { running_ = static_cast<u32>(task); }
  /// What the running task has called, or whoever makes processes.
  void note(const Call& call) {
    if (makes_task(call.kind)) tasks_.emplace_back();
    if (call.kind == CallKind::Vfork) {
      tasks_[running_].waits = true;
      tasks_.back().waiting = running_;
    }
    if (call.kind == CallKind::Exec || call.kind == CallKind::Exit) {
      u32& waiting = tasks_[running_].waiting;
      if (waiting != kMaxProcesses) tasks_[waiting].waits = false;
      waiting = kMaxProcesses;
    }
    if (call.kind == CallKind::Exit) tasks_[running_].alive = false;
    if (ends_turn(call.kind)) running_ = kMaxProcesses;
  }

 private:
  struct Task {
    bool alive = true;
    bool waits = false;
    u32 waiting = kMaxProcesses;  ///< for this one
  };
  std::vector<Task> tasks_;
  u32 running_ = kMaxProcesses;
};

}  // namespace mmuscope
