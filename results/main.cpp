#include <fmt/format.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>

#include "core/error.h"
#include "results/commands/commands.h"
#include "results/version.h"

namespace mmuscope {
namespace {

int dispatch(const Args& args) {
  if (args.empty()) {
    fmt::print(stderr, "{}", usage());
    return kBadInput;
  }
  if (args[0] == "--help" || args[0] == "-h") {
    fmt::print("{}", usage());
    return kDone;
  }
  if (args[0] == "--version") {
    fmt::print("mmuscope {} ({})\n", version(), build_description());
    return kDone;
  }
  return find_command(args[0]).run(Args(args.begin() + 1, args.end()));
}

int guarded_main(const Args& args) {
  try {
    const int status = dispatch(args);
    if (std::fflush(stdout) != 0 || std::ferror(stdout)) {
      throw InputError("standard output cannot be written");
    }
    return status;
  } catch (const std::exception& error) {
    std::fflush(stdout);
    fmt::print(stderr, "mmuscope: {}\n", error.what());
    return kBadInput;
  }
}

}  // namespace
}  // namespace mmuscope

int main(int argc, char** argv) {
  using namespace mmuscope;
  // Nothing is half-written then: a command that has rows to keep handles the signals itself.
  for (const int signal : {SIGINT, SIGTERM}) {
    std::signal(signal, [](int) { _exit(kInterrupted); });
  }
  const int status = guarded_main(Args(argv + 1, argv + argc));
  // Threads of an interrupted suite may still run: nothing is torn down under them.
  if (status == kInterrupted) _exit(status);
  return status;
}
