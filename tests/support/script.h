#pragma once

#include <string>
#include <vector>

#include "core/machine.h"

namespace mmuscope {

/// One step of a script: an access, an edit of a table entry as the guest's kernel would do it, or
/// something the guest tells the TLB.
struct ScriptOp {
  enum class Kind : u8 {
    Access,    ///< at va; a write stores `value`
    Edit,      ///< the kernel stores `value` at gpa through its direct map
    Zero,      ///< the kernel clears the page at gpa with a string store
    Cr3,       ///< value
    Invlpg,    ///< va
    Invpcid,   ///< type in `value`, PCID in `gpa`, address in va
    Controls,  ///< `controls`, AC apart
    Ac,        ///< value
  };
  Kind kind = Kind::Access;
  unsigned vcpu = 0;
  Access access;
  u64 va = 0, gpa = 0, value = 0;
  u16 bytes = 8;
  bool exchange = false;
  Controls controls;

  std::string text() const;
};
/// What the guest tells the TLB or its controls; also of Zero and Ac.
ScriptOp control_op(ScriptOp::Kind kind, u64 va, u64 value = 0, u64 gpa = 0);
using Script = std::vector<ScriptOp>;
/// A line for each step, numbered from 1.
std::string text_of(const Script& script);

/// The small guest that scripts run in: processes with the user half
///   0..2M   a table of the process's own
///   2M..4M  a table that all processes share
///   4M..6M  a large page
///   6M..    nothing
/// and a kernel half that maps all of memory for the supervisor, in 4K or in 2M pages.
class ScriptGuest {
 public:
  static constexpr unsigned kProcesses = 3;
  static constexpr u64 kMemory = u64{4} << 20;
  static constexpr u64 kShared = u64{2} << 20, kLarge = u64{4} << 20, kNothing = u64{6} << 20;
  static constexpr u64 kDirectMap = 0xffff'8000'0000'0000;
  static constexpr u64 kData = 0x10000;  ///< 16 frames of data
  static constexpr u64 kDataFrames = 16;

  static constexpr u64 root(unsigned p) { return 0x180000 + p * 0x1000; }
  static constexpr u64 pdpt(unsigned p) { return 0x100000 + p * 0x4000; }
  static constexpr u64 pd(unsigned p) { return pdpt(p) + 0x1000; }
  static constexpr u64 pt(unsigned p) { return pdpt(p) + 0x2000; }
  static constexpr u64 spare_pt(unsigned p) { return pdpt(p) + 0x3000; }
  static constexpr u64 shared_pt() { return 0x110000; }
  static constexpr u64 data(u64 i) { return kData + i * kPageBytes; }
  /// Address of the entry of that level on the way to a user address, as the guest was built.
  static u64 entry(unsigned p, u64 va, unsigned level);

  static MachineConfig config(unsigned vcpus);
  /// Lays the tables out on a fresh machine; every vCPU begins in process 0.
  ScriptGuest(Machine& machine, bool large_direct_map);
  void run(const ScriptOp& op);
  /// What disagrees, or does not end, says at which step: numbered from 1, as text_of() does.
  void run(const Script& script);

 private:
  Machine& machine_;
};

/// What a run of a script under one setup came to.
struct ScriptEnd {
  u64 seen = 0;       ///< digest of all that the guest saw
  u64 memory = 0;     ///< digest of its memory at the end
  u64 checked = 0;    ///< accesses
  u64 uncertain = 0;  ///< of those, for which the architecture permits several outcomes
  Counters counters;
};
struct Setup;
struct ScriptStart {
  unsigned vcpus = 1;
  bool large_direct_map = false;
  Controls controls;
};
/// Runs it with the oracle watching. Throws Disagreement.
ScriptEnd run_script(const Setup& setup, const ScriptStart& start, const Script& script);

}  // namespace mmuscope
