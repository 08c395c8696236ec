#include "workloads/trace/writer.h"

#include <xxhash.h>
#include <zstd.h>

#include <algorithm>
#include <cassert>
#include <cstdio>
#include <cstring>

#include "core/error.h"

namespace mmuscope {

namespace {

/// From this level on the whole window is searched for repetitions.
constexpr int kThorough = 10;
constexpr u32 kMaxRecordBytes = 512;  // the longest is a Call: ten varints and a name

std::string one_line(std::string_view text) {
  std::string line(text);
  for (char& c : line) {
    if (static_cast<unsigned char>(c) < ' ' || c == 0x7f) c = ' ';
  }
  return line;
}

std::string info_text(const TraceInfo& info) {
  std::string text = "program: " + one_line(info.program) +
                     "\nrecorder: " + one_line(info.recorder) + "\ncut: " + one_line(info.cut) +
                     "\n";
  for (const std::string& rule : info.synthesized) text += "synthesized: " + one_line(rule) + "\n";
  if (text.size() > kMaxInfoBytes) text.resize(kMaxInfoBytes);
  return text;
}

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

struct TraceWriter::Sink {
  Sink(const std::filesystem::path& path, int compression) : final_path(path) {
    temporary = path;
    temporary += ".tmp";
    file.reset(std::fopen(temporary.c_str(), "wb"));
    if (!file) fail("cannot be written");
    ZSTD_CCtx_setParameter(context.get(), ZSTD_c_compressionLevel, compression);
    if (compression >= kThorough) {
      ZSTD_CCtx_setParameter(context.get(), ZSTD_c_windowLog, kTraceWindowLog);
      ZSTD_CCtx_setParameter(context.get(), ZSTD_c_enableLongDistanceMatching, 1);
    }
    stored.resize(ZSTD_compressBound(kMaxBlockBytes) + 1024);
    write(kTraceMagic.data(), kTraceMagic.size());
    const std::array<u32, 2> version = {kTraceVersion, 0};
    write(version.data(), sizeof(version));
  }
  ~Sink() {
    if (!file) return;
    file.reset();
    std::error_code ignored;
    std::filesystem::remove(temporary, ignored);
  }

  [[noreturn]] void fail(const char* what) const {
    throw InputError(final_path.string() + ": " + what + "; valid: a file in a writable folder");
  }
  void write(const void* bytes, std::size_t count) {
    if (std::fwrite(bytes, 1, count, file.get()) != count) fail("cannot be written (disk full?)");
  }
  void begin_block() { stored_bytes = 0; }
  /// Compresses bytes and appends them to what is stored of the block.
  void compress(const u8* bytes, std::size_t count, ZSTD_EndDirective how) {
    ZSTD_inBuffer in{bytes, count, 0};
    ZSTD_outBuffer out{stored.data(), stored.size(), stored_bytes};
    const std::size_t left = ZSTD_compressStream2(context.get(), &out, &in, how);
    const bool whole = how == ZSTD_e_continue ? in.pos == in.size : left == 0;
    if (ZSTD_isError(left) || !whole) fail("cannot be compressed");
    stored_bytes = out.pos;
  }

  struct CloseFile {
    void operator()(std::FILE* f) const { std::fclose(f); }
  };
  struct FreeContext {
    void operator()(ZSTD_CCtx* c) const { ZSTD_freeCCtx(c); }
  };
  std::filesystem::path final_path, temporary;
  std::unique_ptr<std::FILE, CloseFile> file;
  std::unique_ptr<ZSTD_CCtx, FreeContext> context{ZSTD_createCCtx()};
  std::vector<u8> stored;
  std::size_t stored_bytes = 0;  ///< of the block
};

TraceWriter::TraceWriter(const std::filesystem::path& path, const TraceInfo& info, int compression)
    : sink_(std::make_unique<Sink>(path, compression)),
      tags_(kMaxBlockRecords),
      raw_(kMaxBlockBytes),
      raw_at_(raw_.data()) {
  const std::string text = info_text(info);
  put(text.data(), text.size());
  flush(BlockKind::Info);
}

TraceWriter::~TraceWriter() = default;

void TraceWriter::put(const void* bytes, std::size_t count) {
  std::memcpy(raw_at_, bytes, count);
  raw_at_ += count;
}

void TraceWriter::put_varint(u64 value) {
  for (; value >= 0x80; value >>= 7) *raw_at_++ = static_cast<u8>(value | 0x80);
  *raw_at_++ = static_cast<u8>(value);
}

/// Counts a record, makes room for it in the block, and returns where its tag goes.
inline u8* TraceWriter::record(RecordKind kind) {
  constexpr std::size_t kRoom = kMaxBlockBytes - kMaxBlockRecords - kMaxRecordBytes;
  if (records_ == kMaxBlockRecords || raw_at_ > raw_.data() + kRoom) flush(BlockKind::Records);
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
  const std::string name = one_line(std::string_view(call.name).substr(0, kMaxNameBytes));
  put_varint(name.size());
  put(name.data(), name.size());
  totals_.processes += makes_task(call.kind);
}

void TraceWriter::switch_to(u32 process) {
  *record(RecordKind::Switch) = static_cast<u8>(Escape::Switch);
  put_varint(process);
}

void TraceWriter::flush(BlockKind kind) {
  BlockHeader header;
  header.kind = kind;
  header.records = records_;
  header.first_record = first_record_;
  sink_->begin_block();
  sink_->compress(tags_.data(), records_, ZSTD_e_continue);
  sink_->compress(raw_.data(), static_cast<std::size_t>(raw_at_ - raw_.data()),
                  kind == BlockKind::End ? ZSTD_e_end : ZSTD_e_flush);
  header.raw_bytes = records_ + static_cast<u32>(raw_at_ - raw_.data());
  header.stored_bytes = static_cast<u32>(sink_->stored_bytes);
  const u64 seed = XXH3_64bits(&header, offsetof(BlockHeader, checksum));
  header.checksum = XXH3_64bits_withSeed(sink_->stored.data(), header.stored_bytes, seed);
  sink_->write(&header, sizeof(header));
  sink_->write(sink_->stored.data(), header.stored_bytes);
  first_record_ += records_;
  records_ = 0;
  raw_at_ = raw_.data();
}

TraceTotals TraceWriter::finish() {
  if (records_ != 0) flush(BlockKind::Records);
  put(totals_.records.data(), sizeof(totals_.records));
  put(&totals_.processes, sizeof(totals_.processes));
  flush(BlockKind::End);
  if (std::fflush(sink_->file.get()) != 0) sink_->fail("cannot be written (disk full?)");
  std::error_code error;
  std::filesystem::rename(sink_->temporary, sink_->final_path, error);
  if (error) sink_->fail("cannot be put in place");
  sink_->file.reset();
  return totals_;
}

}  // namespace mmuscope
