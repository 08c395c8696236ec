#pragma once

#include <array>
#include <bit>
#include <string>
#include <string_view>
#include <vector>

#include "core/address.h"

namespace mmuscope {

// A trace file, version 3. All integers are little-endian. Version 2 had no vfork, version 1 no
// calls after mremap; both are read as well.
//
//   "mmutrace"  u32 version  u32 zero
//   block*      first Info, then Records (of a machine: Machine), last End; nothing follows End
//   block:      BlockHeader (32 bytes), then stored_bytes of one zstd frame that runs through all
//               blocks and is flushed at the end of each, so that a block repeats what any earlier
//               one holds within the window and can still be read as soon as it is there.
//
// Info holds TraceInfo as lines "key: value". End holds the counts of records by kind and of
// tasks, as u64. Records holds a tag of one byte for each record, then what the tags leave
// open:
//
//   access      tag = size code (4 bits, 1..15) | length code (2 bits) | kind (2 bits);
//               then the low 0, 1, 2 or 6 bytes of the zigzag difference between the address and
//               the end of the last access of the same kind
//   other       tag with size code 0, whose low 4 bits are an Escape; then varints (LEB128)
//
// The tags stand together so that decoding a record need not wait for the one before. The state
// behind the differences is kept from block to block.

static_assert(std::endian::native == std::endian::little, "trace files are read in place");

enum class RecordKind : u8 { Instruction, Load, Store, Modify, Call, Switch };
inline constexpr unsigned kRecordKinds = 6;
inline constexpr std::array<std::string_view, kRecordKinds> kRecordKindNames = {
    "instruction", "load", "store", "modify", "call", "switch"};

/// One record, decoded. A Modify is a load and a store of the same bytes by one instruction.
struct Record {
  u64 address = 0;  ///< of an access; Call: index in TraceBlock::calls; Switch: the task to run
  u16 size = 0;     ///< bytes, 1..kMaxAccessBytes; 0 for Call and Switch
  RecordKind kind = RecordKind::Instruction;
};
static_assert(sizeof(Record) == 16);

/// What the task that runs, a process or a thread of one, asks of the kernel. Spawn makes a process
/// that is no copy of another one (the first of a trace; one whose fork was not recorded); it has
/// no mappings. Thread makes a task that shares the memory of the one that runs. Vfork makes a
/// process that lives in the memory of the one that runs, which waits until it has called Exec or
/// Exit. Exec drops the mappings of the process. Cpu is no call: it says on which CPU of the
/// recorded machine the task runs from here on.
enum class CallKind : u8 {
  Spawn,
  Fork,
  Exec,
  Exit,
  Map,
  Unmap,
  Protect,
  Break,
  Remap,
  Thread,
  Advise,
  Cpu,
  Vfork
};
inline constexpr unsigned kCallKinds = 13;
inline constexpr std::array<std::string_view, kCallKinds> kCallKindNames = {
    "spawn", "fork",   "exec",   "exit",    "mmap", "munmap", "mprotect",
    "brk",   "mremap", "thread", "madvise", "cpu",  "vfork"};
/// How many of Call::args each kind uses.
inline constexpr std::array<u8, kCallKinds> kCallArgs = {0, 1, 0, 1, 6, 2, 3, 1, 5, 1, 3, 1, 1};

/// Whether a call makes a task.
constexpr bool makes_task(CallKind kind) {
  return kind == CallKind::Spawn || kind == CallKind::Fork || kind == CallKind::Thread ||
         kind == CallKind::Vfork;
}
/// Whether its caller does not run after it, so that the next record is a Switch or a Spawn.
constexpr bool ends_turn(CallKind kind) {
  return kind == CallKind::Exit || kind == CallKind::Vfork;
}

/// One call, with the arguments and the result of the Linux system call (mmap, munmap, mprotect,
/// brk, mremap, madvise, fork, vfork or clone, exit). Lengths are in bytes and need not be whole
/// pages, as in Linux. Only calls that succeeded are recorded.
struct Call {
  CallKind kind = CallKind::Exit;
  /// The importer made it up by one of its rules (TraceInfo::synthesized).
  bool synthesized = false;
  u32 process = 0;  ///< the task that is made; they are numbered 0, 1, 2... as made
  std::array<u64, 6> args{};
  /// Of a new task: pid or tid where it was recorded. Map, Remap: start of the mapping.
  /// Break: new break.
  u64 result = 0;
  /// Spawn, Exec: the command line that runs. Map: the file, empty for none. At most kMaxNameBytes.
  std::string name;

