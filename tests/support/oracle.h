#pragma once

#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/machine.h"
#include "tests/support/reference.h"

namespace mmuscope {

/// The guest was told something that the architecture does not permit. what() says which access,
/// what came out and what was permitted.
struct Disagreement : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Checks every access of a run against the reference translator and a memory of its own: the
/// outcome, the error code, the host address, the value loaded, the A and D bits left behind.
/// Throws Disagreement at the first access that is wrong.
///
/// Where the guest has not flushed what it changed, the architecture permits several outcomes. The
/// oracle then accepts any that entries give which memory held, present and accessed, at some time
/// since the vCPU last flushed the translation: no processor may cache more. SDM vol. 3, *Caching
/// Translation Information*. A #PF that says "not permitted" flushes its page, as there; of one
/// that says "not present" this is not asked: KVM's shadow pager, which is modelled, does not do
/// it.
class Oracle final : public AccessObserver {
 public:
  /// Watches all vCPUs until it is destroyed.
  explicit Oracle(Machine& machine);
  ~Oracle() override;
  Oracle(const Oracle&) = delete;
  Oracle& operator=(const Oracle&) = delete;

  /// Takes memory, CR3 and controls as they are. Called by the first event if not before; then what
  /// that first access did is taken for granted.
  void begin();
  /// At the end: all of guest memory is what the guest's stores and the permitted A and D bits made
  /// it.
  void check_memory();

  u64 checked() const { return checked_; }
  /// Accesses for which more than one outcome was permitted.
  u64 uncertain() const { return uncertain_; }
  /// A digest of all that the guest saw: who accessed what, how it ended, what was loaded.
  u64 digest() const { return digest_; }
  /// A digest of guest memory as it should be now.
  u64 memory_digest() const;

  void on_access(Vcpu& vcpu, const Seen& seen) override;
  void on_cr3(Vcpu& vcpu, u64 value) override;
  void on_controls(Vcpu& vcpu, const Controls& to) override;
  void on_invlpg(Vcpu& vcpu, Gva va) override;
  void on_invpcid(Vcpu& vcpu, InvpcidType type, u32 pcid, Gva va) override;
  void on_offer(Vcpu& vcpu, Gfn first, u64 frames, bool same_call) override;

 private:
  /// A value that a table word had, and when it was replaced.
  struct Version {
    u64 value = 0;
    u64 until = 0;
  };
  using Versions = std::vector<Version>;
  /// One outcome that the architecture permits.
  struct Candidate {
    Reference result;
    std::vector<bool> current;  ///< per entry used: it is what memory holds
    bool all_current = true;
    u64 until = ~u64{0};  ///< the first of the stale entries used to be replaced
  };
  /// PCID; page base | size / 4096.
  using PageKey = std::pair<u32, u64>;
  struct OldRoot {
    u64 cr3 = 0;
    u32 pcid = 0;
    u64 until = 0;
  };
  /// A copy tells its read once it is through: what the read left in the tables is judged with the
  /// write, which may have been to them.
  struct Source {
    Seen seen;
    std::vector<Candidate> candidates;
    u64 gpa = 0;
  };
  struct VcpuView {
    bool known = false;
    u64 cr3 = 0;
    Controls controls;
    std::vector<OldRoot> old_roots;     // CR3 values of the past
    u64 all_flush = 0;                  // times of the last flush: of everything,
    u64 nonglobal_flush = 0;            // of all PCIDs but for globals,
    std::map<u32, u64> pcid_flush;      // of a PCID but its globals (or its first use),
    std::map<u32, u64> upper_flush;     // of a PCID's paging-structure caches,
    std::map<PageKey, u64> page_flush;  // of one page of a PCID (kGlobals: of globals)
    std::map<PageKey, u64> fault;       // of what translates a page but globals, by a #PF
    std::optional<Source> copy_from;    // of the string copy under way
  };
  static constexpr u32 kGlobals = ~u32{0};

  VcpuView& view(Vcpu& vcpu);
  u32 pcid(const VcpuView& v) const;
  u64 flushed(const VcpuView& v, u32 tag) const;
  u64 flushed(const VcpuView& v, u64 va, const Reference& r) const;
  u64 word(u64 gpa) const;
  std::vector<Candidate> permitted(const VcpuView& v, u64 va, Access access);
  bool possible(const VcpuView& v, u64 va, Access access, const Candidate& c, u64 last) const;
  void collect(const VcpuView& v, u64 root, u64 root_until, u64 va, Access access,
               std::vector<Candidate>& out);
  bool agrees(const Seen& seen, const Reference& r) const;
  void allow_flags(const Seen& seen, const Candidate& c);
  void check_flags(const Seen& seen, const std::vector<Candidate>& candidates, u64 stored_at,
                   u64 stored_bytes);
  void check_flags_of(const Seen& seen, const Candidate& c, u64 stored_at, u64 stored_bytes,
                      bool certain);
  void check_string(VcpuView& v, const Seen& seen, const std::vector<Candidate>& candidates,
                    u64 gpa);
  void check_data(const Seen& seen, u64 gpa);
  void store_bytes(u64 gpa, const std::byte* from, u64 bytes);
  void flush_page(VcpuView& v, u32 pcid, u64 va);
  [[noreturn]] void disagree(const Seen& seen, const std::string& found,
                             const std::vector<Candidate>& candidates);
  void mix(u64 value);

  Machine& machine_;
  bool begun_ = false;
  u64 now_ = 0;
  u64 words_ = 0;
  u64* memory_ = nullptr;                  // the guest's, as it should be
  std::vector<bool> is_table_;             // by guest frame: a walk has read it
  std::vector<bool> used_;                 // by guest frame: something was stored there
  std::unordered_map<u64, Versions> old_;  // by word index, of words in tables
  std::vector<VcpuView> views_;
  unsigned running_ = 0;  // the vCPU of the event under way
  u64 checked_ = 0, uncertain_ = 0, digest_ = 0;
};

}  // namespace mmuscope
