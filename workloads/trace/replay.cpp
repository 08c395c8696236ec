#include "workloads/trace/replay.h"

#include "core/error.h"
#include "workloads/guest/kernel.h"
#include "workloads/trace/feed.h"
#include "workloads/trace/machine_replay.h"

namespace mmuscope {

namespace {

// Linux: MAP_PRIVATE, MAP_ANONYMOUS, MADV_DONTNEED, MADV_HUGEPAGE, MADV_NOHUGEPAGE.
constexpr u64 kMapPrivate = 0x02;
constexpr u64 kMapAnonymous = 0x20;
constexpr u64 kDontNeed = 4;
constexpr u64 kHugePage = 14, kNoHugePage = 15;
constexpr u8 kAllRights = prot::kRead | prot::kWrite | prot::kExec;

/// A number for a file, from its name: FNV-1a.
u32 file_number(std::string_view name) {
  u32 hash = 0x811c9dc5;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x01000193;
  return hash;
}

Source source_of(const Call& map) {
  const bool file = (map.args[3] & kMapAnonymous) == 0 && !map.name.empty();
  if (!file) return Source::anonymous();
  const u64 offset = map.args[5] & ~(kPageBytes - 1);
  if ((map.args[3] & kMapPrivate) == 0) {
    return Source::of_shared_file(file_number(map.name), offset);
  }
  return Source::of_file(file_number(map.name), offset);
}

/// The program's file name, of its command line.
std::string program_name(const std::string& command) {
  const std::string program = command.substr(0, command.find(' '));
  return program.substr(program.rfind('/') + 1);
}

/// What the vCPUs of one replay have in common.
struct Shared {
  Kernel& kernel;
  TraceFeed feed;
  std::string file;
  std::vector<Process*> tasks;  ///< by their numbers in the trace; null: not made, or ended
  unsigned replaying;           ///< vCPUs that have something left to replay
  bool over = false;            ///< every task has ended
};

/// One vCPU's part of a replay.
class Player {
 public:
  Player(Shared& shared, Vcpu& vcpu) : shared_(shared), kernel_(shared.kernel), vcpu_(vcpu) {}

  void play();

 private:
  using Item = TraceFeed::Item;
  bool ready(const Item& item) const;
  void play_item(const Item& item);
  void accesses(const Item& item);
  void call(const Call& call);
  void memory_call(const Call& call);
  void make(const Call& call);
  void end_all();
  [[noreturn]] void fail(const std::string& what) const;

