#include "results/published/published.h"

#include <fmt/format.h>

#include <algorithm>
#include <thread>

#include "results/commands/command_line.h"
#include "results/commands/commands.h"
#include "results/csv.h"

namespace mmuscope {
namespace {

constexpr CommandHelp kHelp = {
    "published [--check] [--csv FILE] [--jobs N]",
    "Published results beside the emulator's, each with its tolerance and verdict: entries that a\n"
    "walk reads, ratios of shadow paging to EPT in modelled time, other papers' figures, and what\n"
    "all of them conclude. One set of prices for all rows; rows from which a price was derived "
    "are\n"
    "marked, and are no test.\n",
    "  mmuscope published\n"
    "  mmuscope published --check --csv published.csv\n",
    nullptr};

}  // namespace

int published_command(const Args& args) {
  const unsigned cores = std::clamp(std::thread::hardware_concurrency(), 1u, 1024u);
  CommandLine line(kHelp);
  line.flag("check", "exit status 1 if a row that is a test does not hold")
      .value("csv", "", "writes the rows; - is standard output")
      .value("jobs", std::to_string(cores).c_str(), "experiments at a time, 1 to 1024");
  if (!line.parse(args)) return kDone;
  const auto jobs = static_cast<unsigned>(line.number("jobs", 1, 1024));
  const auto made = reproduce(published_rows(), jobs, &catch_interruptions());
  if (!made) {
    fmt::print(stderr, "interrupted: nothing is kept\n");
    return kInterrupted;
  }
  if (line.has("csv")) write_file(line.text("csv"), published_csv(*made));
  if (line.text("csv") != "-") fmt::print("{}", published_table(*made));
  const bool missed = std::any_of(made->begin(), made->end(), [](const Reproduced& r) {
    return !r.row->calibration && !r.holds();
  });
  return missed && line.has("check") ? kCheckFailed : kDone;
}

}  // namespace mmuscope
