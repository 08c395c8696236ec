#include "results/suite/merge.h"

#include <fmt/format.h>

#include "core/error.h"
#include "results/commands/commands.h"
#include "results/suite/manifest.h"
#include "results/suite/summary.h"

namespace mmuscope {
namespace {

constexpr CommandHelp kHelp = {
    "merge DIR... --out DIR",
    "Puts the shards of one suite together: writes the files that the whole suite would have\n"
    "written, byte for byte, computes slowdown_vs_native, and prints the suite's table.\n",
    "  mmuscope merge out-1 out-2 out-3 out-4 --out out\n"
    "  mmuscope merge shards/* --out out\n"};

}  // namespace

int merge_command(const Args& args) {
  CommandLine line(kHelp);
  line.words("dir").value("out", "", "folder for the merged files, made if it is not there");
  if (!line.parse(args)) return kDone;
  const std::string out = line.required("out");
  const std::vector<std::string> words = line.texts("dir");
  if (words.empty()) throw InputError("no DIR; usage: mmuscope " + std::string(kHelp.usage));
  Args command = {"mmuscope", "merge"};
  command.insert(command.end(), args.begin(), args.end());
  const std::vector<std::filesystem::path> folders(words.begin(), words.end());
  fmt::print("{}", suite_summary(merge_shards(folders, out, shell_command(command))));
  return kDone;
}

}  // namespace mmuscope
