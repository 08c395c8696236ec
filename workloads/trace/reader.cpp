#include "workloads/trace/reader.h"

#include <xxhash.h>
#include <zstd.h>

#include <cstdio>
#include <cstring>

#include "core/error.h"

namespace mmuscope {

namespace {

/// Bytes after the raw bytes of a block that may be read, and mean nothing.
constexpr std::size_t kSlack = 16;
/// What a block of kMaxBlockBytes can take when stored; see ZSTD_compressBound.
constexpr u32 kMaxStoredBytes = kMaxBlockBytes + (kMaxBlockBytes >> 7) + 1024;

u64 load64(const u8* from) {
  u64 value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

bool is_access(RecordKind kind) { return kind <= RecordKind::Modify; }

/// What the first byte of an access says.
struct Tag {
  u64 mask = 0;   ///< of the difference's bytes in the eight that follow
  u64 count = 0;  ///< one, in the 16 bits of the kind
  u16 size = 0;   ///< 0: no access with a size code
  u8 kind = 0;
  u8 length = 0;  ///< bytes of the difference
};

constexpr std::array<Tag, 256> make_tags() {
  std::array<Tag, 256> tags{};
  for (unsigned byte = 0; byte < tags.size(); ++byte) {
    const u8 bytes = kBytesOfLength[byte >> 2 & 3];
    tags[byte].mask = (u64{1} << 8 * bytes) - 1;
    tags[byte].count = u64{1} << 16 * (byte & 3);
    tags[byte].size = kSizeOfCode[byte >> 4];
    tags[byte].kind = static_cast<u8>(byte & 3);
    tags[byte].length = bytes;
  }
  return tags;
}

constexpr std::array<Tag, 256> kTags = make_tags();

/// The message is printed on a terminal.
std::string printable(std::string_view text) {
  std::string line(text);
  for (char& c : line) {
    if (static_cast<unsigned char>(c) < ' ' || c == 0x7f) c = '?';
  }
  return line;
}

}  // namespace

struct TraceReader::Source {
  struct CloseFile {
    void operator()(std::FILE* f) const { std::fclose(f); }
  };
  struct FreeContext {
    void operator()(ZSTD_DCtx* c) const { ZSTD_freeDCtx(c); }
  };
  std::string name;
  std::unique_ptr<std::FILE, CloseFile> file;
  std::unique_ptr<ZSTD_DCtx, FreeContext> context{ZSTD_createDCtx()};
  std::vector<u8> stored;
  std::vector<u8> raw;          ///< kMaxBlockBytes and slack
  const u8* raw_end = nullptr;  ///< of the block
  bool frame_ended = false;

  std::size_t read(void* bytes, std::size_t count) {
    return std::fread(bytes, 1, count, file.get());
  }
};

TraceReader::~TraceReader() = default;
TraceReader::TraceReader(TraceReader&&) noexcept = default;
TraceReader& TraceReader::operator=(TraceReader&&) noexcept = default;

void TraceReader::fail(const std::string& what) const {
  throw InputError(source_->name + ": record " + std::to_string(record_) + ": " + what +
                   "; valid: a whole trace of mmuscope, version " + std::to_string(kTraceVersion));
}

TraceReader::TraceReader(const std::filesystem::path& path) : source_(std::make_unique<Source>()) {
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
    fail("this is no trace of mmuscope");
  }
  if (source_->read(version.data(), sizeof(version)) != sizeof(version)) fail("truncated");
  if (version[0] < kOldestTraceVersion || version[0] > kTraceVersion || version[1] != 0) {
    fail("version " + std::to_string(version[0]) + " of the format is not known");
  }
  ZSTD_DCtx_setParameter(source_->context.get(), ZSTD_d_windowLogMax, kTraceWindowLog);
  source_->raw.resize(kMaxBlockBytes + kSlack);
  read_info();
}

/// Reads, checks and decompresses one block into raw.
BlockHeader TraceReader::read_block() {
  Source& s = *source_;
  BlockHeader header;
  if (s.read(&header, sizeof(header)) != sizeof(header)) fail("truncated");
  if (header.stored_bytes > kMaxStoredBytes || header.raw_bytes > kMaxBlockBytes ||
      header.records > kMaxBlockRecords || header.first_record != record_) {
    fail("damaged block header");
  }
  s.stored.resize(header.stored_bytes);
  if (s.read(s.stored.data(), header.stored_bytes) != header.stored_bytes) fail("truncated");
  const u64 seed = XXH3_64bits(&header, offsetof(BlockHeader, checksum));
  if (XXH3_64bits_withSeed(s.stored.data(), header.stored_bytes, seed) != header.checksum) {
    fail("damaged: wrong checksum");
  }
  ZSTD_inBuffer in{s.stored.data(), header.stored_bytes, 0};
  ZSTD_outBuffer out{s.raw.data(), header.raw_bytes, 0};
  while (in.pos < in.size || out.pos < out.size) {
    const std::size_t before = in.pos + out.pos;
    const std::size_t left = ZSTD_decompressStream(s.context.get(), &out, &in);
    if (ZSTD_isError(left)) fail(std::string("damaged: ") + ZSTD_getErrorName(left));
    s.frame_ended = left == 0;
    if (in.pos + out.pos == before) fail("damaged: a block ends early");
  }
  s.raw_end = s.raw.data() + header.raw_bytes;
  std::memset(s.raw.data() + header.raw_bytes, 0, kSlack);
  return header;
}

void TraceReader::read_info() {
  const BlockHeader header = read_block();
  if (header.kind != BlockKind::Info || header.raw_bytes > kMaxInfoBytes) fail("no description");
  const std::string text(reinterpret_cast<const char*>(source_->raw.data()), header.raw_bytes);
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    const std::string line = text.substr(at, end - at);
    at = end + 1;
    const std::size_t colon = std::min(line.find(": "), line.size());
    const std::string key = line.substr(0, colon);
    const std::string value = printable(line.substr(std::min(colon + 2, line.size())));
    if (key == "program") info_.program = value;
    if (key == "recorder") info_.recorder = value;
    if (key == "cut") info_.cut = value;
    if (key == "synthesized") info_.synthesized.push_back(value);
  }
}

