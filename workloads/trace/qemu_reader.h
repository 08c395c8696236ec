#pragma once

#include <array>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "workloads/trace/format.h"
#include "workloads/trace/qemu_log.h"

namespace mmuscope {

/// A file of words as the plugin writes it, read a chunk at a time. Its errors name the file and
/// the word, counted from 0.
class QemuWords {
 public:
  explicit QemuWords(const std::filesystem::path& path);

  /// The next word, or 0 at the end of the file. The empty rest of a chunk is skipped.
  u64 next() {
    if (at_ == words_.size() || words_[at_] == 0) return next_slow();
    return words_[at_++];
  }
  /// The next `count` words of a record whose first was read; they stand in the same chunk.
  const u64* rest(std::size_t count);
  [[noreturn]] void fail(const std::string& what) const;

 private:
  struct CloseFile {
    void operator()(std::FILE* f) const { std::fclose(f); }
  };
  u64 next_slow();
  bool read_chunk();

  std::string name_;
  std::unique_ptr<std::FILE, CloseFile> file_;
  std::vector<u64> words_;  ///< of the chunk
  std::size_t at_ = 0;
  u64 before_ = 0;  ///< words before the chunk
};

/// The blocks of instructions of one process, by number.
class QemuCode {
 public:
  struct Block {
    u64 address = 0;
    u32 first = 0;  ///< in lengths
    u16 count = 0;
  };
  /// The first `inherited` blocks are another process's (null: none).
  QemuCode(QemuWords words, std::shared_ptr<const QemuCode> base, u64 inherited);

  /// nullptr: no such block.
  const Block* find(u64 number) const {
    const QemuCode* code = this;
    while (number < code->inherited_) code = code->base_.get();
    number -= code->inherited_;
    return number < code->blocks_.size() ? &code->blocks_[number] : nullptr;
  }
  /// Bytes of each instruction of a block that find() gave for this number.
  const u8* lengths(u64 number, const Block& block) const {
    const QemuCode* code = this;
    while (number < code->inherited_) code = code->base_.get();
    return code->lengths_.data() + block.first;
  }
  u64 size() const { return inherited_ + blocks_.size(); }

 private:
  std::shared_ptr<const QemuCode> base_;
  u64 inherited_;
  std::vector<Block> blocks_;
  std::vector<u8> lengths_;
};

/// The code files of a folder, each read when it is first asked for.
class QemuCodes {
 public:
  explicit QemuCodes(std::filesystem::path folder) : folder_(std::move(folder)) {}
  std::shared_ptr<const QemuCode> get(u64 pid, u64 stamp);

 private:
  std::filesystem::path folder_;
  std::map<std::pair<u64, u64>, std::shared_ptr<const QemuCode>> codes_;
};

/// How a log begins.
struct QemuLogHeader {
  std::filesystem::path path;
  u64 pid = 0, tid = 0;
  qemu_log::Start start = qemu_log::Start::Exec;
  u64 code = 0;  ///< stamp of the code file
  u64 time = 0;
  u64 cpu = 0;
  std::string command;
};
/// Reads the header and leaves the words behind it.
QemuLogHeader read_qemu_header(const std::filesystem::path& path, QemuWords& words);

/// A system call, an image mapping or a mere stamp: what stands between a log's stretches.
struct QemuMark {
  qemu_log::Other kind = qemu_log::Other::Stamp;
  u64 time = 0;
  u64 cpu = 0;     ///< Stamp
  u64 number = 0;  ///< Call
  u64 result = 0;
  std::array<u64, 6> args{};
  std::string text;
};
/// Decodes the mark that begins with this word.
QemuMark read_qemu_mark(u64 word, QemuWords& words);

}  // namespace mmuscope
