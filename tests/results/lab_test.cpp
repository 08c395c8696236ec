// The labs as a student meets them: laid out, graded untouched, with the instructor's solution, and
// with the wrong answers that many give. With MMUSCOPE_UPDATE=1 in the environment the numbers in
// the solutions are written anew.

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "results/csv.h"
#include "results/labs/grade.h"
#include "tests/support/paths.h"
#include "tests/support/shell.h"

using namespace mmuscope;
namespace fs = std::filesystem;
using Kind = LabQuestion::Kind;
using Status = LabMark::Status;

namespace {

/// A folder that is gone when the test is over.
struct Folder {
  fs::path path;
  explicit Folder(const std::string& name)
      : path(fs::temp_directory_path() / fmt::format("mmuscope_lab_{}_{}", name, getpid())) {
    fs::remove_all(path);
  }
  ~Folder() { fs::remove_all(path); }
};

/// The commands of a hand-out, without "mmuscope ".
std::vector<std::string> commands_of(const fs::path& handout) {
  std::vector<std::string> commands;
  std::ifstream in(handout);
  for (std::string line; std::getline(in, line);) {
    const std::size_t at = line.find_first_not_of(' ');
    if (at != line.npos && line.compare(at, 9, "mmuscope ") == 0) {
      commands.push_back(line.substr(at + 9));
    }
  }
  return commands;
}

bool compiles(const Lab& lab) {
  return std::any_of(lab.questions.begin(), lab.questions.end(),
                     [](const LabQuestion& q) { return q.kind == Kind::Pager; });
}

std::string text_of(const fs::path& file) { return read_file(file, 1 << 20); }

void put(const fs::path& file, const std::string& text) { std::ofstream(file) << text; }

void lay_out_solution(const Lab& lab, const fs::path& dir) {
  (void)start_lab(lab, dir);
  for (const auto& entry : fs::directory_iterator(lab.folder / "solution")) {
    fs::copy(entry.path(), dir / entry.path().filename(), fs::copy_options::overwrite_existing);
  }
}

/// answers.txt with another answer to one question.
std::string with_answer(const std::string& answers, const std::string& id,
                        const std::string& answer) {
  const std::size_t at = ("\n" + answers).find("\n" + id + " =");
  REQUIRE(at != std::string::npos);
  const std::size_t end = std::min(answers.find('\n', at), answers.size());
  return answers.substr(0, at) + id + " = " + answer + answers.substr(end);
}

/// Writes the numbers of the solution anew, after the emulator or the guest has changed.
void update_solution(const Lab& lab) {
  LabValues values(lab.folder / "start");
  std::string answers = text_of(lab.folder / "solution/answers.txt");
  for (const LabQuestion& q : lab.questions) {
    if (q.kind == Kind::Word) {
      answers = with_answer(answers, q.id, values.word(q.rule["expect"]));
    } else if (q.kind == Kind::Number && q.rule["unit"].dump().find("hexa") == std::string::npos) {
      answers = with_answer(answers, q.id, fmt::format("{:.6g}", values.number(q.rule["expect"])));
    }
  }
  put(lab.folder / "solution/answers.txt", answers);
}

/// Fails on that question and no other; what the grader says of it.
std::string fails_on(const fs::path& dir, const std::string& id, const Lab& lab,
                     LabValues& values) {
  const LabGrade grade = grade_lab(dir, "", lab, values);
  std::string said;
  for (std::size_t i = 0; i < grade.marks.size(); ++i) {
    const LabQuestion& q = grade.lab.questions[i];
    CAPTURE(q.id);
    CAPTURE(grade.marks[i].said);
    CHECK((grade.marks[i].status == Status::Passed) == (q.id != id));
    if (q.id == id) said = grade.marks[i].said;
  }
  return said;
}

/// A wrong edit of a file of the solution, and the question that it must fail on.
struct WrongEdit {
  const char *lab, *file, *right, *wrong, *question, *says;
};
constexpr WrongEdit kWrongEdits[] = {
    {"four-steps", "tables.json", R"(["0x103018", "0x205007", 1, 0],)",
     R"(["0x103018", "0x205003", 1, 0],)", "same-table", "error code 0x5 (P U)"},
    {"four-steps", "tables.json", R"(["0x104000", "0x105007", 1, 0],)",
     R"(["0x104000", "0x105005", 1, 0],)", "new-branch", "error code 0x7 (P W U)"},
    {"four-steps", "tables.json", R"("0x206007")", R"("0x20600007")", "new-branch",
     "beyond its memory"},
    {"four-steps", "tables.json", R"("0x600087")", R"("0x600007")", "large-page",
     "error code 0x6 (W U); it should reach 0x600000"},
    {"four-steps", "tables.json", R"("0x100800")", R"("0x100ff8")", "kernel-half",
     "error code 0x2 (W)"},
    {"four-steps", "tables.json", R"(["0x103028", "0x8000000000208007")",
     R"(["0x103028", "0x208007")", "no-execute", "x of 0x405000: the access was done"},
    {"the-shadow", "sync.json", R"(["w", 0, "0x23038", "0x1207067"])", R"(["r", 0, "0x23038"])",
     "leave-unsync", "the word at 0x23038 is 0x1007067; it should be 0x1207067"},
    {"the-shadow", "sync.json", R"(["w", 0, "0x23020", "0x1204067"])",
     R"(["cr3", 0, "0x20000"], ["w", 0, "0x23020", "0x1204067"])", "leave-unsync",
     "exits_page_fault = 2, which is too much"},
    {"the-shadow", "sync.json", R"(["cr3", 0, "0x20000"], )", R"(["invlpg", 0, "0x200000"], )",
     "sync-again", "mmu_unsync = 1, which is too much"},
};

}  // namespace