  friend bool operator==(const Call&, const Call&) = default;
};

/// How a trace came to be. Values are single lines of at most kMaxInfoBytes together.
struct TraceInfo {
  std::string program;                   ///< the command line that was recorded
  std::string recorder;                  ///< the tool that recorded it, with its version
  std::string cut;                       ///< what was left out, and by which rule; "nothing"
  std::vector<std::string> synthesized;  ///< rules by which records were made up, with their counts
  /// What a machine did (machine_trace.h), not a program; the next two then say which machine.
  bool machine = false;
  u32 vcpus = 0;
  u64 memory_bytes = 0;

  friend bool operator==(const TraceInfo&, const TraceInfo&) = default;
};

struct TraceTotals {
  std::array<u64, kRecordKinds> records{};  ///< by RecordKind
  u64 processes = 0;                        ///< tasks: processes, and threads of them

  u64 all() const {
    u64 sum = 0;
    for (const u64 n : records) sum += n;
    return sum;
  }
  u64 of(RecordKind kind) const { return records[static_cast<unsigned>(kind)]; }
  friend bool operator==(const TraceTotals&, const TraceTotals&) = default;
};

/// A run of consecutive records.
struct TraceBlock {
  u64 first_record = 0;  ///< number of records[0] in the trace
  std::vector<Record> records;
  std::vector<Call> calls;  ///< what the Call records refer to
};

// Limits, the same for writer and reader: what bounds the memory that reading takes.
inline constexpr u32 kMaxBlockRecords = 32768;
inline constexpr u32 kMaxBlockBytes = 1u << 20;
inline constexpr u32 kMaxInfoBytes = 1u << 16;
inline constexpr u32 kMaxNameBytes = 255;
inline constexpr u32 kMaxAccessBytes = 4096;
inline constexpr u32 kMaxProcesses = 1u << 20;
inline constexpr u32 kMaxTraceVcpus = 64;
inline constexpr u64 kMaxTraceMemory = u64{1} << 46;
inline constexpr int kTraceWindowLog = 24;
/// Accesses and mappings end at or below this: the user half of 48-bit addresses without its last
/// page, which Linux does not give out.
inline constexpr u64 kTraceEnd = (u64{1} << 47) - kPageBytes;

// The encoding, shared by writer and reader.
inline constexpr std::array<char, 8> kTraceMagic = {'m', 'm', 'u', 't', 'r', 'a', 'c', 'e'};
inline constexpr u32 kTraceVersion = 3;
inline constexpr u32 kOldestTraceVersion = 1;
enum class BlockKind : u32 { Info = 1, Records = 2, End = 3, Machine = 4 };
enum class Escape : u8 { Access, Call, Switch };

struct BlockHeader {
  BlockKind kind = BlockKind::Info;
  u32 stored_bytes = 0;  ///< compressed
  u32 raw_bytes = 0;
  u32 records = 0;
  u64 first_record = 0;
  u64 checksum = 0;  ///< XXH3 of the payload, seeded with XXH3 of the fields above
};
static_assert(sizeof(BlockHeader) == 32);

/// Access sizes with a code of their own; others take Escape::Access.
inline constexpr std::array<u8, 16> kSizeOfCode = {0, 1, 2,  3,  4,  5,  6,  7,
                                                   8, 9, 10, 11, 16, 32, 64, 15};
inline constexpr std::array<u8, 4> kBytesOfLength = {0, 1, 2, 6};

/// Whether the memory that a call names is whole: not empty, page-aligned, in the user half.
inline bool names_user_memory(const Call& call) {
  const auto valid = [](u64 start, u64 bytes) {
    return start % kPageBytes == 0 && bytes != 0 && bytes <= kTraceEnd &&
           start <= kTraceEnd - bytes;
  };
  switch (call.kind) {
    case CallKind::Map:
      return valid(call.result, call.args[1]);
    case CallKind::Unmap:
    case CallKind::Protect:
    case CallKind::Advise:
      return valid(call.args[0], call.args[1]);
    case CallKind::Remap:
      return valid(call.args[0], call.args[1]) && valid(call.result, call.args[2]);
    case CallKind::Break:
      return call.result != 0 && call.result <= kTraceEnd;
    default:
      return true;
  }
}

constexpr u64 zigzag(u64 delta) { return (delta << 1) ^ (0 - (delta >> 63)); }
constexpr u64 unzigzag(u64 coded) { return (coded >> 1) ^ (0 - (coded & 1)); }

}  // namespace mmuscope
