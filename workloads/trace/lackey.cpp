#include "workloads/trace/lackey.h"

#include <algorithm>
#include <deque>
#include <map>
#include <optional>

#include "core/error.h"
#include "workloads/trace/lackey_image.h"
#include "workloads/trace/lackey_log.h"
#include "workloads/trace/writer.h"

namespace mmuscope {

namespace {

constexpr const char* kTooLarge =
    "the process uses more than 4 GiB that no call maps; valid: a whole log of one program";

/// MAP_PRIVATE, MAP_FIXED and MAP_ANONYMOUS of Linux.
constexpr u64 kPrivateFixed = 0x12;
constexpr u64 kAnonymous = 0x20;

/// Where valgrind puts the dynamic linker, whose pages all programs share.
constexpr u64 kLinkerStart = 0x4000000, kLinkerEnd = 0x4100000;
constexpr const char* kLinkerName = "dynamic linker";
constexpr u64 kMaxFiles = 4096;  ///< open ones of one process that are followed

/// Whether the trace can hold this access: the user half of the address space.
bool in_user_half(const Record& r) {
  return r.address < kTraceEnd && r.address + r.size <= kTraceEnd;
}

bool makes_process(const LackeyCall& call) { return call.child != 0; }

/// The memory call as the trace has it; none if the call is another one, or has no effect.
std::optional<Call> memory_call(const LackeyCall& call) {
  Call out;
  out.args = call.args;
  out.result = call.result;
  switch (call.number) {
    case linux_call::kMmap:
      out.kind = CallKind::Map;
      break;
    case linux_call::kMunmap:
      out.kind = CallKind::Unmap;
      break;
    case linux_call::kBrk:
      out.kind = CallKind::Break;
      break;
    case linux_call::kMremap:
      out.kind = CallKind::Remap;
      break;
    case linux_call::kMprotect:
      if (call.args[1] == 0) return std::nullopt;
      out.kind = CallKind::Protect;
      break;
    default:
      return std::nullopt;
  }
  if (!call.succeeded) return std::nullopt;
  if (out.kind == CallKind::Remap && call.args[1] == 0) {  // a second mapping of shared pages
    out.kind = CallKind::Map;
    out.args = {0, call.args[2], linux_prot::kRead | linux_prot::kWrite, kAnonymous, ~u64{0}, 0};
  }
  return out;
}

unsigned args_needed(const LackeyCall& call) {
  if (call.number == linux_call::kMmap) return 6;
  if (call.number == linux_call::kMremap) return 4;
  return call.number == linux_call::kBrk ? 1 : 2;
}

/// True for a call of vfork and for the clone that posix_spawn makes: the child runs in its
/// parent's memory until it execs.
bool shares_memory(const LackeyCall& call) {
  constexpr u64 kCloneVm = 0x100;
  return call.number == linux_call::kVfork ||
         (call.number == linux_call::kClone && (call.args[0] & kCloneVm) != 0);
}

/// What is never written is a mapping of a file: the program's own, or the dynamic linker.
Call map_image(const ImageRegion& region, const std::string& command) {
  Call call;
  call.kind = CallKind::Map;
  call.synthesized = true;
  call.result = region.start;
  const bool file = (region.prot & linux_prot::kWrite) == 0;
  const bool linker = region.start >= kLinkerStart && region.start < kLinkerEnd;
  if (file) call.name = linker ? kLinkerName : command.substr(0, command.find(' '));
  call.args = {region.start,       region.end - region.start,
               region.prot,        file ? kPrivateFixed : kPrivateFixed | kAnonymous,
               file ? 0 : ~u64{0}, file ? region.start : 0};
  return call;
}

/// One log as the first pass saw it.
struct Process {
  std::filesystem::path path;
  u32 pid = 0;
  std::string command;
  std::string recorder;
  bool continues_fork = false;
  bool made = false;  ///< a log names its making
  bool scanned = false;
  std::size_t image = 0;            ///< in Import::images: its own, or that of the fork's parent
  std::optional<Mappings> at_fork;  ///< of its parent, until it is scanned itself
};

/// How often each rule was used, and what was left out.
struct Tally {
  u64 calls = 0, accesses = 0;
  u64 over_limit = 0, kernel_half = 0, cut_logs = 0;
  u64 unnamed = 0, lost_intervals = 0, spawned = 0, without_log = 0, unfinished = 0, regions = 0;
};

class Import {
 public:
  Import(std::span<const std::filesystem::path> logs, const LackeyOptions& options);
  LackeySummary write(const std::filesystem::path& out);

