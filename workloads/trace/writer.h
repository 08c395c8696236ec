#pragma once

#include "workloads/trace/block_file.h"

namespace mmuscope {

/// Writes a trace beside its final place and puts it there whole by finish(); a writer that is
/// destroyed before leaves nothing. Memory is bounded by one block and the compression window.
/// What it is given has to obey the rules that TraceReader checks: a process is made before it is
/// switched to, new processes are numbered 0, 1, 2..., and accesses lie below kTraceEnd.
class TraceWriter {
 public:
  /// compression: zstd's level, 1..19. Throws InputError if the file cannot be made.
  TraceWriter(const std::filesystem::path& path, const TraceInfo& info, int compression = 17);

  /// kind: Instruction, Load, Store or Modify.
  void access(RecordKind kind, u64 address, u32 size);
  void call(const Call& call);
  void switch_to(u32 process);

  /// Ends the file, renames it to its place, and returns what was written. Throws InputError.
  TraceTotals finish();

 private:
  u8* record(RecordKind kind);
  void flush();
  void put_varint(u64 value);
  void put(const void* bytes, std::size_t count);

  BlockWriter file_;
  std::vector<u8> tags_;  ///< kMaxBlockRecords of them
  std::vector<u8> raw_;   ///< what follows the tags: kMaxBlockBytes
  u32 records_ = 0;       ///< in the block
  u8* raw_at_ = nullptr;  ///< where raw_ ends
  std::array<u64, 4> last_end_{};
  TraceTotals totals_;
};

}  // namespace mmuscope
