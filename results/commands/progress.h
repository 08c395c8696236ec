#pragma once

#include <unistd.h>

#include <chrono>
#include <string>

#include "results/suite/engine.h"

namespace mmuscope {

/// Tells on standard error how far the cells of a suite are: on a terminal in one line that
/// changes.
class Progress {
 public:
  /// What it does where standard error is no terminal: a line for each cell, or nothing.
  enum class Log : u8 { Lines, Nothing };
  explicit Progress(Log log) : log_(log) {}

  void operator()(const SuiteProgress& p);
  /// Takes the line off the terminal.
  void clear();

 private:
  std::string pace_of(const SuiteProgress& p) const;

  Log log_;
  bool terminal_ = isatty(STDERR_FILENO) == 1;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace mmuscope
