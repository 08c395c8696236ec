#include <fmt/format.h>
#include <unistd.h>

#include "core/error.h"
#include "core/params.h"
#include "results/commands/commands.h"
#include "results/labs/grade.h"
#include "results/tables.h"

namespace mmuscope {
namespace {

constexpr CommandHelp kHelp = {
    "lab list | start NAME DIR | check DIR [options]",
    "The teaching labs: list names them; start lays out a hand-out and the files to edit in a new\n"
    "folder; check grades the folder: each question passed, or what is expected of it and where "
    "to\n"
    "look, and a total. Exit status 1 if not all passed. What is expected is found by running the\n"
    "emulator, so that no file of a lab holds an answer but the instructor's notes and solution.\n",
    "  mmuscope lab start four-steps my-lab\n"
    "  mmuscope lab check my-lab --json\n"};

constexpr std::string_view kVerbs[] = {"list", "start", "check"};

int list_labs() {
  std::vector<CsvRow> rows = {{"lab", "name", "title", "aim", "minutes"}};
  for (const Lab& lab : all_labs()) {
    rows.push_back({fmt::format("{}", lab.number), lab.name, lab.title, lab.aim,
                    fmt::format("{}", lab.minutes)});
  }
  fmt::print("{}", aligned(rows, 4));
  return kDone;
}

int start(const std::vector<std::string>& words) {
  if (words.size() != 3) throw InputError("usage: mmuscope lab start NAME DIR");
  const Lab lab = find_lab(words[1]);
  const std::vector<std::string> names = start_lab(lab, words[2]);
  fmt::print("lab {}: {}, about {} minutes\n", lab.number, lab.title, lab.minutes);
  for (const std::string& name : names) fmt::print("  {}/{}\n", words[2], name);
  fmt::print("begin with {0}/handout.md; then `mmuscope lab check {0}`\n", words[2]);
  return kDone;
}

/// Says on a terminal, while it lives, what takes so long: a pager of one's own is compiled first.
class Busy {
 public:
  explicit Busy(const std::string& with) : terminal_(isatty(STDERR_FILENO) == 1) {
    if (terminal_) fmt::print(stderr, "checking {} ...", with);
  }
  ~Busy() {
    if (terminal_) fmt::print(stderr, "\r\x1b[K");
  }
  Busy(const Busy&) = delete;
  Busy& operator=(const Busy&) = delete;

 private:
  bool terminal_;
};

LabGrade graded(const std::string& dir, const std::string& prefix) {
  const Busy busy(dir);
  return grade_lab(dir, prefix);
}

int check(const CommandLine& line, const std::vector<std::string>& words) {
  if (words.size() != 2) throw InputError("usage: mmuscope lab check DIR [--json]");
  const LabGrade grade = graded(words[1], line.text("prefix"));
  fmt::print("{}", line.has("json") ? grade_json(grade) + "\n" : grade_text(grade));
  return grade.all_passed() ? kDone : kCheckFailed;
}

}  // namespace

int lab_command(const Args& args) {
  CommandLine line(kHelp);
  line.words("word", {kVerbs[0].data(), kVerbs[1].data(), kVerbs[2].data()})
      .flag("json", "of check: one JSON object, for a learning platform")
      .value("prefix", "",
             "of check: where the package mmuscope is that a pager of your own is built against; "
             "without it where this program is");
  if (!line.parse(args)) return kDone;
  const std::vector<std::string> words = line.texts("word");
  if (words.empty()) throw InputError("usage: mmuscope " + std::string(kHelp.usage));
  if (words[0] == "list") {
    if (words.size() != 1) throw InputError("usage: mmuscope lab list");
    return list_labs();
  }
  if (words[0] == "start") return start(words);
  if (words[0] == "check") return check(line, words);
  throw InputError(unknown_word("word", words[0], kVerbs));
}

}  // namespace mmuscope
