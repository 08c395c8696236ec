#include "workloads/trace/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <optional>

#include "core/error.h"
#include "workloads/trace/machine_trace.h"
#include "workloads/trace/reader.h"
#include "workloads/trace/tasks.h"
#include "workloads/trace/writer.h"

namespace mmuscope {

namespace {

constexpr std::size_t kMaxLine = 1 << 16;

void dump_info(const TraceInfo& info, std::FILE* out) {
  if (info.machine) fmt::print(out, "machine: {} {}\n", info.vcpus, info.memory_bytes);
  fmt::print(out, "program: {}\nrecorder: {}\ncut: {}\n", info.program, info.recorder, info.cut);
  for (const std::string& rule : info.synthesized) fmt::print(out, "synthesized: {}\n", rule);
}

void dump_call(std::FILE* out, const Call& call) {
  fmt::print(out, "{}{}", call.synthesized ? "synthesized " : "",
             kCallKindNames[static_cast<unsigned>(call.kind)]);
  if (makes_task(call.kind)) fmt::print(out, " task {}", call.process);
  for (unsigned i = 0; i < kCallArgs[static_cast<unsigned>(call.kind)]; ++i) {
    fmt::print(out, " {:#x}", call.args[i]);
  }
  fmt::print(out, " = {:#x}{}{}\n", call.result, call.name.empty() ? "" : " ", call.name);
}

void dump_program(const std::filesystem::path& path, std::FILE* out) {
  TraceReader reader(path);
  dump_info(reader.info(), out);
  std::string running = "-";
  TraceBlock block;
  while (reader.next(block)) {
    u64 number = block.first_record;
    for (const Record& record : block.records) {
      fmt::print(out, "{} {} ", number++, running);
      if (record.kind == RecordKind::Call) {
        const Call& call = block.calls[record.address];
        dump_call(out, call);
        if (ends_turn(call.kind)) running = "-";
      } else if (record.kind == RecordKind::Switch) {
        running = std::to_string(record.address);
        fmt::print(out, "switch {}\n", record.address);
      } else {
        fmt::print(out, "{} {:#x} {}\n", kRecordKindNames[static_cast<unsigned>(record.kind)],
                   record.address, record.size);
      }
    }
  }
}

void dump_machine(const std::filesystem::path& path, std::FILE* out) {
  MachineTraceReader reader(path);
  dump_info(reader.info(), out);
  u64 vcpu = 0;
  MachineOp op;
  while (reader.next(op)) {
    const MachineOperands& has = operands_of(op.kind);
    fmt::print(out, "{} {} {}{}", reader.record() - 1, vcpu, op.user ? "user " : "",
               kMachineOpNames[static_cast<unsigned>(op.kind)]);
    if (has.address) fmt::print(out, " {:#x}", op.address);
    if (has.bytes) fmt::print(out, " {}", op.bytes);
    if (has.value) fmt::print(out, " {:#x}", op.value);
    if (has.other) fmt::print(out, " {:#x}", op.other);
    fmt::print(out, "\n");
    if (op.kind == MachineOp::Kind::Vcpu) vcpu = op.value;
  }
}

template <std::size_t kCount>
std::optional<unsigned> find(const std::array<std::string_view, kCount>& names,
                             std::string_view name) {
  const auto at = std::find(names.begin(), names.end(), name);
  if (at == names.end()) return std::nullopt;
  return static_cast<unsigned>(at - names.begin());
}

/// The lines of a trace's text form, word by word.
class Lines {
 public:
  explicit Lines(const std::filesystem::path& path)
      : name_(path.string()), in_(path, std::ios::binary) {
    std::error_code ignored;
    if (!in_ || std::filesystem::is_directory(path, ignored)) {
      throw InputError(name_ + ": cannot be read; valid: the text that `trace dump` writes");
    }
  }
  [[noreturn]] void fail(const std::string& what) const {
    throw InputError(name_ + ": line " + std::to_string(number_) + ": " + what +
                     "; valid: the text that `trace dump` writes");
  }
  /// The next line that is not empty; false at the end.
  bool next() {
    while (std::getline(in_, line_)) {
      ++number_;
      if (line_.size() > kMaxLine) fail("the line is too long");
      if (!line_.empty() && line_.back() == '\r') line_.pop_back();
      at_ = 0;
      if (!line_.empty()) return true;
    }
    return false;
  }
  const std::string& line() const { return line_; }
  /// The next word of the line; empty at its end.
  std::string_view word() {
    const std::size_t from = std::min(at_, line_.size());
    const std::size_t end = std::min(line_.find(' ', from), line_.size());
    at_ = end + 1;
    return std::string_view(line_).substr(from, end - from);
  }
  /// The next word without taking it.
  std::string_view peek() {
    const std::size_t before = at_;
    const std::string_view w = word();
    at_ = before;
    return w;
  }
  /// All that is left of the line.
  std::string rest() {
    const std::size_t from = std::min(at_, line_.size());
    at_ = line_.size() + 1;
    return line_.substr(from);
  }
  u64 number() {
    std::string_view w = word();
    const std::string shown(w.substr(0, 40));
    int base = 10;
    if (w.substr(0, 2) == "0x") {
      w.remove_prefix(2);
      base = 16;
    }
    u64 value = 0;
    const auto [end, error] = std::from_chars(w.data(), w.data() + w.size(), value, base);
    if (error != std::errc{} || end != w.data() + w.size()) fail("no number: '" + shown + "'");
    return value;
  }
  void end_of_line() {
    if (at_ <= line_.size()) fail("too many words");
  }

