#include "workloads/trace/qemu.h"

#include <algorithm>
#include <optional>
#include <queue>

#include "core/error.h"
#include "workloads/trace/qemu_reader.h"
#include "workloads/trace/tasks.h"
#include "workloads/trace/writer.h"

namespace mmuscope {

using namespace qemu_log;

namespace {

// System call numbers of Linux on x86-64, and flags of its clone.
enum : u64 {
  kMmap = 9,
  kMprotect = 10,
  kMunmap = 11,
  kBrk = 12,
  kMremap = 25,
  kMadvise = 28,
  kClone = 56,
  kFork = 57,
  kVfork = 58,
  kExit = 60,
  kExitGroup = 231
};
constexpr u64 kCloneThread = 0x10000;
constexpr u64 kCloneVfork = 0x4100;  // CLONE_VM, CLONE_VFORK

/// The trace that is written, and which task of it runs.
class Output {
 public:
  Output(const std::filesystem::path& folder, const std::filesystem::path& path,
         const TraceInfo& info, int compression)
      : writer(path, info, compression), folder_(folder.string()) {}

  void run(u32 task) {
    if (tasks_.running() == task) return;
    if (!tasks_.may_run(task)) fail();
    writer.switch_to(task);
    tasks_.run(task);
  }
  void call(const Call& call) {
    if (call.kind != CallKind::Spawn && tasks_.running() == kMaxProcesses) fail();
    writer.call(call);
    tasks_.note(call);
  }
  u32 make(CallKind kind, u64 tid, u64 flags, const std::string& command, bool synthesized) {
    const auto task = static_cast<u32>(tasks_.made());
    if (task == kMaxProcesses) fail();
    call({kind, synthesized, task, {flags}, tid, command});
    return task;
  }
  void exit(u32 task, u64 status, bool synthesized) {
    run(task);
    call({CallKind::Exit, synthesized, 0, {status}, 0, ""});
  }

  TraceWriter writer;

 private:
  [[noreturn]] void fail() const {
    throw InputError(folder_ +
                     ": the logs do not fit together; valid: all logs of one results/record");
  }

  std::string folder_;
  TraceTasks tasks_;
};

/// One log, decoded as the trace needs it.
class Thread {
 public:
  Thread(QemuLogHeader header, QemuCodes& codes)
      : header_(std::move(header)), words_(header_.path) {
    (void)read_qemu_header(header_.path, words_);
    code_ = codes.get(header_.pid, header_.code);
    read_mark();
  }

  const QemuLogHeader& header() const { return header_; }
  /// What comes next; none at the end of the log.
  const std::optional<QemuMark>& mark() const { return mark_; }
  /// Writes what was executed and accessed between this mark and the next one.
  void write_stretch(TraceWriter& writer);

  u32 task = 0;
  u64 cpu = ~u64{0};

 private:
  void read_mark();
  void begin_block(u64 number, TraceWriter& writer);
  void finish_block(TraceWriter& writer);
  void instructions_to(unsigned end, TraceWriter& writer);
  void access(u64 word, TraceWriter& writer);
  void write_load(TraceWriter& writer);

