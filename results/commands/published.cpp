#include "results/published.h"

#include <fmt/format.h>

#include "results/commands/command_line.h"
#include "results/commands/commands.h"
#include "results/csv.h"
#include "results/tables.h"

namespace mmuscope {
namespace {

constexpr CommandHelp kHelp = {
    "published [--check] [--csv FILE]",
    "Published ratios of shadow paging to EPT beside the emulator's: shadow-unsync over nested, "
    "in\n"
    "modelled time, for an operation. One set of prices for all rows; rows from which a price was\n"
    "derived are marked, and are no test.\n",
    "  mmuscope published\n"
    "  mmuscope published --check --csv published.csv\n",
    nullptr};

}  // namespace

int published_command(const Args& args) {
  CommandLine line(kHelp);
  line.flag("check", "exit status 1 if a row that is a test misses its tolerance")
      .value("csv", "", "writes the rows; - is standard output");
  if (!line.parse(args)) return kDone;
  std::vector<CsvRow> shown = {{"operation", "vCPUs", "published", "ours", "off by", "within", ""}};
  std::vector<CsvRow> rows = {{"source", "row", "workload", "vcpus", "settings", "published",
                               "ours", "tolerance", "verdict", "calibration"}};
  bool missed = false;
  for (const PublishedRow& row : published_rows()) {
    const std::optional<double> ours = measure(row);
    const bool ok = ours && agrees(row.published, *ours, row.tolerance);
    missed |= !ok && !row.calibration;
    const std::string verdict = !ours ? "no result" : ok ? "ok" : "miss";
    const std::string value = ours ? fmt::format("{:.3g}", *ours) : "";
    shown.push_back({std::string(row.what), std::to_string(row.vcpus),
                     fmt::format("{:.3g}", row.published), value,
                     ours ? fmt::format("{:+.0f} %", 100 * (*ours / row.published - 1)) : "",
                     fmt::format("{:.1f}x", row.tolerance),
                     row.calibration ? verdict + ", calibration" : verdict});
    rows.push_back({std::string(row.source), std::string(row.what), std::string(row.workload),
                    std::to_string(row.vcpus), std::string(row.settings),
                    fmt::format("{:.6g}", row.published), ours ? fmt::format("{:.6g}", *ours) : "",
                    fmt::format("{:.6g}", row.tolerance), verdict, row.calibration ? "yes" : "no"});
  }
  std::string csv;
  for (const CsvRow& row : rows) csv += csv_line(row);
  if (line.has("csv")) write_file(line.text("csv"), csv);
  if (line.text("csv") != "-") {
    fmt::print("{}: shadow paging's time over nested paging's\n\n{}", published_rows()[0].source,
               aligned(shown, 1));
  }
  return missed && line.has("check") ? kCheckFailed : kDone;
}

}  // namespace mmuscope