 private:
  std::string name_;
  std::ifstream in_;
  std::string line_;
  std::size_t at_ = 0;
  u64 number_ = 0;
};

/// Reads the first lines; the first record's line is then the current one. False: there is none.
bool read_info(Lines& lines, TraceInfo& info) {
  bool any = false;
  while (lines.next()) {
    const std::string& line = lines.line();
    const std::size_t colon = line.find(": ");
    const std::string key = line.substr(0, std::min(colon, line.size()));
    const std::string value = colon == line.npos ? "" : line.substr(colon + 2);
    any = true;
    if (key == "machine") {
      (void)lines.word();
      const u64 vcpus = lines.number();
      info.memory_bytes = lines.number();
      if (vcpus == 0 || vcpus > kMaxTraceVcpus || info.memory_bytes == 0 ||
          info.memory_bytes > kMaxTraceMemory) {
        lines.fail("a machine that cannot be");
      }
      info.vcpus = static_cast<u32>(vcpus);
      info.machine = true;
    } else if (key == "program") {
      info.program = value;
    } else if (key == "recorder") {
      info.recorder = value;
    } else if (key == "cut") {
      info.cut = value;
    } else if (key == "synthesized") {
      info.synthesized.push_back(value);
    } else {
      return true;
    }
  }
  if (!any) lines.fail("it is empty");
  return false;
}

/// Skips a line's number and task. False: they are not what they have to be.
bool skip_position(Lines& lines, u64 number, const std::string& running) {
  const std::string_view first = lines.peek();
  if (first.empty() || first[0] < '0' || first[0] > '9') return true;
  return lines.number() == number && lines.word() == running;
}

/// Writes a program's trace, whose rules it checks: TraceWriter trusts who gives it records.
class ProgramText {
 public:
  ProgramText(Lines& lines, TraceWriter& writer) : lines_(lines), writer_(writer) {}
  void read_line();

 private:
  void access(unsigned kind);
  void call();
  void switch_to();

