#include "workloads/trace/coarse.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <set>

#include "core/error.h"
#include "workloads/trace/writer.h"

namespace mmuscope {

namespace {

constexpr u64 kMaxLine = 1 << 16;
constexpr u64 kTouchedPages = 16;
constexpr u64 kAround = 16 * kPageBytes;
constexpr u64 kPrivateAnonymous = 0x22;
constexpr u64 kCloneThread = 0x10000;
constexpr u64 kCloneVfork = 0x4100;  // CLONE_VM, CLONE_VFORK

u64 page_up(u64 bytes) { return (bytes + kPageBytes - 1) & ~(kPageBytes - 1); }

/// What is mapped, as ranges of addresses.
class Ranges {
 public:
  void add(u64 start, u64 end) {
    remove(start, end);
    if (start < end) ranges_[start] = end;
  }
  void remove(u64 start, u64 end) {
    auto it = ranges_.lower_bound(start);
    if (it != ranges_.begin() && std::prev(it)->second > start) --it;
    while (it != ranges_.end() && it->first < end) {
      const auto [from, to] = *it;
      it = ranges_.erase(it);
      if (from < start) ranges_[from] = start;
      if (to > end) ranges_[end] = to;
    }
  }
  /// The first part of [start, end) that is not in it.
  std::optional<std::pair<u64, u64>> gap(u64 start, u64 end) const {
    auto it = ranges_.upper_bound(start);
    if (it != ranges_.begin() && std::prev(it)->second > start) start = std::prev(it)->second;
    for (; it != ranges_.end() && it->first == start; ++it) start = it->second;
    if (start >= end) return std::nullopt;
    return std::pair(start, it == ranges_.end() ? end : std::min(end, it->first));
  }
  void clear() { ranges_.clear(); }

 private:
  std::map<u64, u64> ranges_;
};

/// A log that is read line by line, and the trace that is made of it.
class Importer {
 public:
  Importer(const std::filesystem::path& log, const std::filesystem::path& out,
           const TraceInfo& info, int compression, const char* valid)
      : name_(log.string()),
        in_(log, std::ios::binary),
        valid_(valid),
        writer_(out, info, compression) {
    std::error_code ignored;
    if (!in_ || std::filesystem::is_directory(log, ignored)) {
      throw InputError(name_ + ": cannot be read; valid: " + valid_);
    }
  }

 protected:
  struct Task {
    u32 number = 0;
    u64 process = 0;  ///< whose memory it uses: its first task's pid
  };
  struct Memory {
    Ranges mapped;
    u64 heap = 0;  ///< its end; 0: not known
  };

  bool next_line(std::string& line) {
    if (!std::getline(in_, line)) return false;
    ++line_;
    if (line.size() > kMaxLine) fail("a line is too long");
    return true;
  }
  [[noreturn]] void fail(const std::string& what) const {
    throw InputError(name_ + ": line " + std::to_string(line_) + ": " + what +
                     "; valid: " + valid_);
  }
  void run(const Task& task) {
    if (running_ == task.number) return;
    writer_.switch_to(task.number);
    running_ = task.number;
  }
  Task& make(CallKind kind, u64 pid, u64 process, u64 flags, const std::string& name,
             bool synthesized) {
    if (made_ == kMaxProcesses) fail("too many processes");
    const u32 number = made_++;
    writer_.call({kind, synthesized, number, {flags}, pid, name});
    if (ends_turn(kind)) running_ = kMaxProcesses;
    return tasks_[pid] = {number, process};
  }
  void map(Memory& memory, u64 start, u64 end, u64 rights, bool synthesized, u64 flags,
           const std::string& file, u64 offset) {
    writer_.call({CallKind::Map,
                  synthesized,
                  0,
                  {start, end - start, rights, flags, 0, offset},
                  start,
                  file});
    memory.mapped.add(start, end);
  }
  /// Maps what of the range is not mapped.
  void map_gaps(Memory& memory, u64 start, u64 end) {
    while (const auto gap = memory.mapped.gap(start, end)) {
      map(memory, gap->first, gap->second, 7, true, kPrivateAnonymous, "", 0);
    }
  }
  void finish() {
    if (made_ == 0) throw InputError(name_ + ": nothing in it; valid: " + std::string(valid_));
    writer_.finish();
  }

