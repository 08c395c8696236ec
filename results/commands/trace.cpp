#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/params.h"
#include "results/commands/commands.h"
#include "workloads/trace/coarse.h"
#include "workloads/trace/lackey.h"
#include "workloads/trace/qemu.h"
#include "workloads/trace/text.h"
#include "workloads/trace/tools.h"

namespace mmuscope {
namespace {

constexpr CommandHelp kHelp = {
    "trace import KIND FILE... -o FILE | trace info|dump|cut FILE | trace merge FILE...",
    "Recorded programs, and recorded machines. import makes a trace of\n"
    "  lackey LOG...  valgrind's, as results/record-lackey makes them\n"
    "  qemu DIR       the logs that results/record --keep DIR left\n"
    "  strace LOG     strace -f -o LOG -e trace=memory,process PROGRAM ARGS...: no accesses\n"
    "  perf LIST      page faults: perf record -e page-faults -c 1 -d PROGRAM; perf script -F\n"
    "                 comm,pid,tid,time,event,addr,ip > LIST\n"
    "  text FILE      what dump wrote\n"
    "info tells what a trace holds and how it was recorded; dump writes every record as a line; "
    "cut\n"
    "keeps --count records from --from on; merge makes one trace of several, as of programs that "
    "were\n"
    "started together. A trace is replayed with --workload trace:file=FILE.\n",
    "  mmuscope trace import lackey t.*.lk -o program.mmt\n"
    "  mmuscope trace cut program.mmt --count 1000000 -o beginning.mmt\n"};

constexpr std::string_view kKinds[] = {"lackey", "qemu", "strace", "perf", "text"};

std::string the_file(const Args& words, std::size_t at) {
  if (words.size() != at + 1) {
    throw InputError("trace " + words[0] + (at == 2 ? " " + words[1] : "") + " takes one FILE");
  }
  return words[at];
}

int import(const Args& words, const CommandLine& line) {
  const std::string kind = words.size() < 2 ? "" : words[1];
  if (std::find(std::begin(kKinds), std::end(kKinds), kind) == std::end(kKinds)) {
    throw InputError(unknown_word("kind of logs to import", kind, kKinds));
  }
  const std::vector<std::filesystem::path> logs(words.begin() + 2, words.end());
  if (logs.empty()) throw InputError("no LOG; usage: mmuscope " + std::string(kHelp.usage));
  const std::string out = line.required("output");
  if (kind == "qemu") {
    // These are large: reading them again to describe them would take as long as making them.
    const TraceTotals made = import_qemu(the_file(words, 2), out);
    fmt::print("records      {}\ntasks        {}\n", made.all(), made.processes);
    return kDone;
  } else if (kind == "strace") {
    import_strace(the_file(words, 2), out);
  } else if (kind == "perf") {
    import_perf(the_file(words, 2), out);
  } else if (kind == "text") {
    import_text(the_file(words, 2), out);
  } else {
    LackeyOptions options;
    options.quantum = line.number("quantum", 1, u64{1} << 40);
    options.limit = line.number("limit", 0, 0);
    (void)import_lackey(logs, out, options);
  }
  fmt::print("{}", trace_description(out));
  return kDone;
}

int merge(const Args& words, const CommandLine& line) {
  const std::vector<std::filesystem::path> files(words.begin() + 1, words.end());
  if (files.size() < 2) throw InputError("trace merge takes two or more FILEs");
  const std::string out = line.required("output");
  trace_merge(files, out, line.number("quantum", 1, u64{1} << 40));
  fmt::print("{}", trace_description(out));
  return kDone;
}

int cut(const Args& words, const CommandLine& line) {
  const std::string out = line.required("output");
  const u64 count = line.number("count", 0, 0);
  trace_cut(the_file(words, 1), out, line.number("from", 0, 0), count == 0 ? ~u64{0} : count);
  fmt::print("{}", trace_description(out));
  return kDone;
}

}  // namespace

int trace_command(const Args& args) {
  const LackeyOptions defaults;
  CommandLine line(kHelp);
  line.words("word", {"import", "info", "dump", "cut", "merge"})
      .value("output,o", "", "import, cut, merge: the trace")
      .value("quantum", std::to_string(defaults.quantum).c_str(),
             "import lackey, merge: accesses of a process before another one has its turn")
      .value("limit", "0", "import lackey: accesses kept of each process; 0: all")
      .value("from", "0", "cut: the first record that is kept")
      .value("count", "0", "cut: how many records are kept; 0: all that follow");
  if (!line.parse(args)) return kDone;
  const Args words = line.texts("word");
  constexpr std::string_view kWords[] = {"import", "info", "dump", "cut", "merge"};
  if (words.empty()) {
    throw InputError("trace import, info, dump, cut or merge; usage: mmuscope " +
                     std::string(kHelp.usage));
  }
  const std::string& word = words[0];
  if (word == "import") return import(words, line);
  if (word == "cut") return cut(words, line);
  if (word == "merge") return merge(words, line);
  if (word == "info") {
    fmt::print("{}", trace_description(the_file(words, 1)));
  } else if (word == "dump") {
    trace_dump(the_file(words, 1), stdout);
  } else {
    throw InputError(unknown_word("word after trace", word, kWords));
  }
  return kDone;
}

}  // namespace mmuscope
