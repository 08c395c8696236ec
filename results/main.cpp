#include <fmt/format.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>

#include "core/error.h"
#include "core/params.h"
#include "results/commands/commands.h"
#include "results/version.h"

namespace mmuscope {
namespace {

constexpr std::string_view kAbout =
    "Runs one virtual machine several ways - without virtualization, with shadow page tables, with "
    "EPT or\nNPT - and counts what each costs: VM exits, memory, synchronisation.\n";

std::string usage() {
  std::string text = "usage: mmuscope COMMAND [options]\n\n";
  text.append(kAbout).append("\n");
  for (const Command& c : commands()) text += fmt::format("  {:<10}{}\n", c.name, c.summary);
  return text +
         "\n`mmuscope COMMAND --help` tells more; `mmuscope --version` says which this is.\n"
         "Exit status: 0 done; 1 a check did not hold, or a run could not go on; 2 bad usage or "
         "bad "
         "input;\n3 interrupted, finished results kept.\n";
}

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
  std::vector<std::string_view> names;
  for (const Command& c : commands()) {
    if (c.name == args[0]) return c.run(Args(args.begin() + 1, args.end()));
    names.push_back(c.name);
  }
  throw InputError(unknown_word("command", args[0], names));
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
