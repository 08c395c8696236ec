#include "results/labs/grade.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <optional>

#include "core/error.h"
#include "core/params.h"
#include "results/csv.h"
#include "results/tables.h"

namespace mmuscope {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using Status = LabMark::Status;

constexpr const char* kAnswersFile = "answers.txt";
constexpr std::size_t kMaxAnswers = std::size_t{1} << 20;

// --- answers.txt ---------------------------------------------------------------------------------

struct Answer {
  std::string text;
  std::string place;  ///< file and line
};
using Answers = std::map<std::string, Answer>;

std::string trimmed(std::string_view text) {
  const std::size_t first = text.find_first_not_of(" \t\r");
  if (first == text.npos) return {};
  return std::string(text.substr(first, text.find_last_not_of(" \t\r") - first + 1));
}

Answers read_answers(const fs::path& file) {
  const std::string text = read_file(file, kMaxAnswers);
  Answers answers;
  std::size_t number = 0, at = 0;
  while (at < text.size()) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    const std::string line = trimmed(std::string_view(text).substr(at, end - at));
    at = end + 1;
    const std::string place = fmt::format("{}:{}", file.string(), ++number);
    if (line.empty() || line[0] == '#') continue;
    const std::size_t equals = line.find('=');
    if (equals == line.npos) {
      throw InputError(place + ": no '=' in the line; valid: question = answer, or # comment");
    }
    const std::string key = trimmed(std::string_view(line).substr(0, equals));
    const bool fresh =
        answers.emplace(key, Answer{trimmed(std::string_view(line).substr(equals + 1)), place})
            .second;
    if (!fresh)
      throw InputError(fmt::format("{}: a second answer to '{}'; valid: one", place, key));
  }
  return answers;
}

void refuse_unknown(const Lab& lab, const Answers& answers) {
  std::vector<std::string_view> valid = {"lab"};
  for (const LabQuestion& q : lab.questions) {
    if (q.in_answers()) valid.push_back(q.id);
  }
  for (const auto& [key, answer] : answers) {
    if (std::find(valid.begin(), valid.end(), key) != valid.end()) continue;
    throw InputError(answer.place + ": " + unknown_word("question", key, valid));
  }
}

/// Of the lab that the folder was laid out for.
std::string name_in(const fs::path& dir) {
  const fs::path file = dir / kAnswersFile;
  if (!fs::exists(file)) {
    throw InputError(
        fmt::format("{}: is not there; valid: a folder that `mmuscope lab start` "
                    "laid out",
                    file.string()));
  }
  const Answers answers = read_answers(file);
  const auto name = answers.find("lab");
  if (name == answers.end()) {
    throw InputError(file.string() +
                     ": the line 'lab = NAME' is missing; valid: as `mmuscope lab "
                     "start` wrote it");
  }
  return name->second.text;
}

/// 4711, 4,711, 0x1267 or 47.11; nothing else.
std::optional<double> number_of(std::string text) {
  text.erase(std::remove(text.begin(), text.end(), ','), text.end());
  const char* end = text.data() + text.size();
  if (text.compare(0, 2, "0x") == 0) {
    u64 value = 0;
    const auto [at, error] = std::from_chars(text.data() + 2, end, value, 16);
    if (error == std::errc() && at == end) return static_cast<double>(value);
  } else {
    double value = 0;
    const auto [at, error] = std::from_chars(text.data(), end, value);
    if (error == std::errc() && at == end && std::isfinite(value)) return value;
  }
  return {};
}

// --- grading -------------------------------------------------------------------------------------

bool is_close(double given, double due, double tolerance) {
  return std::abs(given - due) <= std::max(tolerance, 1e-9) * std::abs(due);
}

/// What the lab has to say of this wrong answer, if it is one that many give.
template <class Is>
std::string known_mistake(const LabQuestion& q, Is&& is) {
  if (const auto it = q.rule.find("mistakes"); it != q.rule.end()) {
    for (const Json& mistake : *it) {
      if (is(mistake.at("answer"))) return mistake.at("say").get<std::string>();
    }
  }
  return {};
}

