#include "workloads/trace/reader.h"

#include <cstring>

namespace mmuscope {

namespace {

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

}  // namespace

TraceReader::TraceReader(const std::filesystem::path& path) : file_(path) {
  if (file_.info().machine) fail("this is a machine's trace, not a program's");
}

void TraceReader::read_end() {
  TraceTotals written;
  if (file_.end() - file_.begin() != sizeof(written.records) + sizeof(written.processes)) {
    fail("damaged end");
  }
  std::memcpy(written.records.data(), file_.begin(), sizeof(written.records));
  written.processes = load64(file_.begin() + sizeof(written.records));
  if (written != totals_) fail("damaged end: the counts do not agree");
  file_.check_end(record_);
  ended_ = true;
}

bool TraceReader::next(TraceBlock& block) {
  block.calls.clear();
  const BlockHeader header = ended_ ? BlockHeader{} : file_.next(record_);
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
  const u64 value = read_varint(at, file_.end());
  if (at == nullptr) fail("damaged: a number does not end");
  return value;
}

void TraceReader::check_call(const Call& call) {
  if (makes_task(call.kind) && (call.process != tasks_.made() || call.process >= kMaxProcesses)) {
    fail("process " + std::to_string(call.process) + " made out of order");
  }
  if (!names_user_memory(call)) {
    fail(std::string(kCallKindNames[static_cast<unsigned>(call.kind)]) +
         " of memory that no program can have");
  }
  if (call.kind != CallKind::Spawn && tasks_.running() == kMaxProcesses) {
    fail("a call by no process");
  }
}

void TraceReader::decode_call(const u8*& at, TraceBlock& block) {
  if (at >= file_.end() || *at >> 1 >= kCallKinds) fail("unknown call");
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
  if (length > kMaxNameBytes || length > static_cast<u64>(file_.end() - at)) {
    fail("damaged: a name is too long");
  }
  call.name = printable({reinterpret_cast<const char*>(at), static_cast<std::size_t>(length)});
  at += length;
  check_call(call);
  tasks_.note(call);
  totals_.processes += makes_task(call.kind);
  if (ends_turn(call.kind)) idle_until_ = record_;
  if (tasks_.running() == kMaxProcesses) {
    check_idle();
    ++idle_until_;
  }
  ++totals_.records[static_cast<unsigned>(RecordKind::Call)];
  Record& record = block.records[record_ - block.first_record];
  record = {block.calls.size(), 0, RecordKind::Call};
  block.calls.push_back(std::move(call));
}

/// Between the end of a task's turn and the next Switch only Spawn is possible.
void TraceReader::check_idle() const {
  if (tasks_.running() == kMaxProcesses && idle_until_ != record_) fail("an access by no process");
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
  const u8* const end = file_.end();
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
      if (!tasks_.may_run(process)) fail(kNoSwitch);
      check_idle();
      tasks_.run(process);
      record = {process, 0, RecordKind::Switch};
      ++totals_.records[static_cast<unsigned>(RecordKind::Switch)];
      return at;
    }
    case Escape::Access: {
      if (at >= file_.end() || *at > 3) fail("unknown record");
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
  const u8* const tags = file_.begin();
  const u8* at = tags + header.records;
  Record* const begin = block.records.data();
  Record* const end = begin + header.records;
  for (Record* record = begin; record != end;) {
    at = decode_accesses(tags + (record - begin), at, record, end);
    record_ = block.first_record + static_cast<u64>(record - begin);
    if (at > file_.end()) fail("damaged: a record ends early");
    if (record == end) break;
    at = decode_other(static_cast<Escape>(tags[record - begin]), at, *record, block);
    ++record;
  }
  record_ = block.first_record + header.records;
  if (at != file_.end()) fail("damaged: bytes follow the last record of a block");
  check_idle();
  if (all_ends_ > kTraceEnd) check_ranges(block);
}

}  // namespace mmuscope
