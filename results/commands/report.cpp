#include "results/report/report.h"

#include <fmt/format.h>

#include "core/error.h"
#include "results/commands/commands.h"

namespace mmuscope {
namespace {

constexpr CommandHelp kHelp = {
    "report DIR",
    "Writes DIR/report.html from the CSV files that a suite left in DIR: one page that needs no\n"
    "network, with the comparison in words, in charts and in a table, a walk explorer and the "
    "life\n"
    "of a page-table write.\n",
    "  mmuscope report out\n"
    "  mmuscope suite quick --out /tmp/quick && mmuscope report /tmp/quick\n"};

}  // namespace

int report_command(const Args& args) {
  CommandLine line(kHelp);
  line.words("folder");
  if (!line.parse(args)) return kDone;
  const std::vector<std::string> folders = line.texts("folder");
  if (folders.size() != 1) {
    throw InputError("report takes one DIR; usage: mmuscope " + std::string(kHelp.usage));
  }
  fmt::print("{}\n", write_report(folders[0]).string());
  return kDone;
}

}  // namespace mmuscope
