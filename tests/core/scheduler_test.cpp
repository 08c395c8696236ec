#include "core/scheduler.h"

#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <stdexcept>
#include <string>

#include "core/shootdown.h"

namespace mmuscope {
namespace {

TEST_CASE("bodies run by turns, in order of index") {
  Scheduler scheduler;
  std::string log;
  const auto body = [&](char name, int turns) {
    return [&, name, turns] {
      for (int i = 0; i < turns; ++i) {
        log += name;
        CHECK(scheduler.running() == static_cast<unsigned>(name - 'a'));
        scheduler.give_way();
      }
    };
  };
  scheduler.run({body('a', 3), body('b', 1), body('c', 2)});
  CHECK(log == "abcaca");
  scheduler.give_way();  // outside run() it does nothing
  scheduler.run({body('a', 1)});
  CHECK(log == "abcacaa");
}

struct Witness {
  int* destroyed;
  ~Witness() { ++*destroyed; }
};

TEST_CASE("an exception of one body unwinds the others and is thrown on") {
  Scheduler scheduler;
  int destroyed = 0, after = 0;
  const auto waits = [&] {
    const Witness witness{&destroyed};
    for (;;) scheduler.give_way();
  };
  const auto throws = [&] {
    scheduler.give_way();
    throw std::runtime_error("mine");
  };
  const auto done = [&] { ++after; };
  CHECK_THROWS_WITH_AS(scheduler.run({waits, throws, waits, done}), "mine", std::runtime_error);
  CHECK(destroyed == 2);
  CHECK(after == 1);
  // And it can be used again.
  scheduler.run({done, done});
  CHECK(after == 3);
}

TEST_CASE("a body that throws before the others began keeps them from beginning") {
  Scheduler scheduler;
  int began = 0;
  CHECK_THROWS_AS(scheduler.run({[] { throw std::logic_error("first"); }, [&] { ++began; }}),
                  std::logic_error);
  CHECK(began == 0);
}

/// The signal that ends a child process which does this; 0 if none does.
template <class Body>
int signal_of(Body&& body) {
  const pid_t child = fork();
  if (child == 0) {
    std::freopen("/dev/null", "w", stderr);
    std::signal(SIGABRT, SIG_DFL);
    body();
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

TEST_CASE("a shootdown that is owed must be applied") {
  CHECK(signal_of([] { const Shootdown none; }) == 0);
  CHECK(signal_of([] {
          Shootdown owed;
          owed.add();
        }) == SIGABRT);
  CHECK(signal_of([] {
          Shootdown owed, more;
          owed.add();
          owed = std::move(more);
        }) == SIGABRT);
  Shootdown a, b;
  a.add();
  b.merge(std::move(a));
  CHECK_FALSE(a.owed());
  CHECK(b.owed());
  Shootdown c = std::move(b);
  CHECK_FALSE(b.owed());
  CHECK(c.owed());
  c.settle();
  CHECK_FALSE(c.owed());
}

}  // namespace
}  // namespace mmuscope
