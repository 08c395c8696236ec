#include "workloads/trace/lackey_log.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstring>

#include "core/error.h"

namespace mmuscope {

namespace {

constexpr std::size_t kChunk = 2 * LineReader::kMaxLine;

bool starts_with(std::string_view text, std::string_view prefix) {
  return text.substr(0, prefix.size()) == prefix;
}

/// Takes a number off the front of text.
bool take(std::string_view& text, u64& value, int base) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc()) return false;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return true;
}

bool take(std::string_view& text, std::string_view literal) {
  if (!starts_with(text, literal)) return false;
  text.remove_prefix(literal.size());
  return true;
}

/// An argument as valgrind prints it: 0x1f, 31, -31, or with a string: 0x1f(/etc).
bool take_argument(std::string_view& text, u64& value) {
  if (take(text, "0x")) return take(text, value, 16);
  const bool negative = take(text, "-");
  if (!take(text, value, 10)) return false;
  if (negative) value = 0 - value;
  return true;
}

std::string excerpt(std::string_view text) {
  std::string out = "'";
  for (const char c : text.substr(0, 60)) {
    out += static_cast<unsigned char>(c) < ' ' || static_cast<unsigned char>(c) > '~' ? '?' : c;
  }
  return out + (text.size() > 60 ? "...'" : "'");
}

/// Lines that valgrind itself says: ==pid==, --pid--, **pid**; and empty ones.
bool is_message(std::string_view line) {
  return line.empty() || starts_with(line, "==") || starts_with(line, "--") ||
         starts_with(line, "**");
}

bool looks_like_access(std::string_view line) {
  return starts_with(line, "I  ") || starts_with(line, " L ") || starts_with(line, " S ") ||
         starts_with(line, " M ");
}

}  // namespace

LineReader::LineReader(const std::filesystem::path& path) : buffer_(kChunk) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(path, ignored)) file_.reset(std::fopen(path.c_str(), "rb"));
  if (!file_) throw InputError(path.string() + ": cannot be read; valid: a readable file");
}

LineReader::~LineReader() = default;
LineReader::LineReader(LineReader&&) noexcept = default;

/// Moves what is left to the front and reads more; false if there is no more, or no room.
bool LineReader::refill() {
  if (at_ > 0) {
    std::memmove(buffer_.data(), buffer_.data() + at_, end_ - at_);
    end_ -= at_;
    at_ = 0;
  }
  if (end_ == buffer_.size()) return false;
  const std::size_t got = std::fread(buffer_.data() + end_, 1, buffer_.size() - end_, file_.get());
  end_ += got;
  return got > 0;
}

bool LineReader::next(std::string_view& line) {
  std::size_t searched = 0;
  for (;;) {
    const char* const start = buffer_.data() + at_;
    const auto* const newline = static_cast<const char*>(
        end_ == at_ ? nullptr : std::memchr(start + searched, '\n', end_ - at_ - searched));
    if (newline) {
      line = {start, std::min(static_cast<std::size_t>(newline - start), kMaxLine)};
      at_ = static_cast<std::size_t>(newline - buffer_.data()) + 1;
      terminated_ = true;
      break;
    }
    searched = end_ - at_;
    if (refill()) continue;
    if (end_ == buffer_.size()) {  // a line longer than the buffer: keep its start only
      end_ = searched = kMaxLine;
      continue;
    }
    if (end_ == at_) return false;
    line = {buffer_.data() + at_, std::min(end_ - at_, kMaxLine)};
    at_ = end_;
    terminated_ = false;
    break;
  }
  ++number_;
  return true;
}

LackeyLog::LackeyLog(std::filesystem::path path) : path_(std::move(path)), lines_(path_) {
  read_header();
}

void LackeyLog::fail(const std::string& what) const {
  throw InputError(path_.string() + ":" + std::to_string(std::max<u64>(lines_.number(), 1)) + ": " +
                   what);
}

bool LackeyLog::next_line(std::string_view& line) {
  if (holds_) {
    holds_ = false;
    line = held_;
    return true;
  }
  if (!lines_.next(line)) return false;
  if (lines_.terminated()) return true;
  cut_short_ = true;
  return false;
}

void LackeyLog::read_header() {
  const std::string valid =
      "; valid: a log of valgrind --tool=lackey --trace-mem=yes --trace-syscalls=yes";
  std::string_view line;
  bool lackey = false;
  while (next_line(line)) {
    std::string_view rest = line;
    u64 pid = 0;
    if (!take(rest, "==") || !take(rest, pid, 10) || !take(rest, "== ")) {
      if (lackey && line.empty()) continue;
      break;
    }
    if (pid_ == 0) pid_ = static_cast<u32>(pid);
    if (starts_with(rest, "Lackey, ")) lackey = true;
    if (take(rest, "Using "))
      recorder_ = "lackey of " + std::string(rest.substr(0, rest.find(' ')));
    if (take(rest, "Command: ")) command_ = rest;
    if (u64 parent = 0; take(rest, "Parent PID: ") && take(rest, parent, 10)) {
      parent_ = static_cast<u32>(parent);
    }
    if (!lackey) break;
  }
  if (!lackey || pid_ == 0) {
    fail((line.empty() ? "no first line" : excerpt(line) + " begins no such log") + valid);
  }
  if (is_message(line)) return;  // it ended with its header
  continues_fork_ = starts_with(line, " --> ");
  held_ = line;
  holds_ = true;
}

