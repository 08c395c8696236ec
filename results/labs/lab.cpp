#include "results/labs/lab.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/params.h"
#include "results/csv.h"
#include "results/data_file.h"

namespace mmuscope {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr std::size_t kMaxFileBytes = std::size_t{1} << 20;
constexpr std::string_view kKinds[] = {"number", "word", "setting", "scenario", "pager"};

LabQuestion read_question(const Json& j) {
  LabQuestion q;
  q.id = j.at("id").get<std::string>();
  const auto kind = j.at("kind").get<std::string>();
  const auto* at = std::find(std::begin(kKinds), std::end(kKinds), kind);
  if (at == std::end(kKinds)) throw InputError(unknown_word("kind", kind, kKinds));
  q.kind = static_cast<LabQuestion::Kind>(at - std::begin(kKinds));
  q.text = j.at("text").get<std::string>();
  q.where = j.at("where").get<std::string>();
  q.rule = j;
  return q;
}

Lab read_lab(const fs::path& folder) {
  const fs::path file = folder / "lab.json";
  try {
    const Json j = Json::parse(read_file(file, kMaxFileBytes));
    Lab lab;
    lab.number = j.at("number").get<unsigned>();
    lab.name = folder.filename().string();
    lab.title = j.at("title").get<std::string>();
    lab.aim = j.at("aim").get<std::string>();
    lab.minutes = j.at("minutes").get<unsigned>();
    lab.folder = folder;
    for (const Json& q : j.at("questions")) lab.questions.push_back(read_question(q));
    return lab;
  } catch (const Json::exception& e) {
    throw InputError(fmt::format("{}: {}", file.string(), e.what()));
  }
}

/// Text in lines of at most 98 characters, each after "# ".
std::string comment(const std::string& text) {
  std::string lines, line;
  std::size_t at = 0;
  while (at < text.size()) {
    const std::size_t end = std::min(text.find(' ', at), text.size());
    if (line.size() + (end - at) > 96) {
      lines += "#" + line + "\n";
      line.clear();
    }
    line += " " + text.substr(at, end - at);
    at = end + 1;
  }
  return lines + "#" + line + "\n";
}

std::string blank_answers(const Lab& lab) {
  std::string text = fmt::format(
      "# Answers to the lab {}. Write each behind its = and run `mmuscope lab check` on this "
      "folder.\n"
      "# Lines that begin with # are comments. Numbers as 4711, 4,711, 0x1267 or 47.11.\n"
      "lab = {}\n",
      lab.title, lab.name);
  for (const LabQuestion& q : lab.questions) {
    if (!q.in_answers()) continue;
    text += "\n" + comment(q.text) + comment("Expected: " + q.expected() + ".") + q.id + " =\n";
  }
  return text;
}

/// Hand-outs link to what stands beside their lab's folder; a student has it in the same one.
std::string for_student(std::string text) {
  const std::string up = "](../";
  for (std::size_t at; (at = text.find(up)) != text.npos;) text.replace(at, up.size(), "](");
  return text;
}

bool is_for_students(const fs::path& file) {
  const std::string name = file.filename().string();
  return name.compare(0, 7, "handout") == 0 || file.extension() == ".svg";
}

}  // namespace

std::string LabQuestion::expected() const {
  switch (kind) {
    case Kind::Number: {
      const double tolerance = rule.value("tolerance", 0.0);
      return fmt::format("{} ({}){}", tolerance == 0 ? "a whole number" : "a number",
                         rule.at("unit").get<std::string>(),
                         tolerance == 0 ? "" : fmt::format(", within {:g} %", 100 * tolerance));
    }
    case Kind::Word:
      return fmt::format("one of {}",
                         fmt::join(rule.at("choices").get<std::vector<std::string>>(), ", "));
    case Kind::Setting: {
      const std::string option = rule.at("option").get<std::string>();
      return fmt::format("{}, as --{} takes it",
                         option == "set" ? "key=value of the machine" : "a SPEC", option);
    }
    case Kind::Scenario:
      return fmt::format("an edit of {}", rule.at("file").get<std::string>());
    case Kind::Pager:
      return "an edit of your pager";
  }
  return {};
}

std::vector<Lab> all_labs() {
  const fs::path folder = find_data_file("results/labs");
  std::vector<Lab> labs;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (fs::exists(entry.path() / "lab.json")) labs.push_back(read_lab(entry.path()));
  }
  if (labs.empty()) {
    throw InputError(
        "no labs: the folder results/labs is neither beside this program's folder, "
        "nor in share/mmuscope, nor here");
  }
  std::sort(labs.begin(), labs.end(),
            [](const Lab& a, const Lab& b) { return a.number < b.number; });
  return labs;
}

Lab find_lab(const std::string& name) {
  std::vector<Lab> labs = all_labs();
  std::vector<std::string_view> names;
  for (const Lab& lab : labs) names.push_back(lab.name);
  for (Lab& lab : labs) {
    if (lab.name == name) return std::move(lab);
  }
  throw InputError(unknown_word("lab", name, names));
}

std::vector<std::string> start_lab(const Lab& lab, const fs::path& dir) {
  std::error_code error;
  if (fs::exists(dir, error) && !fs::is_empty(dir, error)) {
    throw InputError(
        fmt::format("{}: is there and not empty; valid: a new or an empty folder, "
                    "nothing is written over",
                    dir.string()));
  }
  fs::create_directories(dir, error);
  if (error) throw InputError(fmt::format("{}: {}", dir.string(), error.message()));
  std::vector<std::string> names;
  const auto lay_out = [&](const fs::path& from) {
    names.push_back(from.filename().string());
    const std::string text = read_file(from, kMaxFileBytes);
    write_file((dir / from.filename()).string(),
               from.extension() == ".md" ? for_student(text) : text);
  };
  for (const auto& entry : fs::directory_iterator(lab.folder)) {
    if (is_for_students(entry.path())) lay_out(entry.path());
  }
  for (const auto& entry : fs::directory_iterator(lab.folder / "start", error)) {
    lay_out(entry.path());
  }
  lay_out(lab.folder.parent_path() / "glossary.md");
  write_file((dir / "answers.txt").string(), blank_answers(lab));
  names.push_back("answers.txt");
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace mmuscope