void TraceReader::read_end() {
  TraceTotals written;
  const Source& s = *source_;
  if (s.raw_end - s.raw.data() != sizeof(written.records) + sizeof(written.processes)) {
    fail("damaged end");
  }
  std::memcpy(written.records.data(), s.raw.data(), sizeof(written.records));
  written.processes = load64(s.raw.data() + sizeof(written.records));
  if (written != totals_ || !s.frame_ended) fail("damaged end: the counts do not agree");
  if (std::fgetc(s.file.get()) != EOF) fail("bytes follow the end");
  ended_ = true;
}

bool TraceReader::next(TraceBlock& block) {
  block.calls.clear();
  const BlockHeader header = ended_ ? BlockHeader{} : read_block();
  if (ended_ || header.kind == BlockKind::End) block.records.clear();
  if (ended_) return false;
  if (header.kind == BlockKind::End) {
    read_end();
    return false;
  }
  if (header.kind != BlockKind::Records || header.records == 0) fail("unknown kind of block");
  decode(header, block);
  return true;
}

u64 TraceReader::varint(const u8*& at) {
  u64 value = 0;
  for (unsigned shift = 0; shift < 64; shift += 7) {
    if (at >= source_->raw_end) fail("damaged: a record ends early");
    const u8 byte = *at++;
    if (shift == 63 && byte > 1) break;
    value |= u64{byte & 0x7fu} << shift;
    if (byte < 0x80) return value;
  }
  fail("damaged: a number has more than 64 bits");
}

void TraceReader::check_call(const Call& call) {
  if (makes_task(call.kind) && (call.process != alive_.size() || call.process >= kMaxProcesses)) {
    fail("process " + std::to_string(call.process) + " made out of order");
  }
  if (!names_user_memory(call)) {
    fail(std::string(kCallKindNames[static_cast<unsigned>(call.kind)]) +
         " of memory that no program can have");
  }
  if (call.kind != CallKind::Spawn && running_ == kMaxProcesses) fail("a call by no process");
}

void TraceReader::decode_call(const u8*& at, TraceBlock& block) {
  if (at >= source_->raw_end || *at >> 1 >= kCallKinds) fail("unknown call");
  Call call;
  call.kind = static_cast<CallKind>(*at >> 1);
  call.synthesized = *at & 1;
  ++at;
  call.process = static_cast<u32>(std::min<u64>(varint(at), kMaxProcesses));
  for (unsigned i = 0; i < kCallArgs[static_cast<unsigned>(call.kind)]; ++i) {
    call.args[i] = varint(at);
  }
  call.result = varint(at);
  const u64 length = varint(at);
  if (length > kMaxNameBytes || length > static_cast<u64>(source_->raw_end - at)) {
    fail("damaged: a name is too long");
  }
  call.name = printable({reinterpret_cast<const char*>(at), static_cast<std::size_t>(length)});
  at += length;
  check_call(call);
  if (makes_task(call.kind)) {
    alive_.push_back(true);
    ++totals_.processes;
  } else if (call.kind == CallKind::Exit) {
    alive_[running_] = false;
    running_ = kMaxProcesses;
    idle_until_ = record_;
  }
  if (running_ == kMaxProcesses) {
    check_idle();
    ++idle_until_;
  }
  ++totals_.records[static_cast<unsigned>(RecordKind::Call)];
  Record& record = block.records[record_ - block.first_record];
  record = {block.calls.size(), 0, RecordKind::Call};
  block.calls.push_back(std::move(call));
}

