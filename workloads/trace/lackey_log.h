#pragma once

#include <array>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "workloads/trace/format.h"

namespace mmuscope {

/// Lines of a text file, read as a stream. A line longer than kMaxLine is cut to that length.
class LineReader {
 public:
  static constexpr std::size_t kMaxLine = std::size_t{1} << 16;

  /// Throws InputError if the file cannot be opened.
  explicit LineReader(const std::filesystem::path& path);
  ~LineReader();
  LineReader(LineReader&&) noexcept;

  /// The next line without its end, valid until the next call; false at the end of the file.
  bool next(std::string_view& line);
  u64 number() const { return number_; }           ///< of the last line, from 1
  bool terminated() const { return terminated_; }  ///< the last line ended in a newline

 private:
  bool refill();

  struct CloseFile {
    void operator()(std::FILE* f) const { std::fclose(f); }
  };
  std::unique_ptr<std::FILE, CloseFile> file_;
  std::vector<char> buffer_;
  std::size_t at_ = 0;
  std::size_t end_ = 0;
  u64 number_ = 0;
  bool terminated_ = true;
};

// Linux's numbers of the system calls on amd64 that matter here.
namespace linux_call {
inline constexpr u32 kOpen = 2, kMmap = 9, kMprotect = 10, kMunmap = 11, kBrk = 12, kMremap = 25,
                     kClone = 56, kFork = 57, kVfork = 58, kExit = 60, kWait4 = 61,
                     kExitGroup = 231, kWaitid = 247, kOpenat = 257;
}  // namespace linux_call

/// One system call as valgrind logs it on amd64, by its Linux number. An open that takes its time
/// is reported once, when it has returned.
struct LackeyCall {
  u32 number = 0;
  unsigned args_given = 0;
  std::array<u64, 6> args{};
  bool succeeded = false;  ///< it has a result, and that is no error
  u64 result = 0;
  u32 child = 0;     ///< pid of the process that it made, 0: none
  std::string path;  ///< open, openat: of the file; at most kMaxNameBytes
};

/// A log of one process: `valgrind --tool=lackey --trace-mem=yes --trace-syscalls=yes`, one file a
/// process. Streams the accesses and the calls in their order. Every line that is not as valgrind
/// writes it throws InputError with file and line; a last line without its end, which a killed
/// recorder leaves, is dropped.
class LackeyLog {
 public:
  enum class Event { End, Access, Call };

  explicit LackeyLog(std::filesystem::path path);

  u32 pid() const { return pid_; }
  u32 parent() const { return parent_; }
  const std::string& command() const { return command_; }
  const std::string& recorder() const { return recorder_; }
  /// The log goes on where a fork returned in the child; else it begins with a program's start.
  bool continues_fork() const { return continues_fork_; }

  Event next();
  const Record& access() const { return access_; }
  const LackeyCall& call() const { return call_; }

  /// A last line without its end was dropped.
  bool cut_short() const { return cut_short_; }
  [[noreturn]] void fail(const std::string& what) const;

 private:
  bool next_line(std::string_view& line);
  void read_header();
  bool parse_access(std::string_view line);
  bool parse_call(std::string text);
  void parse_arguments(std::string_view text);
  void join_result(std::string& text);

  std::filesystem::path path_;
  LineReader lines_;
  std::string held_;  ///< a line that was read ahead
  bool holds_ = false;
  u32 pid_ = 0;
  u32 parent_ = 0;
  std::string command_;
  std::string recorder_;
  bool continues_fork_ = false;
  bool cut_short_ = false;
  Record access_;
  LackeyCall call_;
  u64 opening_thread_ = 0;  ///< whose open has not returned yet
  std::string opening_;     ///< and what it opens
};

}  // namespace mmuscope
