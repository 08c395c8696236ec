#pragma once

#include <span>
#include <string_view>

#include "core/event.h"

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

/// A price for one kind of event.
struct Cost {
  std::string_view name;
  CycleClass part;
  u64 cycles;
  std::string_view unit;  ///< what it is paid for
  std::string_view source;
  Sure sure;
  bool paging;  ///< an exit's price: the exit is about paging
  u64 (*count)(const Counted& counted);
};
/// What "PVM paper" stands for in a source.
inline constexpr std::string_view kPvmPaper =
    "Huang et al., *PVM: Efficient Shadow Paging for Deploying Secure Containers in Cloud-native "
    "Environment*, SOSP 2023; measured on Cascade Lake at 2.5 GHz";
/// All prices but that of the exit round trip, which is the CPU's.
std::span<const Cost> costs();

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
  u64 paging = 0;  ///< of exit and vmm, what paging caused
  u64 total() const { return guest + walk + exit + vmm + sync; }
  /// Of the hypervisor's time, exits included; 0 where nothing exits.
  double paging_share() const {
    return exit + vmm == 0 ? 0 : static_cast<double>(paging) / static_cast<double>(exit + vmm);
  }
};

/// Puts the prices on the events of a run on that CPU. The guest's own data caches, pipelines and
/// contention are not modelled; time is CPU time, summed over vCPUs.
Cycles price(std::string_view cpu, const Counted& counted);

}  // namespace mmuscope