/// Between the end of a process and the next Switch only Spawn is possible.
void TraceReader::check_idle() const {
  if (running_ == kMaxProcesses && idle_until_ != record_) fail("an access by no process");
}

void TraceReader::check_ranges(const TraceBlock& block) {
  u64 number = block.first_record;
  for (const Record& r : block.records) {
    if (is_access(r.kind) && (r.address >= kTraceEnd || r.address + r.size > kTraceEnd)) {
      record_ = number;
      fail("an access outside the user half");
    }
    ++number;
  }
}

/// Decodes accesses until another record comes, or the end, and returns where in the bytes that
/// follow the tags.
const u8* TraceReader::decode_accesses(const u8* tags, const u8* at, Record*& out,
                                       Record* out_end) {
  const u8* const end = source_->raw_end;
  std::array<u64, 4> last_end = last_end_;
  u64 counts = 0;    // four counts of 16 bits: a block has at most 2^15 records
  u64 all_ends = 0;  // OR of all ends of accesses: one comparison a block
  Record* record = out;
  for (; record != out_end && at <= end; ++record) {
    const Tag& tag = kTags[*tags++];
    if (tag.size == 0) break;
    const u64 coded = load64(at) & tag.mask;
    at += tag.length;
    u64& base = last_end[tag.kind];
    const u64 address = base + unzigzag(coded);
    base = address + tag.size;
    *record = {address, tag.size, static_cast<RecordKind>(tag.kind)};
    all_ends |= address | base;
    counts += tag.count;
  }
  out = record;
  last_end_ = last_end;
  all_ends_ |= all_ends;
  for (unsigned kind = 0; kind < 4; ++kind) totals_.records[kind] += counts >> 16 * kind & 0xffff;
  return at;
}

/// Decodes a record that is no access with a size code.
const u8* TraceReader::decode_other(Escape escape, const u8* at, Record& record,
                                    TraceBlock& block) {
  switch (escape) {
    case Escape::Call:
      decode_call(at, block);
      return at;
    case Escape::Switch: {
      const u64 process = varint(at);
      if (process >= alive_.size() || !alive_[process]) fail("a switch to no living process");
      check_idle();
      running_ = static_cast<u32>(process);
      record = {process, 0, RecordKind::Switch};
      ++totals_.records[static_cast<unsigned>(RecordKind::Switch)];
      return at;
    }
    case Escape::Access: {
      if (at >= source_->raw_end || *at > 3) fail("unknown record");
      const unsigned kind = *at++;
      const u64 size = varint(at);
      if (size == 0 || size > kMaxAccessBytes) {
        fail("an access of " + std::to_string(size) + " bytes");
      }
      const u64 address = last_end_[kind] + unzigzag(varint(at));
      last_end_[kind] = address + size;
      all_ends_ |= address | last_end_[kind];
      record = {address, static_cast<u16>(size), static_cast<RecordKind>(kind)};
      ++totals_.records[kind];
      return at;
    }
  }
  fail("unknown record");
}

void TraceReader::decode(const BlockHeader& header, TraceBlock& block) {
  block.first_record = record_;
  block.records.resize(header.records);
  all_ends_ = 0;
  if (header.raw_bytes < header.records) fail("damaged: the tags are missing");
  const u8* const tags = source_->raw.data();
  const u8* at = tags + header.records;
  Record* const begin = block.records.data();
  Record* const end = begin + header.records;
  for (Record* record = begin; record != end;) {
    at = decode_accesses(tags + (record - begin), at, record, end);
    record_ = block.first_record + static_cast<u64>(record - begin);
    if (at > source_->raw_end) fail("damaged: a record ends early");
    if (record == end) break;
    at = decode_other(static_cast<Escape>(tags[record - begin]), at, *record, block);
    ++record;
  }
  record_ = block.first_record + header.records;
  if (at != source_->raw_end) fail("damaged: bytes follow the last record of a block");
  check_idle();
  if (all_ends_ > kTraceEnd) check_ranges(block);
}

}  // namespace mmuscope
