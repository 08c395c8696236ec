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

u8 size_code(u32 size) {
  for (unsigned code = 1; code < kSizeOfCode.size(); ++code) {
    if (kSizeOfCode[code] == size) return static_cast<u8>(code);
  }
  return 0;
}

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
    ZSTD_CCtx_setParameter(context.get(), ZSTD_c_windowLog, kTraceWindowLog);
    ZSTD_CCtx_setParameter(context.get(), ZSTD_c_enableLongDistanceMatching, 1);
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
  /// Compresses raw into stored and returns the bytes.
  std::size_t compress(const std::vector<u8>& raw, bool last) {
    ZSTD_inBuffer in{raw.data(), raw.size(), 0};
    ZSTD_outBuffer out{stored.data(), stored.size(), 0};
    const std::size_t left =
        ZSTD_compressStream2(context.get(), &out, &in, last ? ZSTD_e_end : ZSTD_e_flush);
    if (ZSTD_isError(left) || left != 0) fail("cannot be compressed");
    return out.pos;
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
};

TraceWriter::TraceWriter(const std::filesystem::path& path, const TraceInfo& info, int compression)
    : sink_(std::make_unique<Sink>(path, compression)) {
  raw_.reserve(kMaxBlockBytes);
  const std::string text = info_text(info);
  put(text.data(), text.size());
  flush(BlockKind::Info);
}

TraceWriter::~TraceWriter() = default;

void TraceWriter::put(const void* bytes, std::size_t count) {
  const auto* first = static_cast<const u8*>(bytes);
  raw_.insert(raw_.end(), first, first + count);
}

void TraceWriter::put_varint(u64 value) {
  for (; value >= 0x80; value >>= 7) raw_.push_back(static_cast<u8>(value | 0x80));
  raw_.push_back(static_cast<u8>(value));
}

/// Counts a record and makes room for it in the block.
void TraceWriter::record(RecordKind kind) {
  if (totals_.all() - first_record_ == kMaxBlockRecords ||
      tags_.size() + raw_.size() + kMaxRecordBytes > kMaxBlockBytes) {
    flush(BlockKind::Records);
  }
  ++totals_.records[static_cast<unsigned>(kind)];
}

void TraceWriter::access(RecordKind kind, u64 address, u32 size) {
  assert(kind <= RecordKind::Modify && size > 0 && size <= kMaxAccessBytes);
  assert(address < kTraceEnd && address + size <= kTraceEnd);
  record(kind);
  u64& last_end = last_end_[static_cast<unsigned>(kind)];
  const u64 coded = zigzag(address - last_end);
  last_end = address + size;
  const u8 code = size_code(size);
  const unsigned length = length_code(coded);
  if (code == 0) {
    tags_.push_back(static_cast<u8>(Escape::Access));
    raw_.push_back(static_cast<u8>(kind));
    put_varint(size);
    put_varint(coded);
    return;
  }
  tags_.push_back(static_cast<u8>(code << 4 | length << 2 | static_cast<unsigned>(kind)));
  put(&coded, kBytesOfLength[length]);
}

void TraceWriter::call(const Call& call) {
  record(RecordKind::Call);
  tags_.push_back(static_cast<u8>(Escape::Call));
  raw_.push_back(static_cast<u8>(static_cast<unsigned>(call.kind) << 1 | call.synthesized));
  put_varint(call.process);
  for (unsigned i = 0; i < kCallArgs[static_cast<unsigned>(call.kind)]; ++i) {
    put_varint(call.args[i]);
  }
  put_varint(call.result);
  const std::string name = one_line(std::string_view(call.name).substr(0, kMaxNameBytes));
  put_varint(name.size());
  put(name.data(), name.size());
  totals_.processes += call.kind == CallKind::Spawn || call.kind == CallKind::Fork;
}

void TraceWriter::switch_to(u32 process) {
  record(RecordKind::Switch);
  tags_.push_back(static_cast<u8>(Escape::Switch));
  put_varint(process);
}

void TraceWriter::flush(BlockKind kind) {
  tags_.insert(tags_.end(), raw_.begin(), raw_.end());
  BlockHeader header;
  header.kind = kind;
  header.raw_bytes = static_cast<u32>(tags_.size());
  header.stored_bytes = static_cast<u32>(sink_->compress(tags_, kind == BlockKind::End));
  const u64 records = totals_.all();
  header.records = kind == BlockKind::Records ? static_cast<u32>(records - first_record_) : 0;
  header.first_record = first_record_;
  const u64 seed = XXH3_64bits(&header, offsetof(BlockHeader, checksum));
  header.checksum = XXH3_64bits_withSeed(sink_->stored.data(), header.stored_bytes, seed);
  sink_->write(&header, sizeof(header));
  sink_->write(sink_->stored.data(), header.stored_bytes);
  tags_.clear();
  raw_.clear();
  first_record_ = records;
}

TraceTotals TraceWriter::finish() {
  if (!tags_.empty()) flush(BlockKind::Records);
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
