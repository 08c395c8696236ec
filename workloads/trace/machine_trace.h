#pragma once

#include "core/access.h"
#include "core/event.h"
#include "workloads/trace/block_file.h"

namespace mmuscope {

/// What a machine's guest did, one operation: what a vCPU accessed, told its control registers and
/// TLB, or what its interrupts were; and what the harness wrote to memory before it ran.
struct MachineOp {
  enum class Kind : u8 {
    Start,      ///< before the vCPU's first operation: value = CR3, other = controls
    Vcpu,       ///< value: whose operations follow
    Fetch,      ///< address
    Load,       ///< address, bytes
    Store,      ///< address, bytes (1, 2, 4 or 8), value
    Exchange,   ///< address, value; 8 bytes
    Zero,       ///< address, bytes
    Copy,       ///< address = to, other = from, bytes
    Fault,      ///< an access that faulted: address, bytes, value = GuestFault, other = access
    Cr3,        ///< value
    Controls,   ///< value
    Invlpg,     ///< address
    Invpcid,    ///< address, value = PCID, other = type
    Ac,         ///< value: EFLAGS.AC from here on
    SendIpi,    ///< value: to which vCPU
    Interrupt,  ///< one is taken
    Halt,       ///< value: 1 halts, 0 goes on
    HostWrite,  ///< address (guest-physical) = value
    Compute,    ///< value: cycles that a program computes
    Offer,      ///< frames from `address` on, value of them, to the host; other = 1: same hypercall
    Note,       ///< value: which of kNotedEvents the guest's software counted, other: how often
  };
  Kind kind = Kind::Start;
  bool user = false;  ///< an access: in user mode
  u32 bytes = 0;
  u64 address = 0;
  u64 value = 0;
  u64 other = 0;

  friend bool operator==(const MachineOp&, const MachineOp&) = default;
};
inline constexpr unsigned kMachineOps = 21;
inline constexpr std::array<std::string_view, kMachineOps> kMachineOpNames = {
    "start",    "vcpu",      "fetch", "load",       "store",   "exchange", "zero",
    "copy",     "fault",     "cr3",   "controls",   "invlpg",  "invpcid",  "ac",
    "send-ipi", "interrupt", "halt",  "host-write", "compute", "offer",    "note"};
/// In files by position: more may only be added at the end.
inline constexpr std::array kNotedEvents = {Event::GuestEntry, Event::GuestSwitch,
                                            Event::GuestFrame, Event::GuestTask, Event::GuestLock};

/// Which operands a kind has.
struct MachineOperands {
  bool access = false;  ///< user
  bool address = false, bytes = false, value = false, other = false;
};
const MachineOperands& operands_of(MachineOp::Kind kind);

// A block of kind Machine holds for each operation a byte: kind (5 bits), user (1 bit), size code
// (2 bits: other, 1, 4, 8); then varints: the zigzag difference between the address and the last
// one of the same kind; bytes if the size code is 0; value; other. End holds the number of
// operations by kind.

/// Writes a machine's trace.
class MachineTraceWriter {
 public:
  /// info.machine must be set. Throws InputError.
  MachineTraceWriter(const std::filesystem::path& path, const TraceInfo& info, int compression = 3);
  void put(const MachineOp& op);
  /// Puts the file in place. Throws InputError.
  void finish();

 private:
  void flush();

  BlockWriter file_;
  std::vector<u8> raw_;
  u8* at_;
  u32 records_ = 0;
  std::array<u64, kMachineOps> bases_{}, counts_{};
};

/// Whether operations, given one after the other, can be performed on the machine that a trace
/// names: accesses do not cross pages, vCPUs exist, a vCPU's Start comes before its operations,
/// CR3 names memory.
class MachineOpRules {
 public:
  explicit MachineOpRules(const TraceInfo& info)
      : vcpus_(info.vcpus), memory_bytes_(info.memory_bytes), started_(info.vcpus) {}
  /// What is wrong with the next operation; empty if nothing is.
  std::string check(const MachineOp& op);

 private:
  std::string check_access(const MachineOp& op) const;

  u32 vcpus_;
  u64 memory_bytes_;
  std::vector<bool> started_;
  u64 vcpu_ = 0;
};

/// Reads a machine's trace from its start to its end. What it hands out obeys MachineOpRules;
/// anything else throws InputError with the file and the record.
class MachineTraceReader {
 public:
  explicit MachineTraceReader(const std::filesystem::path& path);

  const TraceInfo& info() const { return file_.info(); }
  /// False at the end of the trace, which is known to be whole then.
  bool next(MachineOp& op);
  u64 record() const { return record_; }  ///< number of the operation that was read last, plus one
  const std::array<u64, kMachineOps>& counts() const { return counts_; }

 private:
  bool next_block();
  [[noreturn]] void fail(const std::string& what) const { file_.fail(record_, what); }

  BlockReader file_;
  const u8* at_ = nullptr;
  u32 left_ = 0;  ///< operations of the block
  u64 record_ = 0;
  MachineOpRules rules_;
  std::array<u64, kMachineOps> bases_{}, counts_{};
  bool ended_ = false;
};

/// Controls as a number, and back: bits wp, smep, smap, ac, nxe, pge, pcide, then la57.
u64 pack_controls(const Controls& c);
Controls unpack_controls(u64 bits);

}  // namespace mmuscope
