#pragma once

#include <cassert>
#include <cstring>

#include "workloads/trace/block_file.h"

namespace mmuscope {

/// The code of each size up to 64 bytes, 0 for those that have none.
constexpr std::array<u8, 65> make_size_codes() {
  std::array<u8, 65> codes{};
  for (unsigned code = 1; code < kSizeOfCode.size(); ++code) {
    codes[kSizeOfCode[code]] = static_cast<u8>(code);
  }
  return codes;
}
inline constexpr std::array<u8, 65> kCodeOfSize = make_size_codes();

/// The length code of a difference by the number of its bits: without a branch, since nothing
/// predicts it.
constexpr std::array<u8, 65> make_length_codes() {
  std::array<u8, 65> codes{};
  for (unsigned bits = 1; bits < codes.size(); ++bits) {
    codes[bits] = bits <= 8 ? 1 : bits <= 16 ? 2 : 3;
  }
  return codes;
}
inline constexpr std::array<u8, 65> kLengthCodeOfBits = make_length_codes();

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
  void other_access(RecordKind kind, u64 coded, u32 size, u8* tag);
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

/// Counts a record, makes room for it in the block, and returns where its tag goes.
inline u8* TraceWriter::record(RecordKind kind) {
  constexpr u32 kMaxRecordBytes = 512;  // the longest is a Call: ten varints and a name
  constexpr std::size_t kRoom = kMaxBlockBytes - kMaxBlockRecords - kMaxRecordBytes;
  if (records_ == kMaxBlockRecords || raw_at_ > raw_.data() + kRoom) [[unlikely]]
    flush();
  ++totals_.records[static_cast<unsigned>(kind)];
  return &tags_[records_++];
}

inline void TraceWriter::access(RecordKind kind, u64 address, u32 size) {
  assert(kind <= RecordKind::Modify && size > 0 && size <= kMaxAccessBytes);
  assert(address < kTraceEnd && address + size <= kTraceEnd);
  u8* const tag = record(kind);
  u64& last_end = last_end_[static_cast<unsigned>(kind)];
  const u64 coded = zigzag(address - last_end);
  last_end = address + size;
  const u8 code = size < kCodeOfSize.size() ? kCodeOfSize[size] : u8{0};
  if (code == 0) [[unlikely]]
    return other_access(kind, coded, size, tag);
  const unsigned length = kLengthCodeOfBits[std::bit_width(coded)];
  *tag = static_cast<u8>(code << 4 | length << 2 | static_cast<unsigned>(kind));
  std::memcpy(raw_at_, &coded, sizeof(coded));  // more than it takes: the next record is over it
  raw_at_ += kBytesOfLength[length];
}

}  // namespace mmuscope
