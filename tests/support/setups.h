#pragma once

#include <string>
#include <vector>

#include "results/catalog.h"

namespace mmuscope {

/// A workload on a number of vCPUs: the guest that a test runs under several setups.
struct GuestSpec {
  const char* workload;
  unsigned vcpus;
};

/// A pager on a machine: one column of a comparison.
struct Setup {
  std::string pager;  ///< SPEC
  PageSize backing = PageSize::k4K;
  std::span<const PagerInfo> pagers = pager_catalog();  ///< that the SPEC names one of
  WalkCaches walk_caches = WalkCaches::OneD;
  WalkCacheKind walk_cache_kind = WalkCacheKind::Cpu;
  std::string name() const;
};

/// Every pager, those with a format in each, over 4K and (but for native) 2M backing.
std::vector<Setup> all_setups(std::span<const PagerInfo> pagers = pager_catalog());

/// Parses the SPEC. Throws InputError as the command line does.
Machine::MakePager pager_maker(const std::string& spec, bool& virtualized,
                               std::span<const PagerInfo> pagers = pager_catalog());

/// The machine of that setup; `config` says the rest.
std::unique_ptr<Machine> make_machine(const Setup& setup, MachineConfig config);

}  // namespace mmuscope
