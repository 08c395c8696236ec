#pragma once

#include <functional>
#include <vector>

#include "core/types.h"

namespace mmuscope {

/// Runs several bodies of plain code by turns on one thread, each on a stack of its own: in order
/// of index, the next one whenever the running one gives way. Deterministic.
class Scheduler {
 public:
  /// Runs all bodies to their end. The first exception that leaves a body ends the others (their
  /// next give_way() unwinds them) and is thrown on.
  void run(std::vector<std::function<void()>> bodies);
  /// Lets the next body run; returns when it is the caller's turn again. Does nothing outside
  /// run().
  void give_way();
  /// Index of the running body; 0 outside run().
  unsigned running() const { return running_; }

 private:
  struct Fiber;
  void start(Fiber& f);
  void resume(Fiber& f);

  std::vector<Fiber*> fibers_;
  unsigned running_ = 0;
  bool aborting_ = false;
};

}  // namespace mmuscope
