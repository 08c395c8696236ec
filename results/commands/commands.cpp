#include "results/commands/commands.h"

#include <array>
#include <csignal>

#include "core/error.h"
#include "core/params.h"

namespace mmuscope {
namespace {

constexpr std::array kCommands = {
    Command{"list", "the catalogues: pagers, workloads, cpus, columns, suites, costs",
            list_command},
    Command{"run", "one experiment, its counts in a readable summary", run_command},
    Command{"compare", "the same guest under several pagers, side by side", compare_command},
    Command{"suite", "a matrix of experiments, as CSV files", suite_command},
    Command{"merge", "the shards of a suite become one", merge_command},
    Command{"scenario",
            "machine-level scenarios: what each step counts, or whether it is as expected",
            scenario_command},
    Command{"report", "the page of a suite's results: charts, table, walk explorer",
            report_command},
    Command{"explain", "one access narrated: each table entry read, each exit, each fill",
            explain_command},
    Command{"cases", "single-access MMU cases: passed and failed", cases_command},
    Command{"walks", "what one page walk reads, for every depth, page size and cache",
            walks_command},
    Command{"published", "published ratios beside the emulator's, each with its verdict",
            published_command},
    Command{"live", "scenarios on this host's own KVM, its counters beside the emulator's",
            live_command},
    Command{"lab", "teaching labs: hand-outs that run and grade themselves", lab_command},
    Command{"host", "what this machine has for virtualizing memory, and which pager does the same",
            host_command},
    Command{"trace", "recorded programs: import, info, dump", trace_command},
    Command{"help", "this text, a command's, the manual page, completion for shells", help_command},
};

std::atomic<bool> interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free, "it is set by a signal handler");

}  // namespace

std::span<const Command> commands() { return kCommands; }

const Command& find_command(std::string_view name) {
  std::vector<std::string_view> names;
  for (const Command& c : commands()) {
    if (c.name == name) return c;
    names.push_back(c.name);
  }
  throw InputError(unknown_word("command", name, names));
}

const std::atomic<bool>& catch_interruptions() {
  for (const int signal : {SIGINT, SIGTERM}) {
    std::signal(signal, [](int) { interrupted.store(true); });
  }
  return interrupted;
}

}  // namespace mmuscope
