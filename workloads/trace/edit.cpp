#include <algorithm>

#include "core/error.h"
#include "workloads/trace/machine_trace.h"
#include "workloads/trace/reader.h"
#include "workloads/trace/tools.h"
#include "workloads/trace/writer.h"

namespace mmuscope {

namespace {

std::string cut_text(const std::string& before, u64 first, u64 count) {
  return (before == "nothing" || before.empty() ? "" : before + "; ") + "all but " +
         std::to_string(count) + " records from record " + std::to_string(first) + " on";
}

void cut_machine(const std::filesystem::path& path, const std::filesystem::path& out, u64 first,
                 u64 count, int compression) {
  if (first != 0) {
    throw InputError(path.string() + ": from=" + std::to_string(first) +
                     " of a machine's trace; valid: 0, as what it did before decides the rest");
  }
  MachineTraceReader reader(path);
  TraceInfo info = reader.info();
  info.cut = cut_text(info.cut, first, count);
  MachineTraceWriter writer(out, info, compression);
  MachineOp op;
  while (reader.record() < count && reader.next(op)) writer.put(op);
  writer.finish();
}

void copy_call(TraceWriter& writer, const Record& record, const TraceBlock& block) {
  writer.call(block.calls[record.address]);
}

/// A trace that is read record by record, with its tasks renumbered.
class Source {
 public:
  explicit Source(const std::filesystem::path& path) : reader_(path) {}
  const TraceInfo& info() const { return reader_.info(); }

  /// Writes records until `quantum` accesses are made; false at the end of the trace.
  bool write(TraceWriter& writer, u64 quantum, u32& tasks, u32& running);

 private:
  bool fill() {
    while (at_ == block_.records.size()) {
      at_ = 0;
      if (!reader_.next(block_)) return false;
    }
    return true;
  }
  void call(TraceWriter& writer, Call made, u32& tasks, u32& running);

  TraceReader reader_;
  TraceBlock block_;
  std::size_t at_ = 0;
  std::vector<u32> numbers_;  ///< of its tasks, in what is written
  u32 running_ = kMaxProcesses;
};

void Source::call(TraceWriter& writer, Call made, u32& tasks, u32& running) {
  if (makes_task(made.kind)) {
    if (tasks == kMaxProcesses) throw InputError("trace merge: too many processes together");
    numbers_.push_back(made.process = tasks++);
  }
  writer.call(made);
  if (ends_turn(made.kind)) running = running_ = kMaxProcesses;
}

bool Source::write(TraceWriter& writer, u64 quantum, u32& tasks, u32& running) {
  while (quantum > 0) {
    if (!fill()) return false;
    const Record& record = block_.records[at_++];
    if (record.kind == RecordKind::Switch) {
      running_ = numbers_[record.address];
      continue;
    }
    if (running_ != kMaxProcesses && running_ != running) {
      writer.switch_to(running_);
      running = running_;
    }
    if (record.kind == RecordKind::Call) {
      call(writer, block_.calls[record.address], tasks, running);
    } else {
      writer.access(record.kind, record.address, record.size);
      --quantum;
    }
  }
  return true;
}

}  // namespace

void trace_cut(const std::filesystem::path& path, const std::filesystem::path& out, u64 first,
               u64 count, int compression) {
  if (BlockReader(path).info().machine) return cut_machine(path, out, first, count, compression);
  TraceReader reader(path);
  TraceInfo info = reader.info();
  info.cut = cut_text(info.cut, first, count);
  TraceWriter writer(out, info, compression);
  TraceBlock block;
  const u64 end = count > ~first ? ~u64{0} : first + count;
  while (block.first_record + block.records.size() < end && reader.next(block)) {
    for (std::size_t i = 0; i < block.records.size(); ++i) {
      const u64 number = block.first_record + i;
      const Record& record = block.records[i];
      if (number >= end) break;
      if (record.kind == RecordKind::Call) {
        copy_call(writer, record, block);
      } else if (record.kind == RecordKind::Switch) {
        writer.switch_to(static_cast<u32>(record.address));
      } else if (number >= first) {
        writer.access(record.kind, record.address, record.size);
      }
    }
  }
  writer.finish();
}

void trace_merge(std::span<const std::filesystem::path> paths, const std::filesystem::path& out,
                 u64 quantum, int compression) {
  std::vector<Source> sources;
  TraceInfo info;
  for (const std::filesystem::path& path : paths) {
    const TraceInfo& one = sources.emplace_back(path).info();
    const char* const between = sources.size() == 1 ? "" : " & ";
    info.program += between + one.program;
    info.recorder += between + one.recorder;
    info.cut += between + one.cut;
    for (const std::string& rule : one.synthesized) {
      if (std::find(info.synthesized.begin(), info.synthesized.end(), rule) ==
          info.synthesized.end()) {
        info.synthesized.push_back(rule);
      }
    }
  }
  info.synthesized.push_back("order among programs: " + std::to_string(quantum) +
                             " accesses a turn");
  TraceWriter writer(out, info, compression);
  u32 tasks = 0, running = kMaxProcesses;
  while (!sources.empty()) {
    for (std::size_t i = 0; i < sources.size();) {
      if (sources[i].write(writer, quantum, tasks, running)) {
        ++i;
      } else {
        sources.erase(sources.begin() + static_cast<std::ptrdiff_t>(i));
      }
    }
  }
  writer.finish();
}

}  // namespace mmuscope
