#include "core/scheduler.h"

#include <algorithm>
#include <boost/context/fiber.hpp>
#include <boost/context/fixedsize_stack.hpp>
#include <exception>
#include <memory>
#include <utility>

#if defined(__SANITIZE_ADDRESS__)
#define MMUSCOPE_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define MMUSCOPE_ASAN 1
#endif
#endif
#ifdef MMUSCOPE_ASAN
#include <sanitizer/common_interface_defs.h>
#endif

namespace mmuscope {

namespace {

constexpr std::size_t kStackBytes = std::size_t{1} << 20;

/// Thrown by give_way() when another body has failed, to unwind this one.
struct Unwind {};

/// AddressSanitizer must be told which stack runs. Both calls do nothing without it.
struct StackBounds {
  const void* bottom = nullptr;
  std::size_t bytes = 0;
};

void begin_switch([[maybe_unused]] void** fake, [[maybe_unused]] const StackBounds& to) {
#ifdef MMUSCOPE_ASAN
  __sanitizer_start_switch_fiber(fake, to.bottom, to.bytes);
#endif
}

void end_switch([[maybe_unused]] void* fake, [[maybe_unused]] StackBounds* from) {
#ifdef MMUSCOPE_ASAN
  __sanitizer_finish_switch_fiber(fake, from != nullptr ? &from->bottom : nullptr,
                                  from != nullptr ? &from->bytes : nullptr);
#endif
}

/// Hands the stack out and remembers where it is.
struct TrackedStack {
  boost::context::fixedsize_stack stack{kStackBytes};
  StackBounds* bounds;
  boost::context::stack_context allocate() {
    auto s = stack.allocate();
    *bounds = {static_cast<char*>(s.sp) - s.size, s.size};
    return s;
  }
  void deallocate(boost::context::stack_context& s) { stack.deallocate(s); }
};

}  // namespace

struct Scheduler::Fiber {
  std::function<void()> body;
  Vcpu* vcpu = nullptr;
  unsigned index = 0;          // in its run()
  Fiber* parent = nullptr;     // whose body called it
  unsigned children = 0;       // of its own, not ended
  boost::context::fiber self;  // the body, when it does not run
  StackBounds stack;
  void* fake_stack = nullptr;

  /// The first thing after a switch, on the stack that is gone on with: keeps what was left, to go
  /// on with it later. Of a body that has ended there is nothing to keep.
  static void arrive(Scheduler& s, void* fake_stack, boost::context::fiber left) {
    end_switch(fake_stack, s.left_ == s.outside_.get() ? &s.outside_->stack : nullptr);
    s.left_->self = std::move(left);
  }
};

/// Leaves the running fiber for another, and returns when some fiber goes on with this one.
[[gnu::always_inline]] inline void Scheduler::go_on_with(Fiber& to) {
  Fiber& self = *current_;
  left_ = &self;
  current_ = &to;
  begin_switch(&self.fake_stack, to.stack);
  boost::context::fiber left = std::move(to.self).resume();
  Fiber::arrive(*this, self.fake_stack, std::move(left));
}

Scheduler::Scheduler() : outside_(std::make_unique<Fiber>()) {}
Scheduler::~Scheduler() = default;

unsigned Scheduler::running() const { return current_ != nullptr ? current_->index : 0; }
bool Scheduler::runs(const Vcpu& vcpu) const {
  return current_ != nullptr && current_->vcpu == &vcpu;
}

void Scheduler::run(std::vector<std::function<void()>> bodies) {
  std::vector<Task> tasks;
  for (auto& body : bodies) tasks.push_back({std::move(body)});
  run(std::move(tasks));
}

void Scheduler::run(std::vector<Task> tasks) {
  if (tasks.empty()) return;
  if (Fiber* self = current_) {
    add(std::move(tasks), self);
    const auto me = std::find(ready_.begin(), ready_.end(), self) - ready_.begin();
    ready_.erase(ready_.begin() + me);
    whose_.erase(whose_.begin() + me);
    if (at_ > static_cast<std::size_t>(me)) --at_;
    go_on_with(*outside_);
    if (aborting_) throw Unwind{};
    return;
  }
  at_ = 0;
  add(std::move(tasks), nullptr);
  run_all();
  aborting_ = false;
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void Scheduler::add(std::vector<Task> tasks, Fiber* parent) {
  unsigned index = 0;
  for (Task& task : tasks) {
    fibers_.push_back(std::make_unique<Fiber>());
    Fiber& f = *fibers_.back();
    f.body = std::move(task.body);
    f.vcpu = task.vcpu;
    f.index = index++;
    f.parent = parent;
    if (parent != nullptr) ++parent->children;
    ready_.push_back(&f);
    whose_.push_back(f.vcpu);
    start(f);
  }
}

void Scheduler::run_all() {
  current_ = outside_.get();
  while (!ready_.empty()) {
    at_ = choose();
    go_on_with(*ready_[at_]);
    // Back because a body has ended, or waits for bodies of its own.
    if (at_ < ready_.size() && !ready_[at_]->self) ended(at_);
  }
  current_ = nullptr;
}

std::size_t Scheduler::choose() {
  if (order_ != nullptr && !aborting_) {
    try {
      return order_->next(whose_);
    } catch (...) {
      fail();
    }
  }
  return at_ < ready_.size() ? at_ : 0;
}

/// Called where an exception is being handled.
void Scheduler::fail() {
  if (!error_) error_ = std::current_exception();
  aborting_ = true;
}

void Scheduler::ended(std::size_t at) {
  Fiber* f = ready_[at];
  ready_.erase(ready_.begin() + static_cast<std::ptrdiff_t>(at));
  whose_.erase(whose_.begin() + static_cast<std::ptrdiff_t>(at));
  if (f->parent != nullptr && --f->parent->children == 0) {
    ready_.push_back(f->parent);
    whose_.push_back(f->parent->vcpu);
  }
  fibers_.erase(std::find_if(fibers_.begin(), fibers_.end(),
                             [f](const auto& other) { return other.get() == f; }));
}

void Scheduler::start(Fiber& f) {
  f.self = boost::context::fiber(
      std::allocator_arg, TrackedStack{boost::context::fixedsize_stack{kStackBytes}, &f.stack},
      [this, &f](boost::context::fiber&& before) {
        Fiber::arrive(*this, nullptr, std::move(before));
        try {
          if (!aborting_) f.body();
        } catch (const Unwind&) {  // some other body's error is on its way out
        } catch (...) {
          fail();
        }
        left_ = &f;
        current_ = outside_.get();
        begin_switch(nullptr, outside_->stack);
        return std::move(outside_->self);
      });
}

void Scheduler::give_way() {
  if (current_ == nullptr) return;
  Fiber& self = *current_;
  ++at_;
  at_ = choose();
  if (Fiber& to = *ready_[at_]; &to != &self) go_on_with(to);
  if (aborting_) throw Unwind{};
}

}  // namespace mmuscope
