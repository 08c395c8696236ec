#include "workloads/trace/qemu_reader.h"

#include <cstring>

#include "core/error.h"

namespace mmuscope {

using namespace qemu_log;

namespace {

constexpr std::size_t kChunkWords = kChunkBytes / 8;
/// Processes that inherit code in a row: a shell's subshells nest, but not without end.
constexpr u64 kMaxBlocks = u64{1} << 26;

std::string read_text(QemuWords& words, u64 bytes) {
  if (bytes > kMaxTextBytes) words.fail("a text is too long");
  const u64* const from = words.rest(words_of(bytes));
  std::string text(bytes, '\0');
  std::memcpy(text.data(), from, bytes);
  return text;
}

}  // namespace

QemuWords::QemuWords(const std::filesystem::path& path)
    : name_(path.string()), file_(std::fopen(path.c_str(), "rb")) {
  if (!file_) throw InputError(name_ + ": cannot be read; valid: a log of results/record");
}

void QemuWords::fail(const std::string& what) const {
  throw InputError(name_ + ": word " + std::to_string(before_ + at_ - (at_ > 0)) + ": " + what +
                   "; valid: a whole log of results/record");
}

bool QemuWords::read_chunk() {
  before_ += words_.size();
  at_ = 0;
  words_.resize(kChunkWords);
  const std::size_t bytes = std::fread(words_.data(), 1, kChunkBytes, file_.get());
  words_.resize(bytes / 8);
  if (bytes % 8 != 0) fail("the file ends within a word");
  return !words_.empty();
}

u64 QemuWords::next_slow() {
  do {
    if (!read_chunk()) return 0;
  } while (words_[0] == 0);
  return words_[at_++];
}

const u64* QemuWords::rest(std::size_t count) {
  if (words_.size() - at_ < count) fail("a record ends early");
  at_ += count;
  return words_.data() + at_ - count;
}

QemuCode::QemuCode(QemuWords words, std::shared_ptr<const QemuCode> base, u64 inherited)
    : base_(std::move(base)), inherited_(inherited) {
  while (const u64 word = words.next()) {
    const u64 count = word & ~kBlockMark;
    if ((word & kBlockMark) == 0 || count == 0 || count > kMaxBlockInsns) {
      words.fail("no block of instructions");
    }
    if (blocks_.size() == kMaxBlocks) words.fail("too many blocks");
    const u64* rest = words.rest(1 + (count + 15) / 16);
    blocks_.push_back({*rest++, static_cast<u32>(lengths_.size()), static_cast<u16>(count)});
    for (u64 i = 0; i < count; ++i) {
      const u64 length = rest[i / 16] >> 4 * (i % 16) & 15;
      if (length == 0) words.fail("an instruction without bytes");
      lengths_.push_back(static_cast<u8>(length));
    }
  }
}

std::shared_ptr<const QemuCode> QemuCodes::get(u64 pid, u64 stamp) {
  if (const auto known = codes_.find({pid, stamp}); known != codes_.end()) return known->second;
  QemuWords words(folder_ / (std::to_string(pid) + "." + std::to_string(stamp) + ".code"));
  if (words.next() != kCodeMagic) words.fail("this is no code file");
  const u64* const header = words.rest(kCodeHeaderWords - 1);
  const u64 inherited = header[2];
  std::shared_ptr<const QemuCode> base;
  if (inherited != 0) {
    // A maker is older than what it made, so no file can name itself in the end.
    if (header[1] >= stamp)
      words.fail("the code file of a process's maker is younger than its own");
    base = get(header[0], header[1]);
    if (base->size() < inherited) words.fail("more blocks inherited than there were");
  }
  auto code = std::make_shared<const QemuCode>(std::move(words), std::move(base), inherited);
  codes_[{pid, stamp}] = code;
  return code;
}

QemuLogHeader read_qemu_header(const std::filesystem::path& path, QemuWords& words) {
  if (words.next() != kLogMagic) words.fail("this is no log");
  const u64* const h = words.rest(kLogHeaderWords - 1);
  QemuLogHeader header;
  header.path = path;
  header.pid = h[0] & 0xffffffff;
  header.tid = h[0] >> 32;
  header.start = static_cast<Start>(h[1]);
  header.code = h[2];
  header.time = h[3];
  header.cpu = h[4];
  if (header.start < Start::Exec || header.start > Start::Thread) words.fail("a damaged header");
  header.command = read_text(words, h[5]);
  return header;
}

QemuMark read_qemu_mark(u64 word, QemuWords& words) {
  QemuMark mark;
  mark.kind = static_cast<Other>(word & 0xff);
  switch (mark.kind) {
    case Other::Stamp:
      mark.cpu = word >> 8 & 0xffffff;
      mark.time = *words.rest(1);
      return mark;
    case Other::Call:
    case Other::Image: {
      const u64* const rest = words.rest(kCallWords - 1);
      mark.number = word >> 32;
      mark.time = rest[0];
      mark.result = rest[1];
      std::copy(rest + 2, rest + 8, mark.args.begin());
      mark.text = read_text(words, word >> 16 & 0xffff);
      return mark;
    }
    case Other::End:
      break;
  }
  words.fail("unknown record");
}

}  // namespace mmuscope