LabMark mark_number(const LabQuestion& q, const std::string& answer, LabValues& values) {
  const std::optional<double> given = number_of(answer);
  if (!given) {
    return {Status::Failed, "",
            "that is no number; valid: as 4711, 4,711, 0x1267 or 47.11, without a unit"};
  }
  const double tolerance = q.rule.value("tolerance", 0.0);
  if (is_close(*given, values.number(q.rule.at("expect")), tolerance))
    return {Status::Passed, "", ""};
  return {Status::Failed, "", known_mistake(q, [&](const Json& wrong) {
            return is_close(*given, values.number(wrong), tolerance);
          })};
}

LabMark mark_word(const LabQuestion& q, const std::string& answer, LabValues& values) {
  const auto choices = q.rule.at("choices").get<std::vector<std::string>>();
  if (std::find(choices.begin(), choices.end(), answer) == choices.end()) {
    const std::vector<std::string_view> valid(choices.begin(), choices.end());
    return {Status::Failed, "", unknown_word("answer", answer, valid)};
  }
  if (answer == values.word(q.rule.at("expect"))) return {Status::Passed, "", ""};
  return {Status::Failed, "", known_mistake(q, [&](const Json& wrong) { return wrong == answer; })};
}

/// What is wrong with the form of a setting: how it must begin, and of a SPEC that is one number
/// after that between which it must be ("range").
std::string wrong_form(const Json& rule, const std::string& answer) {
  const std::string begins = rule.value("begins", "");
  if (answer.compare(0, begins.size(), begins) != 0) {
    return fmt::format("it does not begin with {}", begins);
  }
  if (!rule.contains("range")) return {};
  const double from = rule["range"].at(0).get<double>(), to = rule["range"].at(1).get<double>();
  const std::optional<double> given = number_of(answer.substr(begins.size()));
  if (given && *given >= from && *given <= to) return {};
  return fmt::format("after {} there must be a number from {:g} to {:g}", begins, from, to);
}

/// 12,288 or 1.25.
std::string figure_text(double value) {
  const bool whole = value >= 0 && value < 1e15 && value == std::floor(value);
  return whole ? thousands(static_cast<u64>(value)) : fmt::format("{:g}", value);
}

LabMark mark_setting(const LabQuestion& q, const std::string& answer, LabValues& values) {
  const std::string option = q.rule.at("option").get<std::string>();
  if (std::string wrong = wrong_form(q.rule, answer); !wrong.empty()) {
    return {Status::Failed, "", std::move(wrong)};
  }
  Json asked = q.rule.at("of");
  if (option == "set") {
    asked["set"].push_back(answer);
  } else {
    asked[option] = answer;
  }
  double is = 0;
  try {
    is = values.number(asked);
  } catch (const InputError& e) {
    return {Status::Failed, "", e.what()};
  }
  const std::string got = fmt::format(
      "with it {} is {}", asked.value("column", asked.value("count", "it")), figure_text(is));
  if (q.rule.contains("at_most") && is > values.number(q.rule["at_most"])) {
    return {Status::Failed, "", got + ", which is too much"};
  }
  if (q.rule.contains("at_least") && is < values.number(q.rule["at_least"])) {
    return {Status::Failed, "", got + ", which is too little"};
  }
  return {Status::Passed, "", ""};
}

LabMark mark_answer(const LabQuestion& q, const Answers& answers, LabValues& values) {
  const auto at = answers.find(q.id);
  if (at == answers.end() || at->second.text.empty()) return {};
  LabMark mark;
  if (q.kind == LabQuestion::Kind::Number) mark = mark_number(q, at->second.text, values);
  if (q.kind == LabQuestion::Kind::Word) mark = mark_word(q, at->second.text, values);
  if (q.kind == LabQuestion::Kind::Setting) mark = mark_setting(q, at->second.text, values);
  mark.given = at->second.text;
  return mark;
}

LabMark mark_edit(const LabQuestion& q, const fs::path& dir) {
  const std::string file = q.rule.at("file").get<std::string>();
  const std::string wrong = wrong_edit(q.rule.at("checks"), dir / file);
  return {wrong.empty() ? Status::Passed : Status::Failed, file, wrong};
}

