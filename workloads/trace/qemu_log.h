#pragma once

#include <cstddef>
#include <cstdint>

namespace mmuscope::qemu_log {

// What the QEMU plugin (recorder/plugin.cpp) writes and the importer (qemu.h) reads: files of
// 64-bit words, in the machine's own byte order, in one folder. They live from a recording to its
// import; a trace is what is kept.
//
//   PID.TID.STAMP.log   one thread of one program: header, then records
//   PID.STAMP.code      the blocks of instructions that a process's logs name by number
//
// Files grow by chunks and are written through a shared mapping, so nothing is lost when a process
// is killed. A zero word says that the rest of its chunk is empty.

inline constexpr std::uint64_t kLogMagic = 0x31474f4c554d4d51;   // "QMMULOG1"
inline constexpr std::uint64_t kCodeMagic = 0x3145444f434d4d51;  // "QMMCODE1"
inline constexpr std::size_t kChunkBytes = std::size_t{512} << 10;
/// No record and no header is longer.
inline constexpr std::size_t kMaxRecordWords = 160;
inline constexpr std::size_t kMaxTextBytes = 255;

/// How the thread of a log began.
enum class Start : std::uint64_t { Exec = 1, Fork = 2, Thread = 3 };

// Log header: kLogMagic, pid | tid << 32, Start, stamp of the code file, time, CPU, bytes of the
// command line, the command line (padded to words).
inline constexpr std::size_t kLogHeaderWords = 7;

// Code header: kCodeMagic, then for a process made by fork the pid and the stamp of its maker's
// code file and how many of the maker's blocks it has inherited; else zeros. A block is a word of
// kBlockMark | its number of instructions, its address, and the instructions' lengths, four bits
// each, 16 to a word.
inline constexpr std::size_t kCodeHeaderWords = 4;
inline constexpr std::uint64_t kBlockMark = std::uint64_t{1} << 63;
inline constexpr std::size_t kMaxBlockInsns = 1024;

// Records. The top two bits say what a word is:
//   Execute   bits 31:0: number of the block that begins
//   Load, Store   bits 46:0 address; 49:47 log2 of the bytes; 59:50 instruction within the block
//   Other     bits 7:0 an Other, which says what follows
enum class Word : std::uint64_t { Other = 0, Execute = 1, Load = 2, Store = 3 };
inline constexpr unsigned kWordShift = 62;
inline constexpr unsigned kSizeShift = 47;
inline constexpr unsigned kInsnShift = 50;
inline constexpr std::uint64_t kAddressMask = (std::uint64_t{1} << kSizeShift) - 1;

// Stamp: the word's bits 31:8 are the CPU; then the time.
// Call, Image: bits 31:16 are the bytes of the text, 63:32 would be the Word: the number of the
// system call stands in bits 61:32; then time, result, six arguments, the text (padded to words).
// Image is an mmap that the loader did before the program's first instruction.
// A time is CLOCK_MONOTONIC in ns, the same for all processes; it does not decrease within a log.
enum class Other : std::uint64_t { End = 0, Stamp = 1, Call = 2, Image = 3 };
inline constexpr std::size_t kCallWords = 9;

/// A block's stamp is renewed after so many words at the latest: how finely the order between
/// threads that do not wait for each other is known.
inline constexpr std::size_t kWordsPerStamp = 8192;

constexpr std::size_t words_of(std::size_t bytes) { return (bytes + 7) / 8; }

}  // namespace mmuscope::qemu_log
