#include "workloads/trace/writer.h"

#include <cassert>
#include <cstring>

namespace mmuscope {

namespace {

constexpr u32 kMaxRecordBytes = 512;  // the longest is a Call: ten varints and a name

/// The code of each size up to 64 bytes, 0 for those that have none.
constexpr std::array<u8, 65> make_size_codes() {
  std::array<u8, 65> codes{};
  for (unsigned code = 1; code < kSizeOfCode.size(); ++code) {
    codes[kSizeOfCode[code]] = static_cast<u8>(code);
  }
  return codes;
}
constexpr std::array<u8, 65> kCodeOfSize = make_size_codes();

unsigned length_code(u64 coded) {
  if (coded == 0) return 0;
  if (coded < (1u << 8)) return 1;
  if (coded < (1u << 16)) return 2;
  return 3;
}

}  // namespace

TraceWriter::TraceWriter(const std::filesystem::path& path, const TraceInfo& info, int compression)
    : file_(path, info, compression),
      tags_(kMaxBlockRecords),
      raw_(kMaxBlockBytes),
      raw_at_(raw_.data()) {}

void TraceWriter::put(const void* bytes, std::size_t count) {
  std::memcpy(raw_at_, bytes, count);
  raw_at_ += count;
}

void TraceWriter::put_varint(u64 value) { raw_at_ = write_varint(raw_at_, value); }

/// Counts a record, makes room for it in the block, and returns where its tag goes.
inline u8* TraceWriter::record(RecordKind kind) {
  constexpr std::size_t kRoom = kMaxBlockBytes - kMaxBlockRecords - kMaxRecordBytes;
  if (records_ == kMaxBlockRecords || raw_at_ > raw_.data() + kRoom) flush();
  ++totals_.records[static_cast<unsigned>(kind)];
  return &tags_[records_++];
}

void TraceWriter::access(RecordKind kind, u64 address, u32 size) {
  assert(kind <= RecordKind::Modify && size > 0 && size <= kMaxAccessBytes);
  assert(address < kTraceEnd && address + size <= kTraceEnd);
  u8* const tag = record(kind);
  u64& last_end = last_end_[static_cast<unsigned>(kind)];
  const u64 coded = zigzag(address - last_end);
  last_end = address + size;
  const u8 code = size < kCodeOfSize.size() ? kCodeOfSize[size] : u8{0};
  if (code == 0) {
    *tag = static_cast<u8>(Escape::Access);
    *raw_at_++ = static_cast<u8>(kind);
    put_varint(size);
    put_varint(coded);
    return;
  }
  const unsigned length = length_code(coded);
  *tag = static_cast<u8>(code << 4 | length << 2 | static_cast<unsigned>(kind));
  std::memcpy(raw_at_, &coded, sizeof(coded));  // more than it takes: the next record is over it
  raw_at_ += kBytesOfLength[length];
}

void TraceWriter::call(const Call& call) {
  *record(RecordKind::Call) = static_cast<u8>(Escape::Call);
  *raw_at_++ = static_cast<u8>(static_cast<unsigned>(call.kind) << 1 | call.synthesized);
  put_varint(call.process);
  for (unsigned i = 0; i < kCallArgs[static_cast<unsigned>(call.kind)]; ++i) {
    put_varint(call.args[i]);
  }
  put_varint(call.result);
  const std::string name = printable(std::string_view(call.name).substr(0, kMaxNameBytes));
  put_varint(name.size());
  put(name.data(), name.size());
  totals_.processes += makes_task(call.kind);
}

void TraceWriter::switch_to(u32 process) {
  *record(RecordKind::Switch) = static_cast<u8>(Escape::Switch);
  put_varint(process);
}

void TraceWriter::flush() {
  file_.write(
      BlockKind::Records, records_,
      {{tags_.data(), records_}, {raw_.data(), static_cast<std::size_t>(raw_at_ - raw_.data())}});
  records_ = 0;
  raw_at_ = raw_.data();
}

TraceTotals TraceWriter::finish() {
  if (records_ != 0) flush();
  put(totals_.records.data(), sizeof(totals_.records));
  put(&totals_.processes, sizeof(totals_.processes));
  file_.finish({raw_.data(), static_cast<std::size_t>(raw_at_ - raw_.data())});
  return totals_;
}

}  // namespace mmuscope