  Lines& lines_;
  TraceWriter& writer_;
  u64 number_ = 0;
  TraceTasks tasks_;
};

void ProgramText::read_line() {
  const u32 task = tasks_.running();
  const std::string running = task == kMaxProcesses ? "-" : std::to_string(task);
  if (!skip_position(lines_, number_, running)) {
    lines_.fail("record " + std::to_string(number_) + " of task " + running + " was due");
  }
  const auto kind = find(kRecordKindNames, lines_.peek());
  if (!kind || *kind == static_cast<unsigned>(RecordKind::Call)) {
    call();
  } else if (*kind == static_cast<unsigned>(RecordKind::Switch)) {
    switch_to();
  } else {
    access(*kind);
  }
  lines_.end_of_line();
  ++number_;
}

void ProgramText::access(unsigned kind) {
  (void)lines_.word();
  const u64 address = lines_.number();
  const u64 bytes = lines_.number();
  if (tasks_.running() == kMaxProcesses) lines_.fail("an access by no process");
  if (bytes == 0 || bytes > kMaxAccessBytes) lines_.fail("an access of so many bytes");
  if (address >= kTraceEnd || address + bytes > kTraceEnd) {
    lines_.fail("an access outside the user half");
  }
  writer_.access(static_cast<RecordKind>(kind), address, static_cast<u32>(bytes));
}

void ProgramText::switch_to() {
  (void)lines_.word();
  const u64 task = lines_.number();
  if (!tasks_.may_run(task)) lines_.fail(kNoSwitch);
  tasks_.run(task);
  writer_.switch_to(tasks_.running());
}

void ProgramText::call() {
  Call call;
  std::string_view word = lines_.word();
  if (word == "synthesized") {
    call.synthesized = true;
    word = lines_.word();
  }
  const auto kind = find(kCallKindNames, word);
  if (!kind) lines_.fail("no record: '" + std::string(word.substr(0, 40)) + "'");
  call.kind = static_cast<CallKind>(*kind);
  if (makes_task(call.kind)) {
    if (lines_.word() != "task" || lines_.number() != tasks_.made() ||
        tasks_.made() == kMaxProcesses) {
      lines_.fail("task " + std::to_string(tasks_.made()) + " was due");
    }
    call.process = static_cast<u32>(tasks_.made());
  }
  for (unsigned i = 0; i < kCallArgs[*kind]; ++i) call.args[i] = lines_.number();
  if (lines_.word() != "=") lines_.fail("no '=' before the result");
  call.result = lines_.number();
  call.name = lines_.rest();
  if (call.name.size() > kMaxNameBytes) lines_.fail("the name is too long");
  if (!names_user_memory(call)) lines_.fail("memory that no program can have");
  if (call.kind != CallKind::Spawn && tasks_.running() == kMaxProcesses) {
    lines_.fail("a call by no process");
  }
  writer_.call(call);
  tasks_.note(call);
}

MachineOp machine_op(Lines& lines) {
  MachineOp op;
  std::string_view word = lines.word();
  if (word == "user") {
    op.user = true;
    word = lines.word();
  }
  const auto kind = find(kMachineOpNames, word);
  if (!kind) lines.fail("no operation: '" + std::string(word.substr(0, 40)) + "'");
  op.kind = static_cast<MachineOp::Kind>(*kind);
  const MachineOperands& has = operands_of(op.kind);
  if (op.user && !has.access) lines.fail("only accesses are a user's");
  if (has.address) op.address = lines.number();
  if (has.bytes) op.bytes = static_cast<u32>(std::min<u64>(lines.number(), ~u32{0}));
  if (has.bytes && (op.bytes == 0 || op.bytes > kPageBytes))
    lines.fail("an access of so many bytes");
  if (has.value) op.value = lines.number();
  if (has.other) op.other = lines.number();
  lines.end_of_line();
  return op;
}

void read_machine(Lines& lines, const TraceInfo& info, bool more, const std::filesystem::path& out,
                  int compression) {
  MachineTraceWriter writer(out, info, compression);
  MachineOpRules rules(info);
  u64 vcpu = 0;
  for (u64 number = 0; more; ++number, more = lines.next()) {
    if (!skip_position(lines, number, std::to_string(vcpu))) {
      lines.fail("record " + std::to_string(number) + " of vCPU " + std::to_string(vcpu) +
                 " was due");
    }
    const MachineOp op = machine_op(lines);
    const std::string wrong = rules.check(op);
    if (!wrong.empty()) lines.fail(wrong);
    writer.put(op);
    if (op.kind == MachineOp::Kind::Vcpu) vcpu = op.value;
  }
  writer.finish();
}

}  // namespace

void trace_dump(const std::filesystem::path& path, std::FILE* out) {
  return BlockReader(path).info().machine ? dump_machine(path, out) : dump_program(path, out);
}

void import_text(const std::filesystem::path& text, const std::filesystem::path& out,
                 int compression) {
  Lines lines(text);
  TraceInfo info;
  bool more = read_info(lines, info);
  if (info.machine) return read_machine(lines, info, more, out, compression);
  TraceWriter writer(out, info, compression);
  ProgramText program(lines, writer);
  for (; more; more = lines.next()) program.read_line();
  writer.finish();
}

}  // namespace mmuscope