  std::string name_;
  std::ifstream in_;
  const char* valid_;
  u64 line_ = 0;
  TraceWriter writer_;
  std::map<u64, Task> tasks_;  ///< that live, by pid or tid
  u32 running_ = kMaxProcesses;
  u32 made_ = 0;
};

bool in_user_half(u64 start, u64 bytes) {
  return bytes != 0 && bytes <= kTraceEnd && start <= kTraceEnd - bytes;
}

std::optional<u64> number(std::string_view text, int base = 10) {
  if (text.substr(0, 2) == "0x") {
    text.remove_prefix(2);
    base = 16;
  }
  u64 value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// --- strace --------------------------------------------------------------------------------------

struct NamedFlag {
  std::string_view name;
  u64 bit;
};
/// Flags of mmap, mprotect and clone that matter here; Linux, x86-64.
constexpr NamedFlag kFlags[] = {{"PROT_READ", 1},
                                {"PROT_WRITE", 2},
                                {"PROT_EXEC", 4},
                                {"MAP_SHARED", 1},
                                {"MAP_PRIVATE", 2},
                                {"MAP_FIXED", 0x10},
                                {"MAP_ANONYMOUS", 0x20},
                                {"MADV_DONTNEED", 4},
                                {"CLONE_VM", 0x100},
                                {"CLONE_VFORK", 0x4000},
                                {"CLONE_THREAD", kCloneThread}};

/// Of "A|B|0x40": names, and what strace has no name for, or gives as a number: -X raw, and
/// -X verbose with the names in a comment.
u64 flags_of(std::string_view text) {
  u64 bits = 0;
  text = text.substr(0, text.find(" /*"));
  while (!text.empty()) {
    const std::string_view word = text.substr(0, text.find('|'));
    text.remove_prefix(std::min(word.size() + 1, text.size()));
    const auto named = std::find_if(std::begin(kFlags), std::end(kFlags),
                                    [word](const NamedFlag& flag) { return flag.name == word; });
    bits |= named != std::end(kFlags) ? named->bit : number(word).value_or(0);
  }
  return bits;
}

/// The flags of a clone or clone3, whichever way strace prints them.
u64 clone_flags(std::string_view args) {
  constexpr std::string_view kKey = "flags=";
  const std::size_t at = args.find(kKey);
  if (at == args.npos) return 0;
  args.remove_prefix(at + kKey.size());
  return flags_of(args.substr(0, args.find_first_of(",} ")));
}

/// A call of one line: "name(arguments) = result".
struct Called {
  std::string name;
  std::vector<std::string> args;
  std::string result;
};

/// Cuts arguments at commas outside quotes and brackets.
std::vector<std::string> split_args(std::string_view text) {
  std::vector<std::string> args(1);
  int depth = 0;
  bool quoted = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted && c == '\\' && i + 1 < text.size()) {
      args.back().append(text.substr(i++, 2));
      continue;
    }
    if (c == '"') quoted = !quoted;
    if (!quoted && (c == '[' || c == '{' || c == '(' || c == '<')) ++depth;
    if (!quoted && (c == ']' || c == '}' || c == ')' || c == '>')) --depth;
    if (c == ',' && !quoted && depth == 0) {
      args.emplace_back();
      if (i + 1 < text.size() && text[i + 1] == ' ') ++i;
    } else {
      args.back().push_back(c);
    }
  }
  return args;
}

std::optional<Called> parse_call(const std::string& text) {
  const std::size_t open = text.find('(');
  const std::size_t equals = text.rfind(" = ");
  if (open == text.npos || equals == text.npos || equals < open) return std::nullopt;
  const std::size_t close = text.rfind(')', equals);
  if (close == text.npos || close < open) return std::nullopt;
  Called call;
  call.name = text.substr(0, open);
  const bool named = std::all_of(call.name.begin(), call.name.end(), [](unsigned char c) {
    return std::islower(c) || std::isdigit(c) || c == '_';
  });
  if (!named) return std::nullopt;
  call.args = split_args(std::string_view(text).substr(open + 1, close - open - 1));
  call.result = text.substr(equals + 3);
  call.result = call.result.substr(0, call.result.find(' '));
  return call;
}

constexpr const char* kStraceValid =
    "the log of strace -f -o LOG -e trace=memory,process PROGRAM ARGS...";

class Strace : public Importer {
 public:
  Strace(const std::filesystem::path& log, const std::filesystem::path& out, int compression)
      : Importer(log, out,
                 {"of " + log.filename().string(),
                  "strace",
                  "all accesses but those made up",
                  {"accesses: one to each of the first 16 pages of what is mapped",
                   "mappings of pages that a call names and none mapped"}},
                 compression, kStraceValid) {}
  void read();

