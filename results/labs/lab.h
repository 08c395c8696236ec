#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace mmuscope {

/// Something that a lab asks, as the file lab.json of its folder has it.
struct LabQuestion {
  enum class Kind {
    Number,    ///< a number in answers.txt; `rule`: "expect": a value (results/labs/values.h),
               ///< "unit", "tolerance": a share of it, 0 unless given
    Word,      ///< one of "choices" in answers.txt; "expect": {"least"|"most": ...}
    Setting,   ///< "option": pager, workload, cpu or set; "of": a value in which the answer stands
               ///< for it; "at_most", "at_least": values; "begins": how the answer must begin;
               ///< "range": [A, B], between which the number after that must be
    Scenario,  ///< the student's "file"; "checks": a list, see results/labs/edits.cpp
    Pager,     ///< the student's pager; "part": of what the grader's program prints
  };
  std::string id;
  Kind kind = Kind::Number;
  std::string text;   ///< as answers.txt repeats it
  std::string where;  ///< where to look when it fails
  nlohmann::json rule;

  /// What is expected in kind: "a number, in VM exits, within 2 %". Never the answer.
  std::string expected() const;
  /// False: it is asked of a file, not in answers.txt.
  bool in_answers() const { return kind != Kind::Scenario && kind != Kind::Pager; }
};

/// A lab: a folder below results/labs with
///   lab.json      its title, aim, minutes and questions; no answers, only what is to be run
///   handout.md    for students (handout.zh.md: in Chinese), and the figures it shows, *.svg
///   start/        the files that students edit
///   notes.md      for instructors: answers, common mistakes, timing
///   solution/     files that pass, among them answers.txt
struct Lab {
  unsigned number = 0;
  std::string name;  ///< of its folder
  std::string title, aim;
  unsigned minutes = 0;
  std::filesystem::path folder;
  std::vector<LabQuestion> questions;
};

/// All labs, by number. Throws InputError if the installation has none.
std::vector<Lab> all_labs();
/// Throws InputError that lists the valid names and the nearest.
Lab find_lab(const std::string& name);

/// Lays out a lab for a student: hand-outs, figures, glossary, the files to edit, and answers.txt
/// made from the questions. Returns the files' names. Throws InputError if the folder is there and
/// not empty, or cannot be written.
std::vector<std::string> start_lab(const Lab& lab, const std::filesystem::path& dir);

}  // namespace mmuscope
