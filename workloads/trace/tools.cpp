#include "workloads/trace/tools.h"

#include <fmt/format.h>

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

void print_call(std::FILE* out, const Call& call) {
  fmt::print(out, "{}", kCallKindNames[static_cast<unsigned>(call.kind)]);
  if (makes_task(call.kind)) {
    fmt::print(out, " process {}", call.process);
  }
  for (unsigned i = 0; i < kCallArgs[static_cast<unsigned>(call.kind)]; ++i) {
    fmt::print(out, " {:#x}", call.args[i]);
  }
  fmt::print(out, " = {:#x}{}{}{}\n", call.result, call.name.empty() ? "" : " ", call.name,
             call.synthesized ? " (synthesized)" : "");
}

}  // namespace

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
        if (call.kind == CallKind::Exit) running = kMaxProcesses;
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

void trace_dump(const std::filesystem::path& path, std::FILE* out) {
  TraceReader reader(path);
  u32 running = kMaxProcesses;
  TraceBlock block;
  while (reader.next(block)) {
    u64 number = block.first_record;
    for (const Record& record : block.records) {
      if (record.kind == RecordKind::Switch) running = static_cast<u32>(record.address);
      fmt::print(out, "{} {} ", number++, running == kMaxProcesses ? "-" : std::to_string(running));
      if (record.kind == RecordKind::Call) {
        const Call& call = block.calls[record.address];
        print_call(out, call);
        if (call.kind == CallKind::Exit) running = kMaxProcesses;
      } else if (record.kind == RecordKind::Switch) {
        fmt::print(out, "switch\n");
      } else {
        fmt::print(out, "{} {:#x} {}\n", kRecordKindNames[static_cast<unsigned>(record.kind)],
                   record.address, record.size);
      }
    }
  }
}

}  // namespace mmuscope