 private:
  void read_event(u64 pid, std::string text);
  void act(u64 pid, const Called& call);
  void run_task(u64 pid);
  void end_wait(u64 child);
  void clone(u64 pid, const Called& call, bool early);
  void exec(u64 pid, const Called& call);
  void exit(u64 pid, bool group);
  void map_call(Memory& memory, const Called& call, u64 result);
  void brk(Memory& memory, u64 end);
  void remap(Memory& memory, const Called& call, u64 result);
  void change(Memory& memory, CallKind kind, const Called& call);
  void touch(u64 start, u64 end, u64 rights);
  Task& task_of(u64 pid);
  u64 argument(const Called& call, std::size_t index) const;

  std::map<u64, std::string> unfinished_;
  std::set<u64> early_;         ///< children that were there before their fork was resumed
  std::set<u64> early_execs_;   ///< those whose execve was seen to be over before it was resumed
  std::map<u64, u64> waiting_;  ///< tasks that wait for a child of vfork: the child
  /// By process. A child of vfork has its parent's until it executes a program or ends.
  std::map<u64, std::shared_ptr<Memory>> memories_;
};

void Strace::read() {
  std::string line;
  while (next_line(line)) {
    const std::size_t space = line.find(' ');
    const auto pid = number(std::string_view(line).substr(0, space));
    if (!pid || space == line.npos) fail("no pid at its beginning");
    std::size_t at = line.find_first_not_of(' ', space);
    if (at == line.npos) fail("nothing behind the pid");
    // A time, if there is one, has only digits, points and colons.
    const std::size_t end = line.find(' ', at);
    if (end != line.npos && line.find_first_not_of("0123456789.:", at) == end) {
      at = line.find_first_not_of(' ', end);
      if (at == line.npos) fail("nothing behind the time");
    }
    read_event(*pid, line.substr(at));
  }
  finish();
}

void Strace::read_event(u64 pid, std::string text) {
  if (text.rfind("+++", 0) == 0) return exit(pid, false);
  if (text.rfind("---", 0) == 0) return;
  const std::size_t cut = text.find("<unfinished ...>");
  if (cut != text.npos) {
    text.resize(cut);
    while (!text.empty() && text.back() == ' ') text.pop_back();
    unfinished_[pid] = text;
    (void)task_of(pid);
    return;
  }
  if (text.rfind("<... ", 0) == 0) {
    const std::size_t end = text.find(" resumed>");
    const auto begun = unfinished_.find(pid);
    if (end == text.npos || begun == unfinished_.end())
      fail("a call is resumed that did not begin");
    text = begun->second + text.substr(end + 9);
    unfinished_.erase(begun);
  }
  const auto call = parse_call(text);
  if (!call) fail("no system call");
  act(pid, *call);
}

Strace::Task& Strace::task_of(u64 pid) {
  const auto known = tasks_.find(pid);
  if (known != tasks_.end()) return known->second;
  for (const auto& [parent, text] : unfinished_) {
    const bool forks = text.rfind("clone", 0) == 0 || text.find("fork") < 2;
    if (!forks || tasks_.count(parent) == 0) continue;
    clone(parent, {text.substr(0, text.find('(')), {text}, std::to_string(pid)}, true);
    early_.insert(pid);
    return tasks_[pid];
  }
  memories_[pid] = std::make_shared<Memory>();
  return make(CallKind::Spawn, pid, pid, 0, "", made_ != 0);
}

u64 Strace::argument(const Called& call, std::size_t index) const {
  if (index >= call.args.size()) fail(call.name + " lacks an argument");
  const std::string& text = call.args[index];
  if (text == "NULL") return 0;
  const auto value = number(text);
  if (!value) fail("no number: " + text.substr(0, 40));
  return *value;
}

/// The task runs. Who waited for a child of vfork is seen to run again when the child has executed
/// a program or was killed, which the log may say later.
void Strace::run_task(u64 pid) {
  const auto wait = waiting_.find(pid);
  if (wait != waiting_.end()) {
    const u64 child = wait->second;
    const auto begun = unfinished_.find(child);
    if (begun != unfinished_.end() && begun->second.rfind("execve", 0) == 0) {
      const std::size_t open = std::min(begun->second.find('('), begun->second.size() - 1);
      exec(child, {"execve", split_args(std::string_view(begun->second).substr(open + 1)), "0"});
      early_execs_.insert(child);
    } else {
      exit(child, true);
    }
  }
  run(tasks_.at(pid));
}

/// The child has a memory of its own, or none any more.
void Strace::end_wait(u64 child) {
  const auto waits = [child](const auto& entry) { return entry.second == child; };
  const auto wait = std::find_if(waiting_.begin(), waiting_.end(), waits);
  if (wait != waiting_.end()) waiting_.erase(wait);
}

void Strace::act(u64 pid, const Called& call) {
  const Task task = task_of(pid);
  if (call.name == "exit_group" || call.name == "exit") return exit(pid, call.name != "exit");
  if (call.result.empty() || call.result[0] == '-' || call.result[0] == '?') return;
  const u64 result = number(call.result).value_or(0);
  if (call.name == "clone" || call.name == "clone3" || call.name == "fork" ||
      call.name == "vfork") {
    return clone(pid, call, false);
  }
  const bool execs = call.name == "execve" || call.name == "execveat";
  if (execs && early_execs_.erase(pid) != 0) return;
  run_task(pid);
  if (execs) return exec(pid, call);
  Memory& memory = *memories_.at(task.process);
  if (call.name == "mmap") return map_call(memory, call, result);
  if (call.name == "brk") return brk(memory, result);
  if (call.name == "mremap") return remap(memory, call, result);
  if (call.name == "munmap") return change(memory, CallKind::Unmap, call);
  if (call.name == "mprotect") return change(memory, CallKind::Protect, call);
  if (call.name == "madvise") return change(memory, CallKind::Advise, call);
}

void Strace::clone(u64 pid, const Called& call, bool early) {
  const auto child = number(call.result);
  if (!child) fail("no pid: " + call.result.substr(0, 40));
  if (!early && early_.erase(*child) != 0) return;
  if (tasks_.count(*child) != 0) fail("process " + call.result + " is made twice");
  std::string all;
  for (const std::string& arg : call.args) all += arg + ",";
  const u64 flags = call.name == "vfork" ? kCloneVfork : clone_flags(all);
  const u64 process = tasks_[pid].process;
  run_task(pid);
  if ((flags & kCloneThread) != 0) {
    make(CallKind::Thread, *child, process, flags, "", false);
  } else if ((flags & kCloneVfork) == kCloneVfork) {
    memories_[*child] = memories_.at(process);
    make(CallKind::Vfork, *child, *child, flags, "", false);
    waiting_[pid] = *child;
  } else {
    memories_[*child] = std::make_shared<Memory>(*memories_.at(process));
    make(CallKind::Fork, *child, *child, flags, "", false);
  }
}

void Strace::exec(u64 pid, const Called& call) {
  // Threads do not survive it, whatever the log says of them later.
  const u64 process = tasks_[pid].process;
  const u32 number = tasks_[pid].number;
  for (auto it = tasks_.begin(); it != tasks_.end();) {
    if (it->second.process == process && it->second.number != number) {
      run_task(it->first);
      end_wait(it->first);
      writer_.call({CallKind::Exit, true, 0, {0}, 0, ""});
      running_ = kMaxProcesses;
      it = tasks_.erase(it);
    } else {
      ++it;
    }
  }
  run_task(pid);
  writer_.call({CallKind::Exec, false, 0, {}, 0, call.args.empty() ? "" : call.args[0]});
  memories_[process] = std::make_shared<Memory>();
  end_wait(pid);
}

void Strace::exit(u64 pid, bool group) {
  const auto known = tasks_.find(pid);
  if (known == tasks_.end()) return;
  const u64 process = known->second.process;
  const auto others = [&](const auto& entry) {
    return entry.second.process == process && entry.first != pid;
  };
  if (pid == process && !group && std::any_of(tasks_.begin(), tasks_.end(), others)) return;
  // The first task of a process is the last to go.
  for (const bool first : {false, true}) {
    for (auto it = tasks_.begin(); it != tasks_.end();) {
      const bool goes =
          (group || pid == process) ? it->second.process == process : it->first == pid;
      if (!goes || (it->first == process) != first) {
        ++it;
        continue;
      }
      run_task(it->first);
      writer_.call({CallKind::Exit, false, 0, {0}, 0, ""});
      running_ = kMaxProcesses;
      end_wait(it->first);
      it = tasks_.erase(it);
    }
  }
}

void Strace::touch(u64 start, u64 end, u64 rights) {
  const RecordKind kind = (rights & 2) != 0   ? RecordKind::Store
                          : (rights & 4) != 0 ? RecordKind::Instruction
                                              : RecordKind::Load;
  if ((rights & 1) == 0) return;
  end = std::min(end, start + kTouchedPages * kPageBytes);
  for (u64 page = start; page < end; page += kPageBytes) writer_.access(kind, page, 1);
}

void Strace::map_call(Memory& memory, const Called& call, u64 start) {
  const u64 bytes = page_up(argument(call, 1));
  if (call.args.size() < 4 || start % kPageBytes != 0 || !in_user_half(start, bytes)) {
    fail("an mmap that no program can make");
  }
  const u64 rights = flags_of(call.args[2]);
  const u64 flags = flags_of(call.args[3]);
  std::string file;
  if ((flags & 0x20) == 0 && call.args.size() > 4) {
    const std::size_t open = call.args[4].find('<');
    // Without its name a file is told by its descriptor, as well as that goes.
    file = open == std::string::npos
               ? "descriptor " + call.args[4]
               : call.args[4].substr(open + 1, call.args[4].size() - open - 2);
  }
  const u64 offset = call.args.size() > 5 ? argument(call, 5) : 0;
  map(memory, start, start + bytes, rights, false, flags, file, offset);
  touch(start, start + bytes, rights);
}

void Strace::brk(Memory& memory, u64 end) {
  if (end == 0 || end > kTraceEnd) fail("a break that no program can have");
  writer_.call({CallKind::Break, false, 0, {end}, end, ""});
  const u64 before = page_up(memory.heap);
  memory.heap = end;
  if (before == 0) return;
  memory.mapped.remove(std::min(before, page_up(end)), before);
  if (page_up(end) <= before) return;
  memory.mapped.add(before, page_up(end));
  touch(before, page_up(end), 3);
}

void Strace::remap(Memory& memory, const Called& call, u64 to) {
  const u64 from = argument(call, 0);
  const u64 old_bytes = page_up(argument(call, 1));
  const u64 bytes = page_up(argument(call, 2));
  if (from % kPageBytes != 0 || to % kPageBytes != 0 || !in_user_half(from, old_bytes) ||
      !in_user_half(to, bytes)) {
    fail("an mremap that no program can make");
  }
  map_gaps(memory, from, from + old_bytes);
  writer_.call({CallKind::Remap, false, 0, {from, old_bytes, bytes, 1}, to, ""});
  memory.mapped.remove(from, from + old_bytes);
  memory.mapped.add(to, to + bytes);
}

void Strace::change(Memory& memory, CallKind kind, const Called& call) {
  const u64 start = argument(call, 0);
  const u64 bytes = page_up(argument(call, 1));
  if (bytes == 0) return;
  if (start % kPageBytes != 0 || !in_user_half(start, bytes)) {
    fail("a " + call.name + " that no program can make");
  }
  const u64 rights = call.args.size() > 2 ? flags_of(call.args[2]) : 0;
  if (kind == CallKind::Unmap) {
    memory.mapped.remove(start, start + bytes);
  } else {
    map_gaps(memory, start, start + bytes);
  }
  writer_.call({kind, false, 0, {start, bytes, rights}, 0, ""});
}

// --- perf ----------------------------------------------------------------------------------------

constexpr const char* kPerfValid =
    "perf record -e page-faults -c 1 -d PROGRAM, then perf script -F "
    "comm,pid,tid,time,event,addr,ip, or perf script of exceptions:page_fault_user";

class PerfFaults : public Importer {
 public:
  PerfFaults(const std::filesystem::path& log, const std::filesystem::path& out, int compression)
      : Importer(log, out,
                 {"of " + log.filename().string(),
                  "perf script",
                  "all but page faults",
                  {"mappings of the 64 KiB around a fault", "processes begin where they appear"}},
                 compression, kPerfValid) {}
  void read() {
    std::string line;
    while (next_line(line)) {
      if (line.find_first_not_of(" \t\r") != line.npos && line[0] != '#') read_fault(line);
    }
    finish();
  }

