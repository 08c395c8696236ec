#include "core/scheduler.h"

#include <boost/context/fiber.hpp>
#include <boost/context/fixedsize_stack.hpp>
#include <exception>
#include <memory>

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
  boost::context::fiber self;    // the body, when it does not run
  boost::context::fiber caller;  // run(), while the body runs
  StackBounds stack, caller_stack;
  void* fake_stack = nullptr;
  std::exception_ptr error;
};

void Scheduler::run(std::vector<std::function<void()>> bodies) {
  std::vector<std::unique_ptr<Fiber>> fibers;
  for (auto& body : bodies) {
    fibers.push_back(std::make_unique<Fiber>());
    fibers.back()->body = std::move(body);
    fibers_.push_back(fibers.back().get());
  }
  for (Fiber* f : fibers_) start(*f);
  std::size_t alive = fibers_.size();
  while (alive > 0) {
    for (running_ = 0; running_ < fibers_.size(); ++running_) {
      Fiber& f = *fibers_[running_];
      if (!f.self) continue;
      resume(f);
      if (f.self) continue;
      --alive;
      if (f.error) aborting_ = true;
    }
  }
  fibers_.clear();
  running_ = 0;
  aborting_ = false;
  for (const auto& f : fibers) {
    if (f->error) std::rethrow_exception(f->error);
  }
}

void Scheduler::start(Fiber& f) {
  f.self = boost::context::fiber(
      std::allocator_arg, TrackedStack{boost::context::fixedsize_stack{kStackBytes}, &f.stack},
      [this, &f](boost::context::fiber&& caller) {
        end_switch(nullptr, &f.caller_stack);
        f.caller = std::move(caller);
        try {
          if (!aborting_) f.body();
        } catch (const Unwind&) {  // some other body's error is on its way out
        } catch (...) {
          f.error = std::current_exception();
        }
        begin_switch(nullptr, f.caller_stack);
        return std::move(f.caller);
      });
}

void Scheduler::resume(Fiber& f) {
  void* fake = nullptr;
  begin_switch(&fake, f.stack);
  f.self = std::move(f.self).resume();
  end_switch(fake, nullptr);
}

void Scheduler::give_way() {
  if (fibers_.empty()) return;
  Fiber& f = *fibers_[running_];
  begin_switch(&f.fake_stack, f.caller_stack);
  f.caller = std::move(f.caller).resume();
  end_switch(f.fake_stack, &f.caller_stack);
  if (aborting_) throw Unwind{};
}

}  // namespace mmuscope
