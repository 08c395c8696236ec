#include "workloads/trace/machine_trace.h"

#include <cassert>
#include <cstring>

#include "core/error.h"
#include "core/exit.h"

namespace mmuscope {

namespace {

constexpr std::size_t kMaxOpBytes = 64;
constexpr std::array<u32, 4> kBytesOfCode = {0, 1, 4, 8};

constexpr std::array<MachineOperands, kMachineOps> kOperands = {{
    {false, false, false, true, true},    // start
    {false, false, false, true, false},   // vcpu
    {true, true, false, false, false},    // fetch
    {true, true, true, false, false},     // load
    {true, true, true, true, false},      // store
    {true, true, false, true, false},     // exchange
    {true, true, true, false, false},     // zero
    {true, true, true, false, true},      // copy
    {true, true, true, true, true},       // fault
    {false, false, false, true, false},   // cr3
    {false, false, false, true, false},   // controls
    {false, true, false, false, false},   // invlpg
    {false, true, false, true, true},     // invpcid
    {false, false, false, true, false},   // ac
    {false, false, false, true, false},   // send-ipi
    {false, false, false, false, false},  // interrupt
    {false, false, false, true, false},   // halt
    {false, true, false, true, false},    // host-write
    {false, false, false, true, false},   // compute
    {false, true, false, true, true},     // offer
    {false, false, false, true, true},    // note
}};

unsigned index_of(MachineOp::Kind kind) { return static_cast<unsigned>(kind); }

}  // namespace

const MachineOperands& operands_of(MachineOp::Kind kind) { return kOperands[index_of(kind)]; }

u64 pack_controls(const Controls& c) {
  return u64{c.wp} | u64{c.smep} << 1 | u64{c.smap} << 2 | u64{c.ac} << 3 | u64{c.nxe} << 4 |
         u64{c.pge} << 5 | u64{c.pcide} << 6 | u64{c.levels == 5} << 7;
}

Controls unpack_controls(u64 bits) {
  Controls c;
  c.wp = bits & 1;
  c.smep = bits >> 1 & 1;
  c.smap = bits >> 2 & 1;
  c.ac = bits >> 3 & 1;
  c.nxe = bits >> 4 & 1;
  c.pge = bits >> 5 & 1;
  c.pcide = bits >> 6 & 1;
  c.levels = (bits >> 7 & 1) != 0 ? 5 : 4;
  return c;
}

MachineTraceWriter::MachineTraceWriter(const std::filesystem::path& path, const TraceInfo& info,
                                       int compression)
    : file_(path, info, compression), raw_(kMaxBlockBytes), at_(raw_.data()) {
  assert(info.machine);
}

void MachineTraceWriter::put(const MachineOp& op) {
  if (records_ == kMaxBlockRecords || at_ + kMaxOpBytes > raw_.data() + raw_.size()) flush();
  ++records_;
  const unsigned kind = index_of(op.kind);
  ++counts_[kind];
  const MachineOperands& has = kOperands[kind];
  unsigned code = 0;
  while (code < 3 && has.bytes && kBytesOfCode[code] != op.bytes) ++code;
  if (!has.bytes || kBytesOfCode[code] != op.bytes) code = 0;
  *at_++ = static_cast<u8>(kind << 3 | unsigned{op.user} << 2 | code);
  if (has.address) {
    at_ = write_varint(at_, zigzag(op.address - bases_[kind]));
    bases_[kind] = op.address;
  }
  if (has.bytes && code == 0) at_ = write_varint(at_, op.bytes);
  if (has.value) at_ = write_varint(at_, op.value);
  if (has.other) at_ = write_varint(at_, op.other);
}

void MachineTraceWriter::flush() {
  file_.write(BlockKind::Machine, records_,
              {{raw_.data(), static_cast<std::size_t>(at_ - raw_.data())}});
  records_ = 0;
  at_ = raw_.data();
}

void MachineTraceWriter::finish() {
  if (records_ != 0) flush();
  file_.finish({reinterpret_cast<const u8*>(counts_.data()), sizeof(counts_)});
}

MachineTraceReader::MachineTraceReader(const std::filesystem::path& path)
    : file_(path), rules_(file_.info()) {
  if (!file_.info().machine) fail("this is a program's trace, not a machine's");
}

/// False at the end.
bool MachineTraceReader::next_block() {
  if (ended_) return false;
  if (at_ != nullptr && at_ != file_.end())
    fail("damaged: bytes follow the last record of a block");
  const BlockHeader header = file_.next(record_);
  if (header.kind == BlockKind::End) {
    if (file_.end() - file_.begin() != sizeof(counts_) ||
        std::memcmp(file_.begin(), counts_.data(), sizeof(counts_)) != 0) {
      fail("damaged end: the counts do not agree");
    }
    file_.check_end(record_);
    ended_ = true;
    return false;
  }
  if (header.kind != BlockKind::Machine || header.records == 0) fail("unknown kind of block");
  at_ = file_.begin();
  left_ = header.records;
  return true;
}

bool MachineTraceReader::next(MachineOp& op) {
  if (left_ == 0 && !next_block()) return false;
  --left_;
  const u8* at = at_;
  if (at == file_.end()) fail("damaged: a record ends early");
  const unsigned tag = *at++;
  const unsigned kind = tag >> 3;
  if (kind >= kMachineOps) fail("unknown record");
  const MachineOperands& has = kOperands[kind];
  op = MachineOp{};
  op.kind = static_cast<MachineOp::Kind>(kind);
  op.user = (tag >> 2 & 1) != 0;
  const auto number = [&]() -> u64 {
    const u64 value = read_varint(at, file_.end());
    if (at == nullptr) fail("damaged: a number does not end");
    return value;
  };
  if (has.address) op.address = bases_[kind] += unzigzag(number());
  if (has.bytes) op.bytes = kBytesOfCode[tag & 3];
  if (has.bytes && op.bytes == 0) op.bytes = static_cast<u32>(std::min<u64>(number(), ~u32{0}));
  if (has.value) op.value = number();
  if (has.other) op.other = number();
  at_ = at;
  const std::string wrong = rules_.check(op);
  if (!wrong.empty()) fail(wrong);
  ++counts_[kind];
  ++record_;
  return true;
}

std::string MachineOpRules::check_access(const MachineOp& op) const {
  const u64 bytes = op.kind == MachineOp::Kind::Exchange ? 8
                    : op.kind == MachineOp::Kind::Fetch  ? 1
                                                         : op.bytes;
  const auto crosses = [bytes](u64 address) { return address % kPageBytes + bytes > kPageBytes; };
  const bool fault = op.kind == MachineOp::Kind::Fault;
  // A fault may be a string operation's, and a fetch has no width.
  const bool string = fault && (op.other >> 2 & 1) != 0;
  const bool fetch = fault && static_cast<AccessKind>(op.other & 3) == AccessKind::Fetch;
  const bool wide = op.kind == MachineOp::Kind::Zero || op.kind == MachineOp::Kind::Copy || string;
  if (bytes == 0 || bytes > (wide ? kPageBytes : 8)) {
    return "an access of " + std::to_string(bytes) + " bytes";
  }
  if ((op.kind == MachineOp::Kind::Copy && crosses(op.other)) || (!fetch && crosses(op.address))) {
    return "an access that crosses pages";
  }
  return {};
}

std::string MachineOpRules::check(const MachineOp& op) {
  using Kind = MachineOp::Kind;
  const auto in_memory = [&](u64 address, u64 bytes) {
    return address <= memory_bytes_ && memory_bytes_ - address >= bytes;
  };
  if (op.kind == Kind::Vcpu) {
    if (op.value >= vcpus_) return "no such vCPU";
    vcpu_ = op.value;
    return {};
  }
  if (op.kind == Kind::HostWrite) {
    if (op.address % 8 != 0 || !in_memory(op.address, 8)) return "a write beyond memory";
    return {};
  }
  if (op.kind == Kind::Start || op.kind == Kind::Cr3) {
    if (!in_memory(op.value & x86::kAddressMask, kPageBytes)) return "CR3 names no memory";
  }
  if (op.kind == Kind::Start) {
    if (op.other > 0xff) return "controls that no CPU has";
    started_[vcpu_] = true;
    return {};
  }
  if (!started_[vcpu_]) return "an operation of a vCPU that was not started";
  if (operands_of(op.kind).access) {
    if (std::string wrong = check_access(op); !wrong.empty()) return wrong;
  }
  if (op.kind == Kind::Offer &&
      (op.address % kPageBytes != 0 || op.other > 1 || op.value > memory_bytes_ / kPageBytes ||
       !in_memory(op.address, op.value * kPageBytes))) {
    return "an offer of frames that are not there";
  }
  if (op.kind == Kind::Controls && op.value > 0xff) return "controls that no CPU has";
  if (op.kind == Kind::Note && op.value >= kNotedEvents.size()) return "no such event";
  if (op.kind == Kind::SendIpi && op.value >= vcpus_) return "an interrupt for no vCPU";
  if (op.kind == Kind::Invpcid && (op.other > 3 || op.value > 0xfff)) return "no such INVPCID";
  if (op.kind == Kind::Fault && (op.other & 3) > 2) return "no such access";
  return {};
}

}  // namespace mmuscope
