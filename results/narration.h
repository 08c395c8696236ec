#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/machine.h"
#include "core/walk_listener.h"
#include "results/scenario.h"

namespace mmuscope {

/// One thing that happened while the machine did an op.
struct Told {
  enum class Kind : u8 {
    Tlb,         ///< the TLB was asked, or the access counted: `counted`
    Walk,        ///< a hardware walk began
    Cached,      ///< a cache of the walker answered: `cached`
    Entry,       ///< a table entry was read: `entry`
    Flags,       ///< accessed or dirty flags were set: `flags`
    Translated,  ///< the walk gave the page at `page`
    Fault,       ///< the walk found a fault of the guest's: `fault`
    Exit,        ///< the vCPU left the guest for `reason`
    Hypervisor,  ///< the hypervisor did what `counted` and the changes of gauges say
    Reflected,   ///< the hypervisor gave the guest `fault`
    Emulated,    ///< the hypervisor did the instruction
    Resumed,     ///< the guest goes on and tries again
  };
  Kind kind = Kind::Tlb;
  unsigned vcpu = 0;
  /// The events that this is: those of all things told add up to the machine's counters.
  Counters counted;
  EntryRead entry;
  CacheUse cached;
  FlagsSet flags;
  Translation page;
  GuestFault fault;
  ExitReason reason = ExitReason::PageFault;
  std::optional<VmExit> exit;  ///< of Exit; none for an interrupt from another CPU
  // Of Hypervisor: how many more there are than before.
  std::int64_t leaves = 0, table_pages = 0, unsync = 0;
};

/// What one op of a scenario made the machine do, in order.
struct Narration {
  std::string what;        ///< the op in words
  std::string pager, cpu;  ///< SPEC and CPU model
  unsigned guest_levels = 4;
  std::vector<Told> told;
  u64 accesses = 0;
  Counters counters;  ///< of the machine meanwhile: what `told` adds up to
  std::optional<AccessResult> ended;
  std::optional<ScenarioOp> op;

  Counters narrated() const;  ///< the sum over `told`
  u64 references() const;     ///< table entries read
};

/// Listens to every vCPU of a machine until it is destroyed.
class Narrator final : public WalkListener {
 public:
  explicit Narrator(Machine& machine);
  ~Narrator() override;
  Narrator(const Narrator&) = delete;
  Narrator& operator=(const Narrator&) = delete;

  /// All that was told since the last call.
  std::vector<Told> take();

  void on_walk(Vcpu& vcpu, Gva va, Access access) override;
  void on_entry(const EntryRead& entry) override;
  void on_cached(const CacheUse& use) override;
  void on_flags(const FlagsSet& set) override;
  void on_translated(Vcpu& vcpu, const Translation& translation) override;
  void on_fault(Vcpu& vcpu, const GuestFault& fault) override;
  void on_exit(Vcpu& vcpu, ExitReason reason, const VmExit* exit) override;
  void on_served(Vcpu& vcpu, const VmExit& exit, const Resume& resume) override;

 private:
  Told& tell(Told::Kind kind, const Vcpu* vcpu = nullptr);
  void catch_up();

  Machine& machine_;
  std::vector<Told> told_;
  Counters seen_;  // of the machine, all told of
  Gauges gauges_;
  unsigned vcpu_ = 0;
};

/// Does one op and tells what happened.
Narration narrate(ScenarioMachine& machine, const ScenarioOp& op, const std::string& pager);

/// The op of a scenario with that number, counted from 1 through all steps, narrated after all
/// those before it. Throws InputError: no such op, an unknown pager.
Narration narrate_scenario(const Scenario& scenario, u64 op, const std::string& pager,
                           const MachineConfig& machine);

/// What the guest has done before the access that is narrated.
enum class Before : u8 {
  Nothing,  ///< no page was touched yet: the hypervisor has no tables
  Cold,     ///< the same access, after which every cache of the CPU was flushed
  Flushed,  ///< the same access, after which the guest wrote its root to CR3 again
  Near,     ///< as Cold, then the same access to the page beside
  Again,    ///< the same access a moment ago
  Read,     ///< as Cold, but a load in any case: the page is accessed and not dirty
};
inline constexpr std::string_view kBeforeNames[] = {"nothing", "cold",  "flushed",
                                                    "near",    "again", "read"};

/// One access by a small guest that maps one page (and the page beside it) at the address.
struct LoneAccess {
  Gva va;
  Access access;
  PageSize guest_page = PageSize::k4K;
  Before before = Before::Cold;
};
/// Narrates it. The machine's guest_levels, backing and walk_caches hold; its memory is set here.
Narration narrate_access(const LoneAccess& access, const std::string& pager, MachineConfig machine);

/// For people, in lines; `colour`: with terminal escapes.
std::string narration_text(const Narration& narration, bool colour);
/// One JSON object, without a newline.
std::string narration_json(const Narration& narration);

}  // namespace mmuscope
