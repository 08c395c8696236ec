#include <fmt/format.h>

#include "core/error.h"
#include "results/commands/commands.h"

namespace mmuscope {
namespace {

constexpr std::string_view kAbout =
    "Runs one virtual machine several ways - without virtualization, with shadow page tables, with "
    "EPT or\nNPT - and counts what each costs: VM exits, memory, synchronisation.\n";

constexpr CommandHelp kHelp = {
    "help [COMMAND] [--man | --completion bash|zsh]",
    "Without options the usage, or that of COMMAND. --man writes the manual page, --completion "
    "what\n"
    "makes a shell complete command lines: both from the tables that the program itself works "
    "with.\n",
    "  mmuscope help --man | man -l -\n"
    "  source <(mmuscope help --completion bash)\n"};

}  // namespace

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

int help_command(const Args& args) {
  Args names;
  for (const Command& c : commands()) names.emplace_back(c.name);
  CommandLine line(kHelp);
  line.words("command", names)
      .flag("man", "the manual page, for man")
      .value("completion", "", "bash or zsh: completion for that shell");
  if (!line.parse(args)) return kDone;
  const Args words = line.texts("command");
  if (words.size() + line.has("man") + line.has("completion") > 1) {
    throw InputError("one thing at a time; usage: mmuscope " + std::string(kHelp.usage));
  }
  if (!words.empty()) return find_command(words[0]).run({"--help"});
  const std::string shell = line.text("completion");
  if (line.has("man")) {
    fmt::print("{}", manual_page());
  } else if (shell == "bash") {
    fmt::print("{}", bash_completion());
  } else if (shell == "zsh") {
    fmt::print("{}", zsh_completion());
  } else if (line.has("completion")) {
    throw InputError("--completion " + shell + " is not valid; valid: bash|zsh");
  } else {
    fmt::print("{}", usage());
  }
  return kDone;
}

}  // namespace mmuscope
