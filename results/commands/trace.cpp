#include <fmt/format.h>

#include "core/error.h"
#include "core/params.h"
#include "results/commands/commands.h"
#include "workloads/trace/lackey.h"
#include "workloads/trace/qemu.h"
#include "workloads/trace/tools.h"

namespace mmuscope {
namespace {

constexpr CommandHelp kHelp = {
    "trace import lackey LOG... -o FILE | trace info FILE | trace dump FILE",
    "Recorded programs. import makes one trace of the logs of\n"
    "  valgrind --tool=lackey --trace-mem=yes --trace-syscalls=yes --trace-children=yes\n"
    "    --log-file=t.%p.lk PROGRAM ARGS...\n"
    "(results/record-lackey does both); info tells what a trace holds and how it was recorded; "
    "dump\n"
    "writes every record as a line. A trace is replayed with --workload trace:file=FILE.\n",
    "  mmuscope trace import lackey t.*.lk -o program.mmt\n"
    "  mmuscope trace info program.mmt\n"};

std::string the_file(const Args& words) {
  if (words.size() != 2) {
    throw InputError("trace " + words[0] + " takes one FILE");
  }
  return words[1];
}

int import(const Args& words, const CommandLine& line) {
  if (words.size() == 3 && words[1] == "qemu") {
    (void)import_qemu(words[2], line.required("output"));
    return kDone;
  }
  if (words.size() < 2 || words[1] != "lackey") {
    throw InputError("the kind of the logs is missing or unknown; valid: lackey");
  }
  const std::vector<std::filesystem::path> logs(words.begin() + 2, words.end());
  if (logs.empty()) throw InputError("no LOG; usage: mmuscope " + std::string(kHelp.usage));
  const std::string out = line.required("output");
  LackeyOptions options;
  options.quantum = line.number("quantum", 1, u64{1} << 40);
  options.limit = line.number("limit", 0, 0);
  (void)import_lackey(logs, out, options);
  fmt::print("{}", describe(trace_info(out)));
  return kDone;
}

}  // namespace

int trace_command(const Args& args) {
  const LackeyOptions defaults;
  CommandLine line(kHelp);
  line.words("word", {"import", "info", "dump"})
      .value("output,o", "", "import: the trace")
      .value("quantum", std::to_string(defaults.quantum).c_str(),
             "import: accesses of a process before another one has its turn")
      .value("limit", "0", "import: accesses kept of each process; 0: all");
  if (!line.parse(args)) return kDone;
  const Args words = line.texts("word");
  if (words.empty()) {
    throw InputError("trace import, trace info or trace dump; usage: mmuscope " +
                     std::string(kHelp.usage));
  }
  if (words[0] == "import") return import(words, line);
  if (words[0] == "info") {
    fmt::print("{}", describe(trace_info(the_file(words))));
  } else if (words[0] == "dump") {
    trace_dump(the_file(words), stdout);
  } else {
    constexpr std::string_view kWords[] = {"import", "info", "dump"};
    throw InputError(unknown_word("word after trace", words[0], kWords));
  }
  return kDone;
}

}  // namespace mmuscope