 private:
  /// A process in the second pass.
  struct Running {
    u32 number = 0;  ///< in the trace
    std::size_t process = 0;
    std::optional<LackeyLog> log;
    Running* parent = nullptr;
    u64 accesses = 0;
    u64 living_children = 0, ended_children = 0;
    u64 last_store = 0;   ///< address
    u64 store_first = 0;  ///< what a forked child stores to before it execs; 0: nothing
    bool starts_with_exec = false;
    bool resting = false;              ///< in a wait
    std::map<u64, std::string> files;  ///< by descriptor
    u64 status = 0;
    bool exit_seen = false;
  };

  void open_logs(std::span<const std::filesystem::path> logs);
  void scan_all();
  void scan(std::size_t index);
  void note_child(std::size_t parent, const LackeyCall& call, const Mappings& mappings);
  Process* find(u32 pid);
  TraceInfo describe() const;
  bool keep(const LackeyLog& log, u64& accesses);

  void start_unnamed();
  Running& add(std::size_t process);
  void run_queue();
  void start(Running& r);
  bool run(Running& r);
  bool follow(Running& r, const LackeyCall& call);
  void fork(Running& r, const LackeyCall& call);
  bool may_go_on(Running& r, const LackeyCall& call);
  void end(Running& r);
  void switch_to(u32 number);

  LackeyOptions options_;
  std::vector<Process> processes_;  // by pid
  std::deque<ImagePages> images_;   // a deque: references stay
  Tally tally_;