TEST_CASE("lab: every lab is whole") {
  const std::vector<Lab> labs = all_labs();
  unsigned number = 0;
  for (const Lab& lab : labs) {
    CAPTURE(lab.name);
    CHECK(lab.number > number);
    number = lab.number;
    CHECK(lab.minutes >= 60);
    CHECK(lab.minutes <= 120);
    CHECK(lab.questions.size() >= 6);
    CHECK(fs::exists(lab.folder / "notes.md"));
    for (const char* name : {"handout.md", "handout.zh.md"}) {
      if (lab.number > 3 && std::string(name) == "handout.zh.md") continue;
      const std::string handout = text_of(lab.folder / name);
      CHECK(handout.find("](../glossary.md)") != handout.npos);
      for (const LabQuestion& q : lab.questions) {
        CAPTURE(q.id);
        CHECK(handout.find("**" + q.id + "**") != handout.npos);
        CHECK(!q.where.empty());
      }
    }
  }
}

TEST_CASE("lab: the untouched start fails with useful words, and every solution passes") {
  for (const Lab& lab : all_labs()) {
    if (compiles(lab)) continue;  // a slow case of its own
    CAPTURE(lab.name);
    Folder folder(lab.name);
    const std::vector<std::string> names = start_lab(lab, folder.path);
    for (const char* name : {"answers.txt", "handout.md", "glossary.md"}) {
      CHECK(std::find(names.begin(), names.end(), name) != names.end());
    }
    CHECK(std::find(names.begin(), names.end(), "notes.md") == names.end());
    CHECK(text_of(folder.path / "handout.md").find("](glossary.md)") != std::string::npos);

    const LabGrade untouched = grade_lab(folder.path, "");
    const std::string text = grade_text(untouched);
    CHECK(untouched.passed() == 0);
    for (std::size_t i = 0; i < untouched.marks.size(); ++i) {
      const LabQuestion& q = lab.questions[i];
      CAPTURE(q.id);
      CHECK(text.find("expected: " + q.expected() + ": " + q.text + "\n    look: " + q.where) !=
            text.npos);
      CHECK(untouched.marks[i].said.empty() == q.in_answers());
      CHECK((untouched.marks[i].status == Status::Unanswered) == q.in_answers());
    }
    CHECK(text.find(fmt::format("{}: 0 of {} passed\n", lab.title, lab.questions.size())) !=
          text.npos);

    if (std::getenv("MMUSCOPE_UPDATE") != nullptr) update_solution(lab);
    fs::remove_all(folder.path);
    lay_out_solution(lab, folder.path);
    const LabGrade solved = grade_lab(folder.path, "");
    INFO(grade_text(solved));
    CHECK(solved.all_passed());
  }
}