 private:
  void read_fault(const std::string& line);
  void fault(u64 pid, const std::string& name, u64 address, RecordKind kind);
  u64 field(const std::string& token, std::string_view key) const;

  std::map<u64, Memory> memories_;  ///< by process
};

std::vector<std::string> words_of(const std::string& line) {
  std::vector<std::string> words;
  for (std::size_t at = 0; (at = line.find_first_not_of(" \t\r", at)) != line.npos;) {
    const std::size_t end = std::min(line.find_first_of(" \t\r", at), line.size());
    words.push_back(line.substr(at, end - at));
    at = end;
  }
  return words;
}

u64 PerfFaults::field(const std::string& token, std::string_view key) const {
  const bool named = token.rfind(key, 0) == 0;
  const auto value = named ? number(std::string_view(token).substr(key.size()), 16) : std::nullopt;
  if (!value) fail("no " + std::string(key) + "NUMBER");
  return *value;
}

void PerfFaults::read_fault(const std::string& line) {
  const std::vector<std::string> words = words_of(line);
  std::size_t event = 0;
  while (event < words.size() && words[event].rfind("page-faults", 0) != 0 &&
         words[event].rfind("exceptions:page_fault_user", 0) != 0) {
    ++event;
  }
  if (event + 2 >= words.size() || event < 3) fail("no page fault");
  std::size_t at = event - 2;  // before it the time
  if (words[at][0] == '[') --at;
  const auto pid = number(std::string_view(words[at]).substr(0, words[at].find('/')));
  if (!pid) fail("no pid before the time");
  const std::string& name = words[0];
  if (words[event][0] == 'p') {
    const u64 address = field(words[event + 1], "");
    const bool fetch = address == field(words[event + 2], "");
    return fault(*pid, name, address, fetch ? RecordKind::Instruction : RecordKind::Store);
  }
  if (event + 3 >= words.size()) fail("no error code");
  const u64 code = field(words[event + 3], "error_code=");
  const RecordKind kind = (code & 16) != 0  ? RecordKind::Instruction
                          : (code & 2) != 0 ? RecordKind::Store
                                            : RecordKind::Load;
  fault(*pid, name, field(words[event + 1], "address="), kind);
}

void PerfFaults::fault(u64 pid, const std::string& name, u64 address, RecordKind kind) {
  if (address >= kTraceEnd) return;
  if (tasks_.count(pid) == 0) make(CallKind::Spawn, pid, pid, 0, name, true);
  run(tasks_[pid]);
  const u64 start = address & ~(kAround - 1);
  map_gaps(memories_[pid], start, std::min(start + kAround, kTraceEnd));
  writer_.access(kind, address, 1);
}

}  // namespace

void import_strace(const std::filesystem::path& log, const std::filesystem::path& out,
                   int compression) {
  Strace(log, out, compression).read();
}

void import_perf(const std::filesystem::path& log, const std::filesystem::path& out,
                 int compression) {
  PerfFaults(log, out, compression).read();
}

}  // namespace mmuscope
