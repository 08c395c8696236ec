#pragma once

#include "results/labs/lab.h"
#include "results/labs/values.h"

namespace mmuscope {

/// What a student made of one question.
struct LabMark {
  enum class Status { Passed, Failed, Unanswered };
  Status status = Status::Unanswered;
  std::string given;  ///< as in answers.txt; of a file its name
  std::string said;   ///< of a failed one: what is wrong with it, if that can be told
};

struct LabGrade {
  Lab lab;
  std::vector<LabMark> marks;  ///< one for each question
  std::string table;           ///< of a pager of the student's own: its score beside the others
  unsigned passed() const;
  bool all_passed() const { return passed() == marks.size(); }
};

/// Grades the folder that start_lab() laid out. `prefix`: where the package mmuscope is installed
/// that a student's pager is built against; empty: the running program's own. Throws InputError
/// for files that cannot be read as what they are.
LabGrade grade_lab(const std::filesystem::path& dir, const std::string& prefix);
/// The same with the values of the lab at hand, which run nothing twice.
LabGrade grade_lab(const std::filesystem::path& dir, const std::string& prefix, const Lab& lab,
                   LabValues& values);

std::string grade_text(const LabGrade& grade);
std::string grade_json(const LabGrade& grade);

/// What is wrong with a student's scenario (results/labs/edits.cpp says which checks there are);
/// empty: nothing.
std::string wrong_edit(const nlohmann::json& checks, const std::filesystem::path& file);

/// What the grader's program said of a student's pager, by part; empty text: nothing is wrong.
struct PagerVerdict {
  std::string unbuilt;  ///< what the compiler said, if it is no program
  std::vector<std::pair<std::string, std::string>> parts;
  std::string table;
};
/// Builds the pager in `dir` with the lab's driver, in dir/build, and runs it.
PagerVerdict try_pager(const Lab& lab, const std::filesystem::path& dir, const std::string& prefix);

}  // namespace mmuscope