bool LackeyLog::parse_access(std::string_view line) {
  access_.kind = line[0] == 'I'   ? RecordKind::Instruction
                 : line[1] == 'L' ? RecordKind::Load
                 : line[1] == 'S' ? RecordKind::Store
                                  : RecordKind::Modify;
  line.remove_prefix(3);
  u64 size = 0;
  if (!take(line, access_.address, 16) || !take(line, ",") || !take(line, size, 10) ||
      !line.empty() || size == 0 || size > kMaxAccessBytes) {
    return false;
  }
  access_.size = static_cast<u16>(size);
  return true;
}

/// A call's text may go on over the next lines (a path with a newline in it; a fork's result).
/// Whatever follows the result in its line is held as a line of its own: a thread that starts
/// writes there.
void LackeyLog::join_result(std::string& text) {
  std::size_t arrow = text.rfind("--> ");
  std::string_view line;
  while (arrow == std::string::npos && text.size() < LineReader::kMaxLine && next_line(line)) {
    if (looks_like_access(line) || starts_with(line, "SYSCALL[") || starts_with(line, "==")) {
      held_ = line;
      holds_ = true;
      return;
    }
    text += ' ';
    text += line;
    arrow = text.rfind("--> ");
  }
  if (arrow == std::string::npos) return;
  for (const char* end : {"Success(", "Failure("}) {
    const std::size_t at = text.find(end, arrow);
    const std::size_t close = at == std::string::npos ? at : text.find(')', at);
    if (close == std::string::npos || close + 2 >= text.size()) continue;
    held_ = text.substr(close + 2);
    holds_ = true;
    text.resize(close + 1);
  }
}

/// Numbers up to the first string, which could hold anything; and the string as the path.
void LackeyLog::parse_arguments(std::string_view text) {
  while (call_.args_given < call_.args.size()) {
    while (take(text, " ") || take(text, ",")) {
    }
    u64& value = call_.args[call_.args_given];
    // The flags of clone are in hexadecimal without a prefix.
    const bool bare_hex = call_.number == linux_call::kClone && call_.args_given == 0;
    if (bare_hex ? !take(text, value, 16) : !take_argument(text, value)) return;
    ++call_.args_given;
    if (!take(text, "(")) continue;
    if (call_.number == linux_call::kOpen || call_.number == linux_call::kOpenat) {
      call_.path = text.substr(0, std::min<std::size_t>(text.find("), "), kMaxNameBytes));
    }
    return;
  }
}

/// `SYSCALL[pid,thread](number) name ( arguments )` and then a result in one of several styles.
/// False: nothing to report, or not yet.
bool LackeyLog::parse_call(std::string text) {
  join_result(text);
  const auto bad = [&] {
    fail(excerpt(text) +
         " is no system call; valid: a line as 'SYSCALL[7,1](11) sys_munmap ( 0x4000, 4096 )[sync] "
         "--> Success(0x0)'");
  };
  std::string_view rest = text;
  u64 pid = 0, thread = 0, number = 0;
  call_ = LackeyCall();
  if (!take(rest, "SYSCALL[") || !take(rest, pid, 10) || !take(rest, ",") ||
      !take(rest, thread, 10) || !take(rest, "](") || !take(rest, number, 10) ||
      !take(rest, ") ")) {
    bad();
  }
  call_.number = static_cast<u32>(number);
  const bool returns = starts_with(rest, "... ");  // from a call that was given before
  if (returns) {
    const bool open = number == linux_call::kOpen || number == linux_call::kOpenat;
    if (!open || thread != opening_thread_) return false;
    call_.path = opening_;
  } else if (const std::size_t at = rest.find('('); at != std::string_view::npos) {
    parse_arguments(rest.substr(at + 1));
  }
  if (const std::size_t at = rest.rfind(" created child "); at != std::string_view::npos) {
    std::string_view child = rest.substr(at + 15);
    if (!take(child, pid, 10) || pid == 0) bad();
    call_.child = static_cast<u32>(pid);
  }
  if (const std::size_t at = rest.rfind("Success(0x"); at != std::string_view::npos) {
    std::string_view result = rest.substr(at + 10);
    call_.succeeded = take(result, call_.result, 16);
  } else if (!returns && !call_.path.empty()) {
    opening_thread_ = thread;
    opening_ = call_.path;
    return false;
  }
  return true;
}

LackeyLog::Event LackeyLog::next() {
  std::string_view line;
  while (next_line(line)) {
    if (looks_like_access(line)) {
      if (parse_access(line)) return Event::Access;
      fail(excerpt(line) + " is no access; valid: a line as 'I  0401ab70,3' or ' S 1fff000608,8'");
    }
    if (starts_with(line, "SYSCALL[")) {
      if (parse_call(std::string(line))) return Event::Call;
      continue;
    }
    if (is_message(line) || starts_with(line, " --> ")) continue;
    fail(excerpt(line) +
         " is no line of lackey; valid: accesses (I, L, S, M), SYSCALL lines, and "
         "messages that begin with ==");
  }
  return Event::End;
}

}  // namespace mmuscope
