#include "workloads/trace/replay.h"

#include "core/error.h"
#include "workloads/guest/kernel.h"
#include "workloads/trace/reader.h"

namespace mmuscope {

namespace {

constexpr u64 kMapAnonymous = 0x20;  // Linux, MAP_ANONYMOUS
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
  return Source::of_file(file_number(map.name), map.args[5] & ~(kPageBytes - 1));
}

/// The program's file name, of its command line.
std::string program_name(const std::string& command) {
  const std::string program = command.substr(0, command.find(' '));
  return program.substr(program.rfind('/') + 1);
}

/// What the vCPUs of one replay have in common.
struct Shared {
  Kernel& kernel;
  std::string file;
  std::vector<Process*> processes;  ///< by their numbers in the trace; null: not made, or ended
  unsigned finished = 0;            ///< vCPUs that have nothing left to replay
};

/// One vCPU's part of a replay: it reads the whole trace and leaves out other vCPUs' processes.
class Player {
 public:
  Player(Shared& shared, Vcpu& vcpu, TraceReader reader)
      : shared_(shared), kernel_(shared.kernel), vcpu_(vcpu), reader_(std::move(reader)) {}

  void play();

 private:
  void play_block();
  std::size_t accesses_from(std::size_t at);
  std::size_t skip_from(std::size_t at) const;
  void call(const Call& call);
  void memory_call(const Call& call);
  void make(const Call& call);
  void switch_to(u32 process);
  void check_alive();
  void end_all();
  [[noreturn]] void fail(const std::string& what) const;

  bool mine(u64 process) const { return process % kernel_.machine().vcpu_count() == vcpu_.index(); }

  Shared& shared_;
  Kernel& kernel_;
  Vcpu& vcpu_;
  TraceReader reader_;
  TraceBlock block_;
  u64 number_ = 0;               ///< of the record that is being replayed, roughly
  u32 running_ = kMaxProcesses;  ///< in the trace, whosesoever it is; kMaxProcesses: none
};

void Player::fail(const std::string& what) const {
  throw RunError(shared_.file + ": record " + std::to_string(number_) + ": " + what);
}

void Player::play() {
  while (reader_.next(block_)) play_block();
  end_all();
  ++shared_.finished;
  while (shared_.finished < kernel_.machine().vcpu_count()) kernel_.idle(vcpu_);
}

void Player::play_block() {
  const std::vector<Record>& records = block_.records;
  for (std::size_t at = 0; at < records.size(); ++at) {
    const bool here = running_ == kMaxProcesses ? vcpu_.index() == 0 : mine(running_);
    at = here ? accesses_from(at) : skip_from(at);
    number_ = block_.first_record + at;
    check_alive();
    if (at == records.size()) return;
    const Record& record = records[at];
    if (record.kind == RecordKind::Switch) {
      switch_to(static_cast<u32>(record.address));
    } else {
      const Call& made = block_.calls[record.address];
      if (here) call(made);
      if (made.kind == CallKind::Exit) running_ = kMaxProcesses;
    }
  }
}

std::size_t Player::skip_from(std::size_t at) const {
  const std::vector<Record>& records = block_.records;
  while (at < records.size() && records[at].kind < RecordKind::Call) ++at;
  return at;
}

/// Replays accesses up to the next record of another kind, and returns its index.
std::size_t Player::accesses_from(std::size_t at) {
  const Record* const records = block_.records.data();
  const std::size_t count = block_.records.size();
  const u64 first = block_.first_record;
  Vcpu& vcpu = vcpu_;
  for (; at < count; ++at) {
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
        return at;
    }
  }
  return at;
}

/// Everything since the last check was made by a process whose accesses its mappings permit.
void Player::check_alive() {
  if (running_ == kMaxProcesses || !mine(running_)) return;
  const Process& process = *shared_.processes[running_];
  if (!process.killed) return;
  fail("before it, process " + std::to_string(running_) + " (" + process.name +
       ") makes an access that no mapping permits");
}

void Player::switch_to(u32 process) {
  running_ = process;
  if (!mine(process)) return;
  const auto made = [&] {
    return process < shared_.processes.size() && shared_.processes[process] != nullptr;
  };
  while (!made()) kernel_.idle(vcpu_);
  kernel_.switch_to(vcpu_, *shared_.processes[process]);
  kernel_.sample_if_due();
}

void Player::make(const Call& call) {
  Process& made =
      call.kind == CallKind::Fork ? kernel_.fork(vcpu_) : kernel_.spawn(program_name(call.name));
  if (shared_.processes.size() <= call.process) shared_.processes.resize(call.process + 1);
  shared_.processes[call.process] = &made;
}

void Player::call(const Call& call) {
  switch (call.kind) {
    case CallKind::Spawn:
    case CallKind::Fork:
      return make(call);
    case CallKind::Exec:
      return kernel_.execve(vcpu_, program_name(call.name));
    case CallKind::Exit:
      shared_.processes[running_] = nullptr;
      return kernel_.exit(vcpu_);
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

/// Processes that live at the end of the trace exit then.
void Player::end_all() {
  for (u32 n = 0; n < shared_.processes.size(); ++n) {
    if (!mine(n) || shared_.processes[n] == nullptr) continue;
    kernel_.switch_to(vcpu_, *shared_.processes[n]);
    shared_.processes[n] = nullptr;
    kernel_.exit(vcpu_);
  }
}

}  // namespace

TraceReplay::TraceReplay(std::filesystem::path path, u64 memory_bytes)
    : path_(std::move(path)), memory_bytes_(memory_bytes) {
  TraceReader reader(path_);
  TraceBlock block;
  while (reader.next(block)) {
  }
  totals_ = reader.totals();
}

void TraceReplay::run(Machine& machine, ProcessListener* listener) {
  Kernel kernel(machine, listener);
  Shared shared{kernel, path_.string(), {}, 0};
  machine.run([&](Vcpu& vcpu) { Player(shared, vcpu, TraceReader(path_)).play(); });
  kernel.sample();
}

namespace {

constexpr ParamInfo kTraceParams[] = {
    {"file", ParamInfo::Kind::Text, "", "", "the trace: a file of `trace import`", 0, 0, ""},
    {"memory", ParamInfo::Kind::Bytes, "1g", "bytes", "guest memory", 1 << 20, 0x1p46, ""},
};

}  // namespace

std::span<const ParamInfo> trace_params() { return kTraceParams; }

std::unique_ptr<Workload> make_trace_workload(const Params& params, u64 /*seed*/) {
  const std::string& file = params.text("file");
  if (file.empty()) {
    throw InputError("workload trace: which? valid: trace:file=FILE, a file of `trace import`");
  }
  return std::make_unique<TraceReplay>(file, params.count("memory"));
}

}  // namespace mmuscope
