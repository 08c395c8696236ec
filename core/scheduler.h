#pragma once

#include <exception>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "core/types.h"

namespace mmuscope {

class Vcpu;

/// Runs several bodies of plain code by turns on one thread, each on a stack of its own: in order
/// of index, the next one whenever the running one gives way, or as an Order says. Deterministic.
class Scheduler {
 public:
  struct Task {
    std::function<void()> body;
    Vcpu* vcpu = nullptr;  ///< whose work it is, for the Order
  };
  /// Chooses whose turn it is.
  class Order {
   public:
    virtual ~Order() = default;
    /// Position of one of the bodies that can run, given whose they are; never none.
    virtual std::size_t next(std::span<Vcpu* const> ready) = 0;
  };

  Scheduler();
  ~Scheduler();
  /// From now on; null: by turns.
  void set_order(Order* order) { order_ = order; }
  /// Runs all bodies to their end. Called by a body, it returns to it when the new ones have ended.
  /// The first exception that leaves a body ends the others (their next give_way() unwinds them)
  /// and is thrown on.
  void run(std::vector<Task> tasks);
  void run(std::vector<std::function<void()>> bodies);
  /// Lets another body run; returns when it is the caller's turn again. Does nothing outside run().
  void give_way();
  /// Index of the running body among those of its run(); 0 outside run().
  unsigned running() const;
  /// True while that vCPU's body runs.
  bool runs(const Vcpu& vcpu) const;
  bool active() const { return !fibers_.empty(); }

 private:
  struct Fiber;
  void add(std::vector<Task> tasks, Fiber* parent);
  void start(Fiber& f);
  void run_all();
  std::size_t choose();
  void fail();
  void ended(std::size_t at);
  void go_on_with(Fiber& to);

  std::vector<std::unique_ptr<Fiber>> fibers_;  // not ended
  std::vector<Fiber*> ready_;                   // that do not wait for bodies of their own
  std::vector<Vcpu*> whose_;                    // ready_'s
  std::size_t at_ = 0;                          // in ready_: whose turn it is
  std::unique_ptr<Fiber> outside_;              // run_all(), on its caller's stack
  Fiber* current_ = nullptr;                    // null outside run()
  Fiber* left_ = nullptr;                       // by the last switch
  Order* order_ = nullptr;
  bool aborting_ = false;
  std::exception_ptr error_;
};

}  // namespace mmuscope
