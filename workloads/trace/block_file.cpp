#include "workloads/trace/block_file.h"

#include <xxhash.h>
#include <zstd.h>

#include <cstdio>
#include <cstring>

#include "core/error.h"

namespace mmuscope {

namespace {

/// From this level on the whole window is searched for repetitions.
constexpr int kThorough = 10;
/// Bytes after those of a block that may be read.
constexpr std::size_t kSlack = 16;
/// What a block of kMaxBlockBytes can take when stored; see ZSTD_compressBound.
constexpr u32 kMaxStoredBytes = kMaxBlockBytes + (kMaxBlockBytes >> 7) + 1024;

std::string info_text(const TraceInfo& info) {
  std::string text;
  const auto line = [&text](const char* key, std::string_view value) {
    text.append(key).append(": ").append(printable(value)).append("\n");
  };
  if (info.machine)
    line("machine", std::to_string(info.vcpus) + " " + std::to_string(info.memory_bytes));
  line("program", info.program);
  line("recorder", info.recorder);
  line("cut", info.cut);
  for (const std::string& rule : info.synthesized) line("synthesized", rule);
  if (text.size() > kMaxInfoBytes) text.resize(kMaxInfoBytes);
  return text;
}

struct CloseFile {
  void operator()(std::FILE* f) const { std::fclose(f); }
};

}  // namespace

std::string printable(std::string_view text) {
  std::string line(text);
  for (char& c : line) {
    if (static_cast<unsigned char>(c) < ' ' || c == 0x7f) c = '?';
  }
  return line;
}

u64 read_varint(const u8*& at, const u8* end) {
  u64 value = 0;
  for (unsigned shift = 0; shift < 64 && at < end; shift += 7) {
    const u8 byte = *at++;
    if (shift == 63 && byte > 1) break;
    value |= u64{byte & 0x7fu} << shift;
    if (byte < 0x80) return value;
  }
  at = nullptr;
  return 0;
}

// --- writing -------------------------------------------------------------------------------------

struct BlockWriter::Sink {
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
  void compress(std::span<const u8> bytes, ZSTD_EndDirective how) {
    ZSTD_inBuffer in{bytes.data(), bytes.size(), 0};
    ZSTD_outBuffer out{stored.data(), stored.size(), stored_bytes};
    const std::size_t left = ZSTD_compressStream2(context.get(), &out, &in, how);
    const bool whole = how == ZSTD_e_continue ? in.pos == in.size : left == 0;
    if (ZSTD_isError(left) || !whole) fail("cannot be compressed");
    stored_bytes = out.pos;
  }

  struct FreeContext {
    void operator()(ZSTD_CCtx* c) const { ZSTD_freeCCtx(c); }
  };
  std::filesystem::path final_path, temporary;
  std::unique_ptr<std::FILE, CloseFile> file;
  std::unique_ptr<ZSTD_CCtx, FreeContext> context{ZSTD_createCCtx()};
  std::vector<u8> stored;
  std::size_t stored_bytes = 0;  ///< of the block
};

BlockWriter::BlockWriter(const std::filesystem::path& path, const TraceInfo& info, int compression)
    : sink_(std::make_unique<Sink>(path, compression)) {
  const std::string text = info_text(info);
  write(BlockKind::Info, 0, {{reinterpret_cast<const u8*>(text.data()), text.size()}});
}

BlockWriter::~BlockWriter() = default;

void BlockWriter::write(BlockKind kind, u32 records,
                        std::initializer_list<std::span<const u8>> parts) {
  BlockHeader header;
  header.kind = kind;
  header.records = records;
  header.first_record = records_;
  sink_->begin_block();
  for (const std::span<const u8> part : parts) {
    sink_->compress(part, ZSTD_e_continue);
    header.raw_bytes += static_cast<u32>(part.size());
  }
  sink_->compress({}, kind == BlockKind::End ? ZSTD_e_end : ZSTD_e_flush);
  header.stored_bytes = static_cast<u32>(sink_->stored_bytes);
  const u64 seed = XXH3_64bits(&header, offsetof(BlockHeader, checksum));
  header.checksum = XXH3_64bits_withSeed(sink_->stored.data(), header.stored_bytes, seed);
  sink_->write(&header, sizeof(header));
  sink_->write(sink_->stored.data(), header.stored_bytes);
  records_ += records;
}

void BlockWriter::finish(std::span<const u8> end) {
  write(BlockKind::End, 0, {end});
  if (std::fflush(sink_->file.get()) != 0) sink_->fail("cannot be written (disk full?)");
  std::error_code error;
  std::filesystem::rename(sink_->temporary, sink_->final_path, error);
  if (error) sink_->fail("cannot be put in place");
  sink_->file.reset();
}

// --- reading -------------------------------------------------------------------------------------

struct BlockReader::Source {
  struct FreeContext {
    void operator()(ZSTD_DCtx* c) const { ZSTD_freeDCtx(c); }
  };
  std::string name;
  std::unique_ptr<std::FILE, CloseFile> file;
  std::unique_ptr<ZSTD_DCtx, FreeContext> context{ZSTD_createDCtx()};
  std::vector<u8> stored;
  std::vector<u8> raw;  ///< kMaxBlockBytes and slack
  bool frame_ended = false;