LabMark mark_pager(const LabQuestion& q, const PagerVerdict& verdict) {
  const std::string part = q.rule.at("part").get<std::string>();
  if (part == "builds") {
    return {verdict.unbuilt.empty() ? Status::Passed : Status::Failed, "", verdict.unbuilt};
  }
  for (const auto& [name, wrong] : verdict.parts) {
    if (name == part) return {wrong.empty() ? Status::Passed : Status::Failed, "", wrong};
  }
  return {Status::Failed, "", "not tried, as what comes before failed"};
}

std::string_view name_of(Status s) {
  switch (s) {
    case Status::Passed:
      return "passed";
    case Status::Failed:
      return "failed";
    case Status::Unanswered:
      return "unanswered";
  }
  return {};
}

}  // namespace

unsigned LabGrade::passed() const {
  return static_cast<unsigned>(std::count_if(
      marks.begin(), marks.end(), [](const LabMark& m) { return m.status == Status::Passed; }));
}

LabGrade grade_lab(const fs::path& dir, const std::string& prefix) {
  const Lab lab = find_lab(name_in(dir));
  LabValues values(lab.folder / "start");
  return grade_lab(dir, prefix, lab, values);
}

LabGrade grade_lab(const fs::path& dir, const std::string& prefix, const Lab& lab,
                   LabValues& values) {
  const Answers answers = read_answers(dir / kAnswersFile);
  refuse_unknown(lab, answers);
  LabGrade grade{lab, {}, {}};
  std::optional<PagerVerdict> verdict;
  for (const LabQuestion& q : lab.questions) {
    try {
      if (q.kind == LabQuestion::Kind::Pager && !verdict) verdict = try_pager(lab, dir, prefix);
      grade.marks.push_back(q.kind == LabQuestion::Kind::Pager ? mark_pager(q, *verdict)
                            : q.kind == LabQuestion::Kind::Scenario
                                ? mark_edit(q, dir)
                                : mark_answer(q, answers, values));
    } catch (const Json::exception& e) {
      throw InputError(
          fmt::format("{}: {}: {}", (lab.folder / "lab.json").string(), q.id, e.what()));
    }
  }
  if (verdict) grade.table = verdict->table;
  return grade;
}

std::string grade_text(const LabGrade& grade) {
  std::string text;
  for (std::size_t i = 0; i < grade.marks.size(); ++i) {
    const LabQuestion& q = grade.lab.questions[i];
    const LabMark& mark = grade.marks[i];
    text += fmt::format("{:<10}  {}\n", name_of(mark.status), q.id);
    if (mark.status == Status::Passed) continue;
    if (!mark.given.empty() && q.in_answers()) text += fmt::format("    given: {}\n", mark.given);
    if (!mark.said.empty()) text += fmt::format("    {}\n", mark.said);
    text += fmt::format("    expected: {}: {}\n    look: {}\n", q.expected(), q.text, q.where);
  }
  if (!grade.table.empty()) text += "\n" + grade.table + "\n";
  return text +
         fmt::format("{}: {} of {} passed\n", grade.lab.title, grade.passed(), grade.marks.size());
}

std::string grade_json(const LabGrade& grade) {
  using Ordered = nlohmann::ordered_json;
  Ordered j;
  j["lab"] = grade.lab.name;
  j["title"] = grade.lab.title;
  j["passed"] = grade.passed();
  j["total"] = grade.marks.size();
  j["questions"] = Ordered::array();
  for (std::size_t i = 0; i < grade.marks.size(); ++i) {
    const LabQuestion& q = grade.lab.questions[i];
    const LabMark& mark = grade.marks[i];
    Ordered one = {{"id", q.id},        {"status", name_of(mark.status)},
                   {"text", q.text},    {"given", mark.given},
                   {"said", mark.said}, {"expected", q.expected()},
                   {"where", q.where}};
    j["questions"].push_back(std::move(one));
  }
  if (!grade.table.empty()) j["table"] = grade.table;
  return j.dump(-1, ' ', false, Ordered::error_handler_t::replace);
}

}  // namespace mmuscope