  QemuLogHeader header_;
  QemuWords words_;
  std::shared_ptr<const QemuCode> code_;
  std::optional<QemuMark> mark_;
  // The block that is being executed.
  u64 address_ = 0;  ///< of the next instruction
  const u8* lengths_ = nullptr;
  unsigned insn_ = 0, insns_ = 0;
  u64 load_ = 0;  ///< a load that a store may follow; 0: none
};

void Thread::read_mark() {
  mark_.reset();
  const u64 word = words_.next();
  if (word == 0) return;
  if (word >> kWordShift != static_cast<u64>(Word::Other)) words_.fail("a stretch without a stamp");
  mark_ = read_qemu_mark(word, words_);
}

bool in_user_half(u64 address, u64 bytes) { return address <= kTraceEnd - bytes; }

void Thread::instructions_to(unsigned end, TraceWriter& writer) {
  for (; insn_ < end; ++insn_) {
    const u8 length = lengths_[insn_];
    if (in_user_half(address_, length)) {
      writer.access(RecordKind::Instruction, address_, length);
    }
    address_ += length;
  }
}

void Thread::write_load(TraceWriter& writer) {
  if (load_ == 0) return;
  const u64 address = load_ & kAddressMask;
  const u32 bytes = 1u << (load_ >> kSizeShift & 7);
  if (in_user_half(address, bytes)) writer.access(RecordKind::Load, address, bytes);
  load_ = 0;
}

void Thread::begin_block(u64 number, TraceWriter& writer) {
  finish_block(writer);
  const QemuCode::Block* const block = code_->find(number);
  if (block == nullptr) words_.fail("block " + std::to_string(number) + " is not known");
  address_ = block->address;
  if (address_ >= kTraceEnd) address_ = kTraceEnd;  // the vsyscall page
  lengths_ = code_->lengths(number, *block);
  insn_ = 0;
  insns_ = block->count;
}

void Thread::finish_block(TraceWriter& writer) {
  write_load(writer);
  instructions_to(insns_, writer);
}

void Thread::access(u64 word, TraceWriter& writer) {
  const unsigned insn = word >> kInsnShift & 0x3ff;
  const bool store = word >> kWordShift == static_cast<u64>(Word::Store);
  constexpr u64 kSameBytes = (u64{1} << kWordShift) - 1;
  if (store && ((load_ ^ word) & kSameBytes) == 0) {
    const u64 address = word & kAddressMask;
    const u32 bytes = 1u << (word >> kSizeShift & 7);
    if (in_user_half(address, bytes)) writer.access(RecordKind::Modify, address, bytes);
    load_ = 0;
    return;
  }
  write_load(writer);
  if (insn >= insns_) words_.fail("an access by no instruction of its block");
  instructions_to(insn + 1, writer);
  if (!store) {
    load_ = word;
    return;
  }
  const u64 address = word & kAddressMask;
  const u32 bytes = 1u << (word >> kSizeShift & 7);
  if (in_user_half(address, bytes)) writer.access(RecordKind::Store, address, bytes);
}

void Thread::write_stretch(TraceWriter& writer) {
  for (;;) {
    const u64 word = words_.next();
    switch (static_cast<Word>(word >> kWordShift)) {
      case Word::Execute:
        begin_block(word & 0xffffffff, writer);
        break;
      case Word::Load:
      case Word::Store:
        access(word, writer);
        break;
      case Word::Other: {
        const u64 before = mark_->time;
        mark_.reset();
        if (word != 0) mark_ = read_qemu_mark(word, words_);
        if (mark_ && mark_->time < before) words_.fail("time goes back");
        // A mere stamp may stand within a block, whose accesses go on behind it.
        if (!mark_ || mark_->kind != Other::Stamp) finish_block(writer);
        return;
      }
    }
  }
}

/// All logs of a recording, put in the order of their times.
class Merge {
 public:
  Merge(const std::filesystem::path& folder, Output& out) : codes_(folder), out_(out) {}
  void run(std::vector<QemuLogHeader> headers);

 private:
  struct Due {
    u64 time;
    std::size_t log;
    bool operator>(const Due& other) const {
      return time != other.time ? time > other.time : log > other.log;
    }
  };
  struct Log {
    QemuLogHeader header;
    std::unique_ptr<Thread> thread;   ///< while it is being read
    std::vector<std::size_t> before;  ///< of an exec: the logs of the process until then
    bool succeeded = false;           ///< the process goes on in another log, after an exec
    bool resumes = false;             ///< its next mark is done with, not what follows it
    bool done = false;                ///< read, or as much of it as counts
  };
  struct Task {
    u32 number = 0;
    u64 pid = 0;
  };

  void link_execs();
  void step(std::size_t index);
  bool act_on_mark(std::size_t index);
  void resume_maker(u64 tid, u64 time);
  void end_lost_children();
  bool may_begin(const Log& log) const;
  void begin_lost();
  void look_at_parked();
  void go_on(std::size_t index);
  void leave(Log& log);
  void begin(Log& log);
  void begin_program(Log& log);
  void end(Log& log);
  void act(std::size_t index, const QemuMark& mark);
  void memory_call(const QemuMark& mark, bool image);
  void clone(std::size_t index, const QemuMark& mark);
  void exit(Thread& thread, const QemuMark& mark);
  void exit_task(u64 tid, u64 status, bool synthesized, u64 time);
  void exit_others(u64 pid, u64 tid, bool synthesized, u64 time);
  void place(Thread& thread, u64 cpu);
  bool others_live(u64 pid, u64 tid) const;