  std::size_t read(void* bytes, std::size_t count) {
    return std::fread(bytes, 1, count, file.get());
  }
};

BlockReader::~BlockReader() = default;
BlockReader::BlockReader(BlockReader&&) noexcept = default;
BlockReader& BlockReader::operator=(BlockReader&&) noexcept = default;

void BlockReader::fail(u64 record, const std::string& what) const {
  throw InputError(source_->name + ": record " + std::to_string(record) + ": " + what +
                   "; valid: a whole trace of mmuscope, version " + std::to_string(kTraceVersion));
}

BlockReader::BlockReader(const std::filesystem::path& path) : source_(std::make_unique<Source>()) {
  source_->name = path.string();
  std::error_code ignored;
  if (!std::filesystem::is_directory(path, ignored)) {
    source_->file.reset(std::fopen(path.c_str(), "rb"));
  }
  if (!source_->file) {
    throw InputError(source_->name + ": cannot be read; valid: a trace file of mmuscope");
  }
  std::array<char, 8> magic{};
  std::array<u32, 2> version{};
  if (source_->read(magic.data(), magic.size()) != magic.size() || magic != kTraceMagic) {
    fail(0, "this is no trace of mmuscope");
  }
  if (source_->read(version.data(), sizeof(version)) != sizeof(version)) fail(0, "truncated");
  if (version[0] < kOldestTraceVersion || version[0] > kTraceVersion || version[1] != 0) {
    fail(0, "version " + std::to_string(version[0]) + " of the format is not known");
  }
  ZSTD_DCtx_setParameter(source_->context.get(), ZSTD_d_windowLogMax, kTraceWindowLog);
  source_->raw.resize(kMaxBlockBytes + kSlack);
  read_info();
}

BlockHeader BlockReader::next(u64 record) {
  Source& s = *source_;
  BlockHeader header;
  if (s.read(&header, sizeof(header)) != sizeof(header)) fail(record, "truncated");
  if (header.stored_bytes > kMaxStoredBytes || header.raw_bytes > kMaxBlockBytes ||
      header.records > kMaxBlockRecords || header.first_record != record) {
    fail(record, "damaged block header");
  }
  s.stored.resize(header.stored_bytes);
  if (s.read(s.stored.data(), header.stored_bytes) != header.stored_bytes)
    fail(record, "truncated");
  const u64 seed = XXH3_64bits(&header, offsetof(BlockHeader, checksum));
  if (XXH3_64bits_withSeed(s.stored.data(), header.stored_bytes, seed) != header.checksum) {
    fail(record, "damaged: wrong checksum");
  }
  ZSTD_inBuffer in{s.stored.data(), header.stored_bytes, 0};
  ZSTD_outBuffer out{s.raw.data(), header.raw_bytes, 0};
  while (in.pos < in.size || out.pos < out.size) {
    const std::size_t before = in.pos + out.pos;
    const std::size_t left = ZSTD_decompressStream(s.context.get(), &out, &in);
    if (ZSTD_isError(left)) fail(record, std::string("damaged: ") + ZSTD_getErrorName(left));
    s.frame_ended = left == 0;
    if (in.pos + out.pos == before) fail(record, "damaged: a block ends early");
  }
  begin_ = s.raw.data();
  end_ = s.raw.data() + header.raw_bytes;
  std::memset(s.raw.data() + header.raw_bytes, 0, kSlack);
  return header;
}

/// "VCPUS MEMORY": the trace is a machine's.
void BlockReader::read_machine(const std::string& value) {
  unsigned long long vcpus = 0, bytes = 0;
  if (std::sscanf(value.c_str(), "%llu %llu", &vcpus, &bytes) != 2 || vcpus == 0 ||
      vcpus > kMaxTraceVcpus || bytes == 0 || bytes > kMaxTraceMemory) {
    fail(0, "a machine that cannot be");
  }
  info_.machine = true;
  info_.vcpus = static_cast<u32>(vcpus);
  info_.memory_bytes = bytes;
}

void BlockReader::read_info() {
  const BlockHeader header = next(0);
  if (header.kind != BlockKind::Info || header.raw_bytes > kMaxInfoBytes) fail(0, "no description");
  const std::string text(reinterpret_cast<const char*>(begin_), header.raw_bytes);
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    const std::string line = text.substr(at, end - at);
    at = end + 1;
    const std::size_t colon = std::min(line.find(": "), line.size());
    const std::string key = line.substr(0, colon);
    const std::string value = printable(line.substr(std::min(colon + 2, line.size())));
    if (key == "machine") read_machine(value);
    if (key == "program") info_.program = value;
    if (key == "recorder") info_.recorder = value;
    if (key == "cut") info_.cut = value;
    if (key == "synthesized") info_.synthesized.push_back(value);
  }
}

void BlockReader::check_end(u64 record) {
  if (!source_->frame_ended) fail(record, "damaged end");
  if (std::fgetc(source_->file.get()) != EOF) fail(record, "bytes follow the end");
}

}  // namespace mmuscope