  Shared& shared_;
  Kernel& kernel_;
  Vcpu& vcpu_;
  u64 number_ = 0;               ///< of the record that is being replayed, roughly
  u32 running_ = kMaxProcesses;  ///< the task that runs here; kMaxProcesses: none
};

void Player::fail(const std::string& what) const {
  throw RunError(shared_.file + ": record " + std::to_string(number_) + ": " + what);
}

void Player::play() {
  TraceFeed& feed = shared_.feed;
  const unsigned index = vcpu_.index();
  for (;;) {
    const Item* const item = feed.next(index);
    if (item == nullptr && feed.ended(index)) break;
    if (item == nullptr || !ready(*item)) {
      running_ = kMaxProcesses;
      kernel_.idle(vcpu_);
      continue;
    }
    play_item(*item);
    feed.done(index);
  }
  --shared_.replaying;
  if (index == 0) {
    while (shared_.replaying > 0) kernel_.idle(vcpu_);
    end_all();
  }
  while (!shared_.over) kernel_.idle(vcpu_);
}

/// Its task has been made, and all that must come before it is done.
bool Player::ready(const Item& item) const {
  const bool made = item.task == kMaxProcesses ||
                    (item.task < shared_.tasks.size() && shared_.tasks[item.task] != nullptr);
  return made && shared_.feed.may_run(item);
}

void Player::play_item(const Item& item) {
  number_ = item.block->first_record + item.from;
  if (item.task != running_ && item.task != kMaxProcesses) {
    kernel_.switch_to(vcpu_, *shared_.tasks[item.task]);
    kernel_.sample_if_due();
  }
  running_ = item.task;
  if (item.call) return call(item.block->calls[item.block->records[item.from].address]);
  accesses(item);
  const Process& process = *shared_.tasks[running_];
  if (!process.killed) return;
  number_ = item.block->first_record + item.to;
  fail("before it, process " + std::to_string(running_) + " (" + process.name +
       ") makes an access that no mapping permits");
}

void Player::accesses(const Item& item) {
  const Record* const records = item.block->records.data();
  const std::size_t end = item.to;
  const u64 first = item.block->first_record;
  Vcpu& vcpu = vcpu_;
  for (std::size_t at = item.from; at != end; ++at) {
    const Record& r = records[at];
    const Gva va(r.address);
    const bool crosses = va.page_offset() + r.size > kPageBytes;
    const Gva beyond = (va + kPageBytes).align_down(PageSize::k4K);
    switch (r.kind) {
      case RecordKind::Instruction:
        vcpu.fetch(va);
        if (crosses) [[unlikely]]
          vcpu.fetch(beyond);
        break;
      case RecordKind::Load:
        vcpu.load<u8>(va);
        if (crosses) [[unlikely]]
          vcpu.load<u8>(beyond);
        break;
      case RecordKind::Modify:
        vcpu.load<u8>(va);
        if (crosses) [[unlikely]]
          vcpu.load<u8>(beyond);
        [[fallthrough]];
      case RecordKind::Store:
        vcpu.store<u8>(va, static_cast<u8>(first + at));
        if (crosses) [[unlikely]]
          vcpu.store<u8>(beyond, static_cast<u8>(first + at));
        break;
      case RecordKind::Call:
      case RecordKind::Switch:
        break;
    }
  }
}

void Player::make(const Call& call) {
  Process& made = call.kind == CallKind::Fork     ? kernel_.fork(vcpu_)
                  : call.kind == CallKind::Vfork  ? kernel_.vfork(vcpu_)
                  : call.kind == CallKind::Thread ? kernel_.clone_thread(vcpu_)
                                                  : kernel_.spawn(program_name(call.name));
  if (shared_.tasks.size() <= call.process) shared_.tasks.resize(call.process + 1);
  shared_.tasks[call.process] = &made;
}

void Player::call(const Call& call) {
  switch (call.kind) {
    case CallKind::Spawn:
    case CallKind::Fork:
    case CallKind::Vfork:
    case CallKind::Thread:
      return make(call);
    case CallKind::Exec:
      if (shared_.tasks[running_]->threads > 0) fail("an exec while other threads run");
      return kernel_.execve(vcpu_, program_name(call.name));
    case CallKind::Exit:
      if (shared_.tasks[running_]->threads > 0) fail("an exit while other threads run");
      shared_.tasks[running_] = nullptr;
      running_ = kMaxProcesses;
      return kernel_.exit(vcpu_);
    case CallKind::Cpu:
      return;
    default:
      return memory_call(call);
  }
}

void Player::memory_call(const Call& call) {
  const Gva start(call.args[0]);
  const u64 bytes = call.args[1];
  bool done = false;
  switch (call.kind) {
    case CallKind::Map:
      done = kernel_
                 .mmap(vcpu_, Gva(call.result), bytes, static_cast<u8>(call.args[2]) & kAllRights,
                       source_of(call))
                 .has_value();
      break;
    case CallKind::Unmap:
      done = kernel_.munmap(vcpu_, start, bytes);
      break;
    case CallKind::Protect:
      done = kernel_.mprotect(vcpu_, start, bytes, static_cast<u8>(call.args[2]) & kAllRights);
      break;
    case CallKind::Advise:
      if (call.args[2] == kHugePage || call.args[2] == kNoHugePage) {
        const bool wanted = call.args[2] == kHugePage;
        done = kernel_.advise_huge(vcpu_, start, bytes,
                                   wanted ? HugeAdvice::Wanted : HugeAdvice::Refused);
      } else {
        done = call.args[2] != kDontNeed || kernel_.discard(vcpu_, start, bytes);
      }
      break;
    case CallKind::Break:
      done = kernel_.brk(vcpu_, Gva(call.result));
      break;
    case CallKind::Remap: {
      const Gva to(call.result);
      const bool in_place = to == start;
      done = kernel_.mremap(vcpu_, start, bytes, call.args[2],
                            in_place ? std::nullopt : std::optional<Gva>(to)) == to;
      break;
    }
    default:
      break;
  }
  if (!done) {
    fail("the guest kernel refuses " +
         std::string(kCallKindNames[static_cast<unsigned>(call.kind)]) + " of process " +
         std::to_string(running_));
  }
}

/// Tasks that live at the end of the trace exit then, threads before their process.
void Player::end_all() {
  for (const bool threads : {true, false}) {
    for (Process*& task : shared_.tasks) {
      if (task == nullptr || (threads && task->leader == task)) continue;
      kernel_.switch_to(vcpu_, *task);
      task = nullptr;
      kernel_.exit(vcpu_);
    }
  }
  shared_.over = true;
}

}  // namespace

TraceReplay::TraceReplay(std::filesystem::path path, const Options& options)
    : path_(std::move(path)), options_(options) {
  const TraceReader reader(path_);
}

void TraceReplay::run(Machine& machine, ProcessListener* listener) {
  const unsigned used = options_.cpus == 0 ? machine.vcpu_count() : options_.cpus;
  if (used > machine.vcpu_count()) {
    throw InputError("workload trace: cpus=" + std::to_string(used) + " with " +
                     std::to_string(machine.vcpu_count()) + " vCPUs; valid: up to as many");
  }
  Kernel kernel(machine, listener);
  Shared shared{kernel, TraceFeed(path_, used, options_.placement), path_.string(), {}, used,
                false};
  machine.run([&](Vcpu& vcpu) {
    if (vcpu.index() < used) Player(shared, vcpu).play();
  });
  kernel.sample();
}

namespace {

constexpr ParamInfo kTraceParams[] = {
    {"file", ParamInfo::Kind::Text, "", "", "the trace: a file of `trace import`", 0, 0, ""},
    {"memory", ParamInfo::Kind::Bytes, "1g", "bytes", "guest memory", 1 << 20, 0x1p46, ""},
    {"cpus", ParamInfo::Kind::Count, "0", "vCPUs", "how many vCPUs replay it; 0: all", 0, 64, ""},
    {"place", ParamInfo::Kind::Choice, "round-robin", "",
     "round-robin: task n on vCPU n modulo cpus; recorded: on the CPU it was recorded on, modulo "
     "cpus",
     0, 0, "round-robin|recorded"},
};

}  // namespace

std::span<const ParamInfo> trace_params() { return kTraceParams; }

std::unique_ptr<Workload> make_trace_workload(const Params& params, u64 /*seed*/) {
  const std::string& file = params.text("file");
  if (file.empty()) {
    throw InputError("workload trace: which? valid: trace:file=FILE, a file of `trace import`");
  }
  if (BlockReader(file).info().machine) return std::make_unique<MachineReplay>(file);
  TraceReplay::Options options;
  options.memory_bytes = params.count("memory");
  options.cpus = static_cast<unsigned>(params.count("cpus"));
  if (params.text("place") == "recorded") options.placement = Placement::Recorded;
  return std::make_unique<TraceReplay>(file, options);
}

}  // namespace mmuscope
