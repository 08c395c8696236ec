#include "workloads/trace/tools.h"

#include <fmt/format.h>

#include "workloads/trace/machine_trace.h"
#include "workloads/trace/reader.h"

namespace mmuscope {

namespace {

void note_call(TraceSummary& summary, const Call& call, u32 running) {
  ++summary.calls[static_cast<unsigned>(call.kind)];
  summary.synthesized_calls += call.synthesized;
  if (running != kMaxProcesses) ++summary.processes[running].calls;
  if (makes_task(call.kind)) {
    TraceSummary::Process made;
    made.pid = call.result;
    made.name = call.name;
    if (running != kMaxProcesses) made.parent = running;
    made.thread = call.kind == CallKind::Thread;
    if (call.kind != CallKind::Spawn) made.name = summary.processes[running].name;
    summary.processes.push_back(std::move(made));
  }
  if (call.kind == CallKind::Exec) summary.processes[running].name = call.name;
}

}  // namespace

namespace {

/// What there is to tell of a machine's trace.
std::string describe_machine(const std::filesystem::path& path) {
  MachineTraceReader reader(path);
  MachineOp op;
  while (reader.next(op)) {
  }
  const TraceInfo& info = reader.info();
  const u64 bytes = std::filesystem::file_size(path);
  std::string text = fmt::format(
      "program      {}\nrecorder     {}\ncut          {}\nmachine      {} vCPUs, {} bytes of "
      "memory\n"
      "file         {} bytes, {:.3g} bits a record\nrecords      {}\n",
      info.program, info.recorder, info.cut, info.vcpus, info.memory_bytes, bytes,
      8.0 * static_cast<double>(bytes) / static_cast<double>(std::max<u64>(reader.record(), 1)),
      reader.record());
  for (unsigned i = 0; i < kMachineOps; ++i) {
    text += fmt::format("  {:<11}{:>12}\n", kMachineOpNames[i], reader.counts()[i]);
  }
  return text;
}

}  // namespace

std::string trace_description(const std::filesystem::path& path) {
  return BlockReader(path).info().machine ? describe_machine(path) : describe(trace_info(path));
}

TraceSummary trace_info(const std::filesystem::path& path) {
  TraceReader reader(path);
  TraceSummary summary;
  summary.info = reader.info();
  u32 running = kMaxProcesses;
  TraceBlock block;
  while (reader.next(block)) {
    for (const Record& record : block.records) {
      if (record.kind == RecordKind::Call) {
        const Call& call = block.calls[record.address];
        note_call(summary, call, running);
        if (ends_turn(call.kind)) running = kMaxProcesses;
      } else if (record.kind == RecordKind::Switch) {
        running = static_cast<u32>(record.address);
      } else {
        ++summary.processes[running].accesses;
      }
    }
  }
  summary.totals = reader.totals();
  summary.file_bytes = std::filesystem::file_size(path);
  return summary;
}

std::string describe(const TraceSummary& s) {
  std::string text = fmt::format("program      {}\nrecorder     {}\ncut          {}\n",
                                 s.info.program, s.info.recorder, s.info.cut);
  for (const std::string& rule : s.info.synthesized) {
    text += fmt::format("synthesized  {}\n", rule);
  }
  const u64 records = s.totals.all();
  text += fmt::format(
      "file         {} bytes, {:.3g} bits a record\nrecords      {}\n", s.file_bytes,
      records == 0 ? 0.0 : 8.0 * static_cast<double>(s.file_bytes) / static_cast<double>(records),
      records);
  for (unsigned i = 0; i < kRecordKinds; ++i) {
    text += fmt::format("  {:<11}{:>12}\n", kRecordKindNames[i], s.totals.records[i]);
  }
  text += fmt::format("calls        {}, {} of them synthesized\n", s.totals.of(RecordKind::Call),
                      s.synthesized_calls);
  for (unsigned i = 0; i < kCallKinds; ++i) {
    text += fmt::format("  {:<11}{:>12}\n", kCallKindNames[i], s.calls[i]);
  }
  u64 threads = 0;
  for (const TraceSummary::Process& p : s.processes) threads += p.thread;
  text +=
      fmt::format("processes    {}, and {} more threads\n", s.totals.processes - threads, threads);
  constexpr std::size_t kShown = 100;
  for (std::size_t i = 0; i < std::min(s.processes.size(), kShown); ++i) {
    const TraceSummary::Process& p = s.processes[i];
    text += fmt::format("  {:<4} {} {:<8} parent {:<4} accesses {:>11} calls {:>5}  {}\n", i,
                        p.thread ? "tid" : "pid", p.pid,
                        p.parent == kMaxProcesses ? "-" : std::to_string(p.parent), p.accesses,
                        p.calls, p.name);
  }
  if (s.processes.size() > kShown) {
    text += fmt::format("  and {} more\n", s.processes.size() - kShown);
  }
  return text;
}

}  // namespace mmuscope