TEST_CASE("lab: typical wrong answers fail on the right question") {
  for (const Lab& lab : all_labs()) {
    if (compiles(lab)) continue;
    CAPTURE(lab.name);
    Folder folder(lab.name + "_wrong");
    lay_out_solution(lab, folder.path);
    LabValues values(lab.folder / "start");
    unsigned tried = 0;
    const std::string answers = text_of(folder.path / "answers.txt");
    for (const LabQuestion& q : lab.questions) {
      for (const auto& mistake : q.rule.value("mistakes", nlohmann::json::array())) {
        CAPTURE(q.id);
        const nlohmann::json& answer = mistake.at("answer");
        const std::string given = answer.is_string() ? answer.get<std::string>()
                                                     : fmt::format("{}", values.number(answer));
        CAPTURE(given);
        put(folder.path / "answers.txt", with_answer(answers, q.id, given));
        const std::string said = fails_on(folder.path, q.id, lab, values);
        CAPTURE(said);
        CHECK(said.find(mistake.at("say").get<std::string>()) != said.npos);
        ++tried;
      }
    }
    put(folder.path / "answers.txt", answers);
    for (const WrongEdit& edit : kWrongEdits) {
      if (edit.lab != lab.name) continue;
      CAPTURE(edit.question);
      const std::string right = text_of(folder.path / edit.file);
      std::string wrong = right;
      const std::size_t at = wrong.find(edit.right);
      REQUIRE(at != wrong.npos);
      put(folder.path / edit.file, wrong.replace(at, std::string(edit.right).size(), edit.wrong));
      const std::string said = fails_on(folder.path, edit.question, lab, values);
      CAPTURE(said);
      CHECK(said.find(edit.says) != said.npos);
      put(folder.path / edit.file, right);
      ++tried;
    }
    CHECK(tried >= 3);
  }
}

TEST_CASE("lab: every command of a hand-out runs where the lab is laid out") {
  unsigned commands = 0;
  for (const Lab& lab : all_labs()) {
    if (compiles(lab)) continue;
    Folder folder(lab.name + "_run");
    (void)start_lab(lab, folder.path);
    const std::vector<std::string> of_lab = commands_of(folder.path / "handout.md");
    if (fs::exists(folder.path / "handout.zh.md")) {
      CHECK(commands_of(folder.path / "handout.zh.md") == of_lab);
    }
    for (const std::string& arguments : of_lab) {
      const Ran ran =
          shell(fmt::format("cd '{}' && \"$mmuscope\" {}", folder.path.string(), arguments));
      CAPTURE(lab.name);
      CAPTURE(arguments);
      CAPTURE(ran.err);
      // What checks a file says that the untouched one is not yet as it should be.
      const bool checks = arguments.find("check") != arguments.npos;
      CHECK(ran.err.empty());
      CHECK(ran.status <= (checks ? 1 : 0));
      ++commands;
    }
  }
  CHECK(commands > 0);
}

TEST_CASE("lab: the command, its statuses and its JSON") {
  Folder folder("command");
  const std::string dir = folder.path.string();
  const Ran list = shell("\"$mmuscope\" lab list");
  CHECK(list.status == 0);
  for (const Lab& lab : all_labs()) CHECK(list.out.find(lab.name) != std::string::npos);
  CHECK(shell("\"$mmuscope\" lab start four-steps " + dir).status == 0);
  const Ran check = shell("\"$mmuscope\" lab check --json " + dir);
  CHECK(check.status == 1);
  const auto j = nlohmann::json::parse(check.out);
  CHECK(j.at("lab") == "four-steps");
  CHECK(j.at("passed") == 0);
  CHECK(j.at("total") == j.at("questions").size());
  CHECK(j.at("questions").at(0).at("id") == "same-table");
  CHECK(j.at("questions").at(0).at("status") == "failed");
  lay_out_solution(find_lab("four-steps"), folder.path / "solved");
  CHECK(shell("\"$mmuscope\" lab check " + dir + "/solved").status == 0);
}

