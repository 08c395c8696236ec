#include "workloads/trace/writer.h"

#include <cstring>

namespace mmuscope {

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

/// An access of a size that has no code.
void TraceWriter::other_access(RecordKind kind, u64 coded, u32 size, u8* tag) {
  *tag = static_cast<u8>(Escape::Access);
  *raw_at_++ = static_cast<u8>(kind);
  put_varint(size);
  put_varint(coded);
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