  TraceWriter* writer_ = nullptr;
  std::deque<Running> all_;
  std::deque<Running*> queue_;
  u32 made_ = 0;
  u32 running_ = kMaxProcesses;
};

Import::Import(std::span<const std::filesystem::path> logs, const LackeyOptions& options)
    : options_(options) {
  open_logs(logs);
  scan_all();
  if (tally_.accesses == 0 || tally_.calls == 0) {
    throw InputError(processes_.front().path.string() + ": no " +
                     (tally_.accesses == 0 ? "accesses" : "system calls") +
                     " in any log; valid: logs made with --trace-mem=yes --trace-syscalls=yes");
  }
}

void Import::open_logs(std::span<const std::filesystem::path> logs) {
  if (logs.empty()) throw InputError("no logs to import; valid: one lackey log a process");
  for (const std::filesystem::path& path : logs) {
    const LackeyLog log(path);
    Process p;
    p.path = path;
    p.pid = log.pid();
    p.command = log.command();
    p.recorder = log.recorder();
    p.continues_fork = log.continues_fork();
    processes_.push_back(std::move(p));
  }
  std::stable_sort(processes_.begin(), processes_.end(),
                   [](const Process& a, const Process& b) { return a.pid < b.pid; });
  for (std::size_t i = 1; i < processes_.size(); ++i) {
    if (processes_[i].pid == processes_[i - 1].pid) {
      throw InputError(processes_[i].path.string() + ": a second log of process " +
                       std::to_string(processes_[i].pid) + ", after " +
                       processes_[i - 1].path.string() + "; valid: one log a process");
    }
  }
}

Process* Import::find(u32 pid) {
  const auto at = std::lower_bound(processes_.begin(), processes_.end(), pid,
                                   [](const Process& p, u32 value) { return p.pid < value; });
  return at != processes_.end() && at->pid == pid ? &*at : nullptr;
}

/// A log that goes on after a fork is scanned when its parent's mappings at the fork are known.
void Import::scan_all() {
  for (std::size_t i = 0; i < processes_.size(); ++i) {
    if (!processes_[i].continues_fork) scan(i);
  }
  for (bool progress = true; progress;) {
    progress = false;
    for (std::size_t i = 0; i < processes_.size(); ++i) {
      if (processes_[i].scanned || !processes_[i].at_fork) continue;
      scan(i);
      progress = true;
    }
  }
  for (std::size_t i = 0; i < processes_.size(); ++i) {
    if (!processes_[i].scanned) scan(i);
  }
}

/// Counts an access and says whether the trace keeps it.
bool Import::keep(const LackeyLog& log, u64& accesses) {
  if (!in_user_half(log.access())) return false;
  ++accesses;
  return options_.limit == 0 || accesses <= options_.limit;
}

void Import::scan(std::size_t index) {
  Process& p = processes_[index];
  p.scanned = true;
  if (!p.at_fork) {
    p.image = images_.size();
    images_.emplace_back();
  }
  ImageFinder finder(p.at_fork ? std::move(*p.at_fork) : Mappings(), images_[p.image]);
  p.at_fork.reset();
  LackeyLog log(p.path);
  u64 accesses = 0;
  bool exit_seen = false;
  for (LackeyLog::Event event; (event = log.next()) != LackeyLog::Event::End;) {
    if (event == LackeyLog::Event::Access) {
      const bool user = in_user_half(log.access());
      tally_.kernel_half += !user;
      if (!keep(log, accesses)) {
        tally_.over_limit += user;
        continue;
      }
      ++tally_.accesses;
      if (!finder.access(log.access())) log.fail(kTooLarge);
      continue;
    }
    const LackeyCall& call = log.call();
    ++tally_.calls;
    if (call.number == linux_call::kExitGroup) exit_seen = true;
    if (makes_process(call)) note_child(index, call, finder.mappings());
    const std::optional<Call> made = memory_call(call);
    if (!made) continue;
    if (call.args_given < args_needed(call) || !names_user_memory(*made)) {
      log.fail("a memory call with impossible arguments; valid: as valgrind prints it");
    }
    if (!finder.apply(call)) log.fail(kTooLarge);
  }
  tally_.cut_logs += log.cut_short();
  tally_.unfinished += !exit_seen;
}

void Import::note_child(std::size_t parent, const LackeyCall& call, const Mappings& mappings) {
  Process* const child = find(call.child);
  if (!child) {
    ++tally_.without_log;
    return;
  }
  if (child->made || child == &processes_[parent]) {
    throw InputError(processes_[parent].path.string() + ": makes process " +
                     std::to_string(call.child) +
                     " a second time; valid: logs of one recording, without reused pids");
  }
  child->made = true;
  if (child->continues_fork) {
    child->at_fork = mappings;
    child->image = processes_[parent].image;
  } else if (shares_memory(call)) {
    ++tally_.spawned;
  } else {
    ++tally_.lost_intervals;
  }
}

TraceInfo Import::describe() const {
  const Tally& t = tally_;
  const auto n = [](u64 value) { return std::to_string(value); };
  TraceInfo info;
  info.program = processes_.front().command;
  info.recorder = processes_.front().recorder;
  for (const Process& p : processes_) {
    if (p.made) continue;
    info.program = p.command;
    break;
  }
  const auto left_out = [&](u64 count, const std::string& what) {
    if (count != 0) info.cut += (info.cut.empty() ? "" : "; ") + n(count) + " " + what;
  };
  left_out(t.over_limit, "accesses after the first " + n(options_.limit) +
                             " of their process (calls are all there)");
  left_out(t.kernel_half, "accesses outside the user half of the address space");
  left_out(t.cut_logs, "last lines without their end");
  if (info.cut.empty()) info.cut = "nothing";
  info.synthesized = {
      "order: round robin, " + n(options_.quantum) +
          " accesses a turn; a new process is the last; a wait rests until a child has ended",
      "fork to exec: " + n(t.lost_intervals) +
          " children store 8 bytes where their parent stored last, and exec; " + n(t.spawned) +
          " children of vfork exec at once, without a copy",
      "images: " + n(t.regions) + " mappings of pages that are used and that no call explains",
      "start: " + n(t.unnamed) + " processes whose making no log names",
      "exit: " + n(t.unfinished) + " processes without exit_group end with their log; " +
          n(t.without_log) + " children without a log end at once"};
  return info;
}

LackeySummary Import::write(const std::filesystem::path& out) {
  for (const Process& p : processes_) {
    tally_.unnamed += !p.made;
    if (!p.continues_fork || !p.made) tally_.regions += image_regions(images_[p.image]).size();
  }
  LackeySummary summary;
  summary.info = describe();
  TraceWriter writer(out, summary.info, options_.compression);
  writer_ = &writer;
  start_unnamed();
  run_queue();
  summary.totals = writer.finish();
  summary.bytes = std::filesystem::file_size(out);
  return summary;
}

Import::Running& Import::add(std::size_t process) {
  if (made_ == kMaxProcesses) throw InputError("more than 1048576 processes; valid: fewer");
  Running& r = all_.emplace_back();
  r.number = made_++;
  r.process = process;
  queue_.push_back(&r);
  return r;
}

void Import::start_unnamed() {
  for (std::size_t i = 0; i < processes_.size(); ++i) {
    if (processes_[i].made) continue;
    Running& r = add(i);
    r.starts_with_exec = true;
    Call call{CallKind::Spawn, true, r.number, {}, processes_[i].pid, processes_[i].command};
    writer_->call(call);
  }
}

void Import::run_queue() {
  while (!queue_.empty()) {
    Running& r = *queue_.front();
    queue_.pop_front();
    switch_to(r.number);
    if (!r.log) start(r);
    if (run(r)) {
      if (!r.resting) queue_.push_back(&r);
    } else {
      end(r);
    }
  }
}

void Import::switch_to(u32 number) {
  if (running_ == number) return;
  running_ = number;
  writer_->switch_to(number);
}

/// What comes before the first record of a log.
void Import::start(Running& r) {
  const Process& p = processes_[r.process];
  r.log.emplace(p.path);
  if (!r.starts_with_exec) return;
  if (r.store_first != 0) writer_->access(RecordKind::Store, r.store_first, 8);
  writer_->call({CallKind::Exec, true, 0, {}, 0, p.command});
  for (const ImageRegion& region : image_regions(images_[p.image])) {
    writer_->call(map_image(region, p.command));
  }
}

/// One turn; false when the process has ended.
bool Import::run(Running& r) {
  for (u64 left = options_.quantum; left > 0;) {
    const LackeyLog::Event event = r.log->next();
    if (event == LackeyLog::Event::End) return false;
    if (event == LackeyLog::Event::Call) {
      if (!follow(r, r.log->call())) return !r.exit_seen;
      continue;
    }
    if (!keep(*r.log, r.accesses)) continue;
    const Record& a = r.log->access();
    writer_->access(a.kind, a.address, a.size);
    if (a.kind == RecordKind::Store) r.last_store = a.address;
    --left;
  }
  return true;
}

/// False: the turn is over, by a wait or the end of the process.
bool Import::follow(Running& r, const LackeyCall& call) {
  if (makes_process(call)) {
    fork(r, call);
  } else if (call.number == linux_call::kExitGroup) {
    r.exit_seen = true;
    r.status = call.args[0];
    return false;
  } else if (call.number == linux_call::kWait4 || call.number == linux_call::kWaitid) {
    return may_go_on(r, call);
  } else if (!call.path.empty()) {
    if (call.succeeded && call.result < kMaxFiles) r.files[call.result] = call.path;
  } else if (std::optional<Call> made = memory_call(call)) {
    const bool of_file = made->kind == CallKind::Map && (made->args[3] & kAnonymous) == 0;
    if (const auto file = r.files.find(made->args[4]); of_file && file != r.files.end()) {
      made->name = file->second;
    }
    writer_->call(*made);
  }
  return true;
}

void Import::fork(Running& r, const LackeyCall& call) {
  Process* const process = find(call.child);
  const bool execs = process && !process->continues_fork;
  Call out;
  out.kind = execs && shares_memory(call) ? CallKind::Vfork : CallKind::Fork;
  out.args[0] = call.number == linux_call::kClone ? call.args[0] : 0;
  out.result = call.child;
  ++r.living_children;
  if (!process) {
    out.process = made_++;
    writer_->call(out);
    switch_to(out.process);
    writer_->call({CallKind::Exit, true, 0, {}, 0, ""});
    switch_to(r.number);
    --r.living_children;
    ++r.ended_children;
    return;
  }
  Running& child = add(static_cast<std::size_t>(process - processes_.data()));
  child.parent = &r;
  child.starts_with_exec = execs;
  child.last_store = r.last_store;
  if (execs && out.kind == CallKind::Fork) child.store_first = r.last_store;
  if (!execs) child.files = r.files;
  out.process = child.number;
  writer_->call(out);
  if (out.kind != CallKind::Vfork) return;
  // Its parent waits until it has executed its program.
  switch_to(child.number);
  start(child);
  switch_to(r.number);
}

bool Import::may_go_on(Running& r, const LackeyCall& call) {
  constexpr u64 kNoHang = 1;
  const u64 wait_options = call.number == linux_call::kWait4 ? call.args[2] : call.args[3];
  if (r.ended_children > 0) {
    --r.ended_children;
    return true;
  }
  if ((wait_options & kNoHang) != 0 || r.living_children == 0) return true;
  r.resting = true;
  return false;
}

void Import::end(Running& r) {
  writer_->call({CallKind::Exit, !r.exit_seen, 0, {r.status}, 0, ""});
  running_ = kMaxProcesses;
  r.log.reset();
  Running* const parent = r.parent;
  if (!parent) return;
  --parent->living_children;
  if (parent->resting) {
    parent->resting = false;
    queue_.push_back(parent);
  } else {
    ++parent->ended_children;
  }
}

}  // namespace

LackeySummary import_lackey(std::span<const std::filesystem::path> logs,
                            const std::filesystem::path& out, const LackeyOptions& options) {
  return Import(logs, options).write(out);
}

}  // namespace mmuscope
