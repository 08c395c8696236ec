#pragma once

#include <atomic>
#include <span>

#include "results/commands/command_line.h"

namespace mmuscope {

/// Exit statuses of the program.
inline constexpr int kDone = 0, kCheckFailed = 1, kBadInput = 2, kInterrupted = 3;

struct Command {
  std::string_view name;
  std::string_view summary;  ///< one line for `mmuscope --help`
  /// Does it; args are those after the name. Returns the exit status. Results go to standard output
  /// or files, everything else to standard error. Throws InputError.
  int (*run)(const Args& args);
};
/// Every command, in the order of --help.
std::span<const Command> commands();
/// Throws InputError that lists the valid names and the nearest.
const Command& find_command(std::string_view name);

/// What `mmuscope --help` prints.
std::string usage();

/// The manual page, in the man macros of roff, and what makes a shell complete the command line.
std::string manual_page();
std::string bash_completion();
std::string zsh_completion();

int run_command(const Args& args);
int compare_command(const Args& args);
int list_command(const Args& args);
int suite_command(const Args& args);
int merge_command(const Args& args);
int scenario_command(const Args& args);
int report_command(const Args& args);
int explain_command(const Args& args);
int cases_command(const Args& args);
int walks_command(const Args& args);
int published_command(const Args& args);
int live_command(const Args& args);
int lab_command(const Args& args);
int host_command(const Args& args);
int trace_command(const Args& args);
int help_command(const Args& args);

/// From now on an interruption (Ctrl-C, a termination signal) sets the flag instead of ending the
/// program.
const std::atomic<bool>& catch_interruptions();

}  // namespace mmuscope
