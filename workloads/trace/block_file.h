#pragma once

#include <filesystem>
#include <initializer_list>
#include <memory>
#include <span>

#include "workloads/trace/format.h"

namespace mmuscope {

/// Writes the blocks of a trace file (format.h) beside its final place and puts it there whole by
/// finish(); destroyed before, it leaves nothing.
class BlockWriter {
 public:
  /// Writes the head and the Info block. Throws InputError if the file cannot be made.
  BlockWriter(const std::filesystem::path& path, const TraceInfo& info, int compression);
  ~BlockWriter();
  BlockWriter(const BlockWriter&) = delete;
  BlockWriter& operator=(const BlockWriter&) = delete;

  /// Writes one block of these parts, together at most kMaxBlockBytes. Throws InputError.
  void write(BlockKind kind, u32 records, std::initializer_list<std::span<const u8>> parts);
  /// Writes the End block and puts the file in place. Throws InputError.
  void finish(std::span<const u8> end);

 private:
  struct Sink;
  std::unique_ptr<Sink> sink_;
  u64 records_ = 0;
};

/// Reads the blocks of a trace file: their checksums hold, and memory is bounded by one block and
/// the compression window. Everything that is wrong throws InputError.
class BlockReader {
 public:
  /// Reads the head and the Info block.
  explicit BlockReader(const std::filesystem::path& path);
  ~BlockReader();
  BlockReader(BlockReader&&) noexcept;
  BlockReader& operator=(BlockReader&&) noexcept;

  const TraceInfo& info() const { return info_; }
  /// Reads the next block, which begins with this record. begin() to end() are its bytes; 16 more
  /// may be read, and mean nothing.
  BlockHeader next(u64 record);
  const u8* begin() const { return begin_; }
  const u8* end() const { return end_; }
  /// After the End block: nothing may follow.
  void check_end(u64 record);
  /// Throws the error that names the file and the record.
  [[noreturn]] void fail(u64 record, const std::string& what) const;

 private:
  struct Source;
  void read_info();
  void read_machine(const std::string& value);

  std::unique_ptr<Source> source_;
  TraceInfo info_;
  const u8* begin_ = nullptr;
  const u8* end_ = nullptr;
};

/// A LEB128 number; nullptr for `at` if it does not end before `end` or has more than 64 bits.
u64 read_varint(const u8*& at, const u8* end);
/// Writes one, and returns its end.
inline u8* write_varint(u8* at, u64 value) {
  for (; value >= 0x80; value >>= 7) *at++ = static_cast<u8>(value | 0x80);
  *at++ = static_cast<u8>(value);
  return at;
}

/// Without control characters: what is printed, or stands on one line.
std::string printable(std::string_view text);

}  // namespace mmuscope
