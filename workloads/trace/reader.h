#pragma once

#include "workloads/trace/block_file.h"
#include "workloads/trace/tasks.h"

namespace mmuscope {

/// Reads a trace from its start to its end, a block at a time. Memory is bounded (a block, the
/// compression window of 16 MiB, some bytes a process) whatever the file holds.
///
/// Everything is checked before it is handed out: the checksum of each block, each record's range,
/// that accesses and calls are made by a process that was made and has not ended, that processes
/// are numbered 0, 1, 2..., and at the end the counts. Damage, truncation and another version
/// throw InputError, which names the file and the record (counted from 0) at which reading stopped.
class TraceReader {
 public:
  explicit TraceReader(const std::filesystem::path& path);

  const TraceInfo& info() const { return file_.info(); }

  /// Replaces the contents of block by the next records, at most kMaxBlockRecords; false at the
  /// end of the trace, which is known to be whole then.
  bool next(TraceBlock& block);

  /// Counts of what next() has handed out.
  const TraceTotals& totals() const { return totals_; }

 private:
  void read_end();
  void decode(const BlockHeader& header, TraceBlock& block);
  const u8* decode_accesses(const u8* tags, const u8* at, Record*& out, Record* out_end);
  const u8* decode_other(Escape escape, const u8* at, Record& record, TraceBlock& block);
  void decode_call(const u8*& at, TraceBlock& block);
  void check_call(const Call& call);
  void check_ranges(const TraceBlock& block);
  void check_idle() const;
  u64 varint(const u8*& at);
  [[noreturn]] void fail(const std::string& what) const { file_.fail(record_, what); }

  BlockReader file_;
  std::array<u64, 4> last_end_{};
  u64 all_ends_ = 0;  ///< of the accesses of the block that is being decoded
  TraceTotals totals_;
  u64 record_ = 0;  ///< number of the record that is being read
  TraceTasks tasks_;
  u64 idle_until_ = 0;  ///< while none runs: the next record that is no Spawn or Switch
  bool ended_ = false;
};

}  // namespace mmuscope
