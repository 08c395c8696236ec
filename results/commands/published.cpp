#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <thread>

#include "results/commands/command_line.h"
#include "results/commands/commands.h"
#include "results/commands/progress.h"
#include "results/csv.h"
#include "results/published/calibration.h"
#include "results/tables.h"

namespace mmuscope {
namespace {

constexpr CommandHelp kHelp = {
    "published [--calibration] [--check] [--csv FILE] [--jobs N] [--prices FILE]",
    "Published results beside the emulator's, each with its tolerance and verdict: entries that a\n"
    "walk reads, ratios of shadow paging to EPT in modelled time, other papers' figures, and what\n"
    "all of them conclude. One set of prices for all rows; rows from which a price was derived "
    "are\n"
    "marked, and are no test. --calibration: the component costs that prices were fitted to.\n",
    "  mmuscope published --calibration\n"
    "  mmuscope published --check --csv published.csv\n",
    nullptr};

int interrupted() {
  fmt::print(stderr, "interrupted: nothing is kept\n");
  return kInterrupted;
}

int calibration(const CommandLine& line, const Measuring& how, Progress& progress) {
  const auto made = calibrate(how);
  progress.clear();
  if (!made) return interrupted();
  const std::vector<CsvRow> rows = calibration_rows(*made);
  std::string csv;
  for (const CsvRow& row : rows) csv += csv_line(row);
  if (line.has("csv")) write_file(line.text("csv"), csv);
  if (line.text("csv") != "-") fmt::print("{}", aligned(rows, 1));
  return kDone;
}

}  // namespace

int published_command(const Args& args) {
  const unsigned cores = std::clamp(std::thread::hardware_concurrency(), 1u, 1024u);
  CommandLine line(kHelp);
  line.flag("calibration", "only component costs, beside those measured, and the prices they give")
      .flag("check", "exit status 1 if a row that is a test does not hold")
      .value("csv", "", "writes the rows; - is standard output")
      .value("jobs", std::to_string(cores).c_str(), "experiments at a time, 1 to 1024")
      .value("prices", "none", "file of other prices, as the key prices of --set");
  if (!line.parse(args)) return kDone;
  Measuring how;
  how.jobs = static_cast<unsigned>(line.number("jobs", 1, 1024));
  how.prices = line.text("prices");
  how.stop = &catch_interruptions();
  Progress progress(Progress::Log::Nothing);
  how.progress = std::ref(progress);
  if (line.has("calibration")) return calibration(line, how, progress);
  const auto made = reproduce(published_rows(), how);
  progress.clear();
  if (!made) return interrupted();
  if (line.has("csv")) write_file(line.text("csv"), published_csv(*made));
  if (line.text("csv") != "-") fmt::print("{}", published_table(*made));
  const bool missed = std::any_of(made->begin(), made->end(), [](const Reproduced& r) {
    return !r.row->calibration && !r.holds();
  });
  return missed && line.has("check") ? kCheckFailed : kDone;
}

}  // namespace mmuscope