TEST_CASE("lab: bad input is refused in one clear line") {
  Folder folder("bad");
  const auto says = [&](const std::string& arguments, const std::string& words) {
    const Ran ran =
        shell(fmt::format("cd '{}' && \"$mmuscope\" lab {}", folder.path.string(), arguments));
    CAPTURE(arguments);
    CAPTURE(ran.err);
    CHECK(ran.status == 2);
    CHECK(ran.out.empty());
    CHECK(ran.err.find(words) != std::string::npos);
    CHECK(std::count(ran.err.begin(), ran.err.end(), '\n') == 1);
  };
  fs::create_directories(folder.path);
  (void)start_lab(find_lab("four-steps"), folder.path / "a");
  const std::string answers = text_of(folder.path / "a/answers.txt");
  says("", "usage: mmuscope lab list | start NAME DIR | check DIR");
  says("strat", "did you mean 'start'?");
  says("start four-step b", "did you mean 'four-steps'?");
  says("start four-steps a", "a: is there and not empty");
  says("check b", "b/answers.txt: is not there");
  const auto answered = [&](const std::string& text, const std::string& words) {
    put(folder.path / "a/answers.txt", text);
    says("check a", words);
  };
  answered(answers + "refs-4 = 3\n", "did you mean 'refs-4k'?");
  answered(answers + "refs-4k = 3\n", "a second answer to 'refs-4k'");
  answered(answers + "well then\n", "no '=' in the line");
  answered("refs-4k = 4\n", "the line 'lab = NAME' is missing");
}

TEST_CASE("lab: what cannot be read fails its own question, and the others are graded") {
  const auto said_of = [](const Lab& lab, const fs::path& dir, const std::string& id) {
    LabValues values(lab.folder / "start");
    return fails_on(dir, id, lab, values);
  };
  const auto answered = [&](const char* name, const std::string& id, const std::string& answer) {
    const Lab lab = find_lab(name);
    Folder folder("unread");
    lay_out_solution(lab, folder.path);
    const std::string answers = text_of(folder.path / "answers.txt");
    put(folder.path / "answers.txt", with_answer(answers, id, answer));
    return said_of(lab, folder.path, id);
  };
  const auto has = [](const std::string& said, const char* words) {
    CAPTURE(said);
    CHECK(said.find(words) != said.npos);
  };
  has(answered("four-steps", "refs-4k", "four"), "that is no number; valid: as 4711");
  has(answered("memory", "bookkeeping", "31,661 bytes"), "without a unit");
  has(answered("memory", "who-cares", "Memory"), "did you mean 'memory'?");
  has(answered("memory", "small-nested", "page=2m"), "machine: unknown key 'page'; valid: backing");
  const std::string slow = answered("keeping-in-step", "better-lock", "lock=rw");
  has(slow, "with it cycles_elapsed is ");
  CHECK(std::count(slow.begin(), slow.end(), ',') >= 2);  // 8,541,613, which is
  CHECK(slow.find("e+") == slow.npos);
  has(answered("keeping-in-step", "better-lock", "schedule=time"), "is given twice");
  has(answered("moving-house", "calm", "migrate:bytes=16m,accesses=20000,rounds=4,memory=1m"),
      "too small");

  const Lab lab = find_lab("tags");
  Folder folder("unread");
  lay_out_solution(lab, folder.path);
  put(folder.path / "global.json", "{\"cr3\": \"0x10\"");
  has(said_of(lab, folder.path, "global"), "global.json: not JSON: at line 1");
  fs::remove(folder.path / "global.json");
  has(said_of(lab, folder.path, "global"), "global.json");
}

