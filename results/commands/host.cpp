#include "results/live/host.h"

#include <fmt/format.h>

#include "core/error.h"
#include "results/commands/commands.h"
#include "results/tables.h"

namespace mmuscope {
namespace {

constexpr CommandHelp kHelp = {
    "host [options]",
    "Prints what this machine has for virtualizing memory: CPU flags, tags, page sizes, KVM's\n"
    "modules and their parameters; then the settings with which the emulator does what KVM does\n"
    "here. Reads /proc, /sys and CPUID, and opens and closes /dev/kvm; changes nothing.\n",
    "  mmuscope host\n"
    "  mmuscope host --csv host.csv\n"};

}  // namespace

int host_command(const Args& args) {
  CommandLine line(kHelp);
  line.value("csv", "", "writes item,value,from; - is standard output")
      .value("root", "",
             "reads DIR/proc, DIR/sys and DIR/dev, a copy of another machine's files; CPUID is not "
             "asked then");
  if (!line.parse(args)) return kDone;
  HostSource source = this_host();
  if (line.has("root")) {
    source = {line.text("root"), {}};
    if (!std::filesystem::is_directory(source.root / "proc")) {
      throw InputError(line.text("root") + " has no directory proc: not a machine's files");
    }
  }
  const HostFacts host = read_host(source);
  const std::vector<CsvRow> rows = host_rows(host);
  if (line.has("csv")) {
    std::string csv;
    for (const CsvRow& row : rows) csv += csv_line(row);
    write_file(line.text("csv"), csv);
  }
  if (line.text("csv") != "-") fmt::print("{}", aligned(rows, 3));
  return kDone;
}

}  // namespace mmuscope
