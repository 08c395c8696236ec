#include "results/cases.h"

#include <fmt/format.h>

#include <sstream>

#include "core/error.h"
#include "results/commands/commands.h"
#include "results/csv.h"

namespace mmuscope {
namespace {

constexpr CommandHelp kHelp = {
    "cases FILE... [options]",
    "Runs single-access MMU cases (JSON lines, plain or .gz) through the emulator's own walks and\n"
    "prints for each file how many passed. Exit status 1 if one failed.\n",
    "  mmuscope cases tests/truth/mmu/*.jsonl.gz\n"
    "  mmuscope cases mine.jsonl --failures -\n"};

}  // namespace

int cases_command(const Args& args) {
  CommandLine line(kHelp);
  line.words("file").value("failures", "",
                           "writes a line for each failed case; - is standard output");
  if (!line.parse(args)) return kDone;
  const std::vector<std::string> files = line.texts("file");
  if (files.empty()) {
    throw InputError("no FILE; usage: mmuscope " + std::string(kHelp.usage));
  }
  std::ostringstream failures;
  u64 failed = 0;
  for (const std::string& file : files) {
    const CasesResult result = run_cases(file, &failures);
    fmt::print("{}\n", cases_line(file, result));
    failed += result.failed();
  }
  if (line.has("failures")) write_file(line.text("failures"), failures.str());
  return failed == 0 ? kDone : kCheckFailed;
}

}  // namespace mmuscope