TEST_CASE("slow: lab: a pager of one's own against an installed prefix, right and wrong") {
  struct Wrong {
    const char *right, *wrong, *question, *says;
  };
  // Of page_fault(), write_cr3() and invalidate() in this order; a text that stands several times
  // is changed where it stands first.
  constexpr Wrong kWrongs[] = {
      {"++v.counters[Event::Invlpg];\n    forget_all(v);", "++v.counters[Event::Invlpg];",
       "scripts", "under own: step "},
      {"if (!dirty) granted &= ~unsigned{rights::kWrite};", "(void)dirty;", "scripts",
       "under own: "},
      {"v.set_cr3(value & ~(u64{1} << 63));\n    forget_all(v);",
       "v.set_cr3(value & ~(u64{1} << 63));\n    v.flush_space();", "scripts", "under own: step "},
      {"return Resume::reflect({GuestFault::Kind::PageFault, guest.error_code, exit.gva});",
       "return Resume::reflect({GuestFault::Kind::PageFault, exit.error_code, exit.gva});",
       "scripts", "permitted: #PF"},
      {"forget_all(v);", "forget_all(v)", "builds", "error: expected"},
  };
  Folder folder("own_pager");
  const std::string dir = (folder.path / "lab").string();
  const std::string program = (folder.path / "prefix/bin/mmuscope").string();
  const Ran installed = shell(fmt::format("cmake --install '{}' --prefix '{}'", build_dir(),
                                          (folder.path / "prefix").string()));
  REQUIRE(installed.status == 0);
  // The installed program alone: from the root, where no folder of the project can be mistaken for
  // its data.
  const auto check = [&] {
    const Ran ran = shell(fmt::format("cd / && '{}' lab check --json '{}'", program, dir));
    INFO(ran.err);
    REQUIRE(ran.status <= 1);
    return nlohmann::json::parse(ran.out);
  };
  const auto mark = [](const nlohmann::json& grade, const std::string& id) {
    for (const auto& q : grade.at("questions")) {
      if (q.at("id") == id) return q;
    }
    return nlohmann::json();
  };
  REQUIRE(shell(fmt::format("cd / && '{}' lab start own-pager '{}'", program, dir)).status == 0);
  const Ran nowhere = shell(fmt::format("cd / && '{}' lab check '{}' --prefix /", program, dir));
  CHECK(nowhere.status == 2);
  CHECK(nowhere.err.find("is the package mmuscope (mmuscope-dev) in /?") != std::string::npos);
  CHECK(std::count(nowhere.err.begin(), nowhere.err.end(), '\n') == 1);
  const nlohmann::json untouched = check();
  CHECK(untouched.at("passed") == 1);  // it compiles
  CHECK(mark(untouched, "scripts")
            .at("said")
            .get<std::string>()
            .find(": access 1, vCPU 1: a supervisor write") != std::string::npos);

  const fs::path solution = find_lab("own-pager").folder / "solution";
  for (const char* file : {"answers.txt", "own_pager.cpp"}) {
    fs::copy(solution / file, fs::path(dir) / file, fs::copy_options::overwrite_existing);
  }
  const nlohmann::json solved = check();
  INFO(solved.dump(1));
  CHECK(solved.at("passed") == solved.at("total"));
  CHECK(solved.at("table").get<std::string>().find("shadow-unsync") != std::string::npos);
  const std::string right = text_of(solution / "own_pager.cpp");
  for (const Wrong& w : kWrongs) {
    std::string wrong = right;
    const std::size_t at = wrong.find(w.right);
    REQUIRE(at != wrong.npos);
    put(fs::path(dir) / "own_pager.cpp", wrong.replace(at, std::string(w.right).size(), w.wrong));
    const nlohmann::json grade = check();
    const std::string said = mark(grade, w.question).at("said").get<std::string>();
    MESSAGE(said);
    CHECK(mark(grade, w.question).at("status") == "failed");
    CHECK(said.find(w.says) != said.npos);
    if (std::string(w.question) != "builds") CHECK(mark(grade, "builds").at("status") == "passed");
  }
}
