#pragma once

#include <array>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/cost.h"

namespace mmuscope {

/// The part of modelled time that a constant adds to.
enum class CycleClass : u8 {
  Guest,  ///< the guest's own instructions
  Walk,   ///< translation by the hardware
  Exit,   ///< leaving the guest and coming back
  Vmm,    ///< what the hypervisor does in between
  Sync,   ///< interrupts between CPUs and locks
};
inline constexpr unsigned kCycleClasses = 5;
std::string_view name_of(CycleClass c);

/// How sure a constant is.
enum class Sure : u8 {
  Text,       ///< read in the source's full text
  Abstract,   ///< read in the source's abstract
  Secondary,  ///< read in a text that quotes it
  Derived,    ///< arithmetic on figures read in the source
  Memory,     ///< known, not verified
  Assumed,    ///< chosen for want of a figure; the reason is in `source`
};
std::string_view name_of(Sure sure);

/// What is priced: accesses and events of one vCPU or of a whole run.
struct Counted {
  u64 accesses = 0;
  Counters counters;
};

/// What the hypervisor spends time for: exits with their round trips, and its work.
enum class Cause : u8 {
  None,           ///< it is not the hypervisor's time
  TrueFaults,     ///< page faults that it hands to the guest
  HiddenFaults,   ///< page faults and violations that it solves
  TableWrites,    ///< writes to guest tables that it performs
  ShadowPages,    ///< making and dropping them
  Synchronising,  ///< shadow tables that were out of step
  Registers,      ///< MOV to CR3, CR0, CR4
  Invalidations,  ///< INVLPG, INVPCID
  Other,          ///< what is not about paging, and full logs
};
inline constexpr unsigned kCauses = static_cast<unsigned>(Cause::Other) + 1;

/// A price for some kinds of events, the same for each.
struct Cost {
  std::string_view name;
  CycleClass part;
  u64 cycles;
  std::string_view unit;  ///< what it is paid for
  std::string_view source;
  Sure sure;
  Cause cause;
  std::array<Event, 3> events;  ///< those after the first may repeat it
};
/// What "PVM paper" stands for in a source.
inline constexpr std::string_view kPvmPaper =
    "Huang et al., *PVM: Efficient Shadow Paging for Deploying Secure Containers in Cloud-native "
    "Environment*, SOSP 2023; measured on Cascade Lake at 2.5 GHz";
/// All prices but that of the exit round trip, which is the CPU's, and of a guest access.
std::span<const Cost> costs();

/// Prices that are of no event: of an access, and of an interrupt's way.
struct OtherCost {
  std::string_view name;
  u64 cycles;
  std::string_view unit;
  std::string_view source;
  Sure sure;
};
std::span<const OtherCost> other_costs();

/// The cheapest way out of a guest and back through a hypervisor, in cycles of that CPU.
struct ExitCost {
  std::string_view cpu;  ///< a cpu_model
  u64 cycles;
  std::string_view source;
  Sure sure;
};
std::span<const ExitCost> exit_costs();
/// That of a CPU in cpu_models().
const ExitCost& exit_cost(std::string_view cpu);

/// Reading a table entry by the data cache that it lies in, in cycles of that CPU; instead of the
/// flat price where data caches are modelled.
struct RefCost {
  std::string_view cpu;  ///< a cpu_model
  u64 l1, l2, llc, memory;
};
/// All of them are load-to-use latencies as remembered from the vendors' manuals and published
/// measurements, none verified.
std::span<const RefCost> ref_costs();
/// That of a CPU in cpu_models().
const RefCost& ref_cost(std::string_view cpu);

struct Cycles {
  u64 guest = 0, walk = 0, exit = 0, vmm = 0, sync = 0;
  std::array<u64, kCauses> by_cause{};  ///< of exit and vmm
  u64 total() const { return guest + walk + exit + vmm + sync; }
  /// What paging caused, of the hypervisor's time, exits included; 0 where nothing exits.
  double paging_share() const {
    const u64 other = by_cause[static_cast<unsigned>(Cause::Other)];
    return exit + vmm == 0 ? 0 : 1 - static_cast<double>(other) / static_cast<double>(exit + vmm);
  }
};

/// A user's own price.
struct PriceChange {
  std::string name;  ///< of a price in `list costs`
  u64 cycles;
};
/// Reads `name = cycles` lines, # for comments: Boost.Program_options' format. Throws InputError
/// with file and line: an unknown name, a name given twice, what is no number.
std::vector<PriceChange> read_prices(const std::filesystem::path& file);

/// All prices of one CPU, some of them changed by the user.
///
/// The guest's own data caches, pipelines and contention are not modelled; time is CPU time, summed
/// over vCPUs. Without clocks nobody waits, so that the sender of an interrupt is charged for its
/// whole way.
class Prices {
 public:
  explicit Prices(std::string_view cpu, std::span<const PriceChange> changes = {},
                  bool timed = false);

  /// Puts the prices on the events of a run.
  Cycles of(const Counted& counted) const;
  /// The same in sum, for the machine's clocks; what is waited is part of it.
  const CostTable& table() const { return table_; }

 private:
  u64 cycles_of(std::string_view name, u64 cycles) const;

  std::vector<PriceChange> changes_;
  RefCost ref_;
  u64 exit_;
  CostTable table_;
  /// The same by class and cause: what an event adds to each.
  std::array<std::array<u64, kEvents>, kCycleClasses> by_class_{};
  std::array<std::array<u64, kEvents>, kCauses> by_cause_{};
};

/// On that CPU, with nothing changed and without clocks.
inline Cycles price(std::string_view cpu, const Counted& counted) {
  return Prices(cpu).of(counted);
}

}  // namespace mmuscope