  QemuCodes codes_;
  Output& out_;
  std::vector<Log> logs_;
  std::priority_queue<Due, std::vector<Due>, std::greater<>> due_;
  std::map<u64, Task> tasks_;  ///< that live, by tid
  std::map<u64, u64> ending_;  ///< pids whose first thread has ended before others; its status
  std::map<u64, std::size_t> waiting_;  ///< logs that wait for a child of vfork, by its tid
  std::vector<std::size_t> parked_;     ///< logs that are due, but cannot begin yet
};

void Merge::run(std::vector<QemuLogHeader> headers) {
  std::sort(headers.begin(), headers.end(), [](const QemuLogHeader& a, const QemuLogHeader& b) {
    return std::tie(a.time, a.pid, a.tid) < std::tie(b.time, b.pid, b.tid);
  });
  for (QemuLogHeader& header : headers) {
    due_.push({header.time, logs_.size()});
    logs_.emplace_back().header = std::move(header);
  }
  link_execs();
  for (;;) {
    if (due_.empty()) end_lost_children();
    if (due_.empty() && !parked_.empty()) {
      begin_lost();
      continue;
    }
    if (due_.empty()) return;
    const std::size_t index = due_.top().log;
    due_.pop();
    step(index);
  }
}

/// Nothing goes on but what waits for children that were killed before their logs began.
void Merge::end_lost_children() {
  while (!waiting_.empty()) {
    const auto [tid, log] = *waiting_.begin();
    exit_task(tid, 0, true, logs_[log].thread->mark()->time);
  }
}

/// A child of vfork no longer uses its maker's memory, which goes on.
void Merge::resume_maker(u64 tid, u64 time) {
  const auto waiting = waiting_.find(tid);
  if (waiting == waiting_.end()) return;
  logs_[waiting->second].resumes = true;
  due_.push({time, waiting->second});
  waiting_.erase(waiting);
}

/// The logs of a process before an exec do not end with its exit.
void Merge::link_execs() {
  std::map<u64, std::vector<std::size_t>> open;
  for (Log& log : logs_) {
    std::vector<std::size_t>& before = open[log.header.pid];
    if (log.header.start == Start::Exec) {
      for (const std::size_t old : before) logs_[old].succeeded = true;
      log.before = before;
    }
    if (log.header.start != Start::Thread) before.clear();
    before.push_back(static_cast<std::size_t>(&log - logs_.data()));
  }
}

/// A log can be due before what it follows is done: while somebody waits for a child of vfork, whom
/// QEMU let go on, its children are not made, and what it did before an exec is not read.
bool Merge::may_begin(const Log& log) const {
  if (log.header.start == Start::Exec) {
    return std::all_of(log.before.begin(), log.before.end(),
                       [this](std::size_t before) { return logs_[before].done; });
  }
  return tasks_.count(log.header.tid) != 0 || (waiting_.empty() && parked_.empty());
}

void Merge::look_at_parked() {
  for (const std::size_t index : parked_) due_.push({logs_[index].header.time, index});
  parked_.clear();
}

/// Nothing goes on, so nobody is left whom the first one that is parked could wait for.
void Merge::begin_lost() {
  const auto first = std::min_element(parked_.begin(), parked_.end());
  const std::size_t index = *first;
  parked_.erase(first);
  begin(logs_[index]);
  go_on(index);
}

void Merge::step(std::size_t index) {
  Log& log = logs_[index];
  if (!log.thread) {
    if (!may_begin(log)) return parked_.push_back(index);
    begin(log);
  } else if (tasks_.count(log.header.tid) == 0) {  // another thread has ended the process
    return leave(log);
  } else {
    if (!log.resumes && !act_on_mark(index)) return;
    log.resumes = false;
    out_.run(log.thread->task);
    log.thread->write_stretch(out_.writer);
  }
  go_on(index);
}

void Merge::go_on(std::size_t index) {
  Log& log = logs_[index];
  if (log.thread->mark()) {
    due_.push({log.thread->mark()->time, index});
  } else {
    end(log);
  }
}

void Merge::leave(Log& log) {
  log.thread.reset();
  log.done = true;
  look_at_parked();
}

/// False: the thread does not go on now, or never.
bool Merge::act_on_mark(std::size_t index) {
  Log& log = logs_[index];
  Thread& thread = *log.thread;
  out_.run(thread.task);
  if (thread.mark()->kind == Other::Stamp) {
    place(thread, thread.mark()->cpu);
  } else {
    act(index, *thread.mark());
  }
  if (tasks_.count(thread.header().tid) == 0) {  // it has exited
    leave(log);
    return false;
  }
  return std::none_of(waiting_.begin(), waiting_.end(),
                      [index](const auto& entry) { return entry.second == index; });
}

void Merge::begin(Log& log) {
  log.thread = std::make_unique<Thread>(log.header, codes_);
  const QemuLogHeader& h = log.header;
  if (h.start == Start::Exec) {
    begin_program(log);
  } else if (tasks_.count(h.tid) == 0) {
    // Its maker was killed before the call that made it returned.
    const auto maker = h.start == Start::Thread ? tasks_.find(h.pid) : tasks_.end();
    CallKind kind = CallKind::Spawn;
    if (maker != tasks_.end()) {
      out_.run(maker->second.number);
      kind = CallKind::Thread;
    }
    tasks_[h.tid] = {out_.make(kind, h.tid, 0, kind == CallKind::Spawn ? h.command : "", true),
                     h.pid};
  }
  log.thread->task = tasks_[h.tid].number;
  out_.run(log.thread->task);
  place(*log.thread, h.cpu);
}

void Merge::begin_program(Log& log) {
  const QemuLogHeader& h = log.header;
  const auto before = tasks_.find(h.pid);
  if (before == tasks_.end()) {
    tasks_[h.tid] = {out_.make(CallKind::Spawn, h.pid, 0, h.command, false), h.pid};
    return;
  }
  exit_others(h.pid, h.pid, false, h.time);
  out_.run(before->second.number);
  out_.call({CallKind::Exec, false, 0, {}, 0, h.command});
  resume_maker(h.pid, h.time);
}

void Merge::end(Log& log) {
  if (!log.succeeded) exit_task(log.header.tid, 0, true, log.header.time);
  leave(log);
}

void Merge::place(Thread& thread, u64 cpu) {
  if (thread.cpu == cpu) return;
  thread.cpu = cpu;
  out_.call({CallKind::Cpu, false, 0, {cpu}, 0, ""});
}

void Merge::act(std::size_t index, const QemuMark& mark) {
  if (mark.kind == Other::Image) return memory_call(mark, true);
  switch (mark.number) {
    case kClone:
    case kFork:
    case kVfork:
      return clone(index, mark);
    case kExit:
    case kExitGroup:
      return exit(*logs_[index].thread, mark);
    default:
      return memory_call(mark, false);
  }
}

void Merge::memory_call(const QemuMark& mark, bool image) {
  Call call{CallKind::Map, image, 0, mark.args, mark.result, mark.text};
  switch (mark.number) {
    case kMmap:
      break;
    case kMprotect:
      call.kind = CallKind::Protect;
      break;
    case kMunmap:
      call.kind = CallKind::Unmap;
      break;
    case kBrk:
      call.kind = CallKind::Break;
      break;
    case kMremap:
      call.kind = CallKind::Remap;
      break;
    case kMadvise:
      call.kind = CallKind::Advise;
      break;
    default:
      return;
  }
  // Of no bytes, or beyond what programs can have: it changed nothing.
  if (names_user_memory(call)) out_.call(call);
}

void Merge::clone(std::size_t index, const QemuMark& mark) {
  const u64 flags = mark.number == kClone ? mark.args[0] : mark.number == kVfork ? kCloneVfork : 0;
  const CallKind kind = (flags & kCloneThread) != 0            ? CallKind::Thread
                        : (flags & kCloneVfork) == kCloneVfork ? CallKind::Vfork
                                                               : CallKind::Fork;
  const u64 tid = mark.result;
  exit_task(tid, 0, true, mark.time);  // one that had this number and left no log
  out_.run(logs_[index].thread->task);
  tasks_[tid] = {out_.make(kind, tid, flags, "", false),
                 kind == CallKind::Thread ? logs_[index].header.pid : tid};
  // QEMU makes a fork of it, so both went on at once.
  if (kind == CallKind::Vfork) waiting_[tid] = index;
  look_at_parked();
}

bool Merge::others_live(u64 pid, u64 tid) const {
  return std::any_of(tasks_.begin(), tasks_.end(), [&](const auto& entry) {
    return entry.second.pid == pid && entry.first != tid;
  });
}

void Merge::exit_task(u64 tid, u64 status, bool synthesized, u64 time) {
  // Who waits for a child of its vfork cannot end before it does.
  const auto waits = std::find_if(waiting_.begin(), waiting_.end(), [&](const auto& entry) {
    return logs_[entry.second].header.tid == tid;
  });
  if (waits != waiting_.end()) {
    const u64 child = waits->first;
    waiting_.erase(waits);
    exit_task(child, 0, true, time);
  }
  const auto task = tasks_.find(tid);
  if (task == tasks_.end()) return;
  out_.exit(task->second.number, status, synthesized);
  tasks_.erase(task);
  resume_maker(tid, time);
}

void Merge::exit_others(u64 pid, u64 tid, bool synthesized, u64 time) {
  std::vector<u64> others;
  for (const auto& [other, task] : tasks_) {
    if (task.pid == pid && other != tid) others.push_back(other);
  }
  for (const u64 other : others) exit_task(other, 0, synthesized, time);
}

/// A process's first task exits last, as the guest kernel wants it.
void Merge::exit(Thread& thread, const QemuMark& mark) {
  const u64 pid = thread.header().pid;
  const u64 tid = thread.header().tid;
  const u64 time = mark.time;
  const u64 status = mark.args[0];
  if (mark.number == kExitGroup) exit_others(pid, tid, false, time);
  if (tid == pid && others_live(pid, tid)) {
    ending_[pid] = status;
    return;
  }
  exit_task(tid, status, false, time);
  const auto first = ending_.find(pid);
  if (first == ending_.end() || others_live(pid, pid)) return;
  exit_task(pid, first->second, false, time);
  ending_.erase(first);
}

std::vector<QemuLogHeader> read_headers(const std::filesystem::path& folder) {
  std::error_code error;
  std::vector<std::filesystem::path> paths;
  for (std::filesystem::directory_iterator it(folder, error), end; !error && it != end;
       it.increment(error)) {
    if (it->path().extension() == ".log") paths.push_back(it->path());
  }
  if (error || paths.empty()) {
    throw InputError(folder.string() +
                     ": no logs; valid: a folder that results/record --keep left");
  }
  std::sort(paths.begin(), paths.end());
  std::vector<QemuLogHeader> headers;
  for (const std::filesystem::path& path : paths) {
    QemuWords words(path);
    headers.push_back(read_qemu_header(path, words));
  }
  return headers;
}

}  // namespace

TraceTotals import_qemu(const std::filesystem::path& folder, const std::filesystem::path& out,
                        const QemuOptions& options) {
  std::vector<QemuLogHeader> headers = read_headers(folder);
  const auto first = std::min_element(headers.begin(), headers.end(),
                                      [](const auto& a, const auto& b) { return a.time < b.time; });
  const TraceInfo info{first->command,
                       "QEMU user mode with mmuscope's plugin",
                       "accesses by the kernel, and to the vsyscall page",
                       {"mappings that the loader made before a program began",
                        "exit of a task that a signal killed"}};
  Output output(folder, out, info, options.compression);
  Merge(folder, output).run(std::move(headers));
  return output.writer.finish();
}

}  // namespace mmuscope
