#pragma once

#include <memory>
#include <span>

#include "core/machine.h"
#include "core/params.h"
#include "workloads/workload.h"

namespace mmuscope {

/// Whose tables a pager keeps besides the guest's own.
enum class TableOwner : u8 {
  Nobody,   ///< none: the hardware walks the guest's
  Process,  ///< tables of each guest process
  Vm,       ///< one set for the whole virtual machine
};

/// A pager as users name it: what the catalogue has a row of, and all that a caller with a pager of
/// their own hands over.
struct PagerInfo {
  std::string_view name;
  std::string_view description;
  bool virtualized;  ///< MachineConfig::virtualized
  TableOwner tables;
  std::span<const ParamInfo> (*params)();
  std::unique_ptr<Pager> (*make)(Machine& machine, const Params& params);
};

/// Every pager, in the order of `list pagers`.
std::span<const PagerInfo> pager_catalog();

/// The keys of --set: what the machine is, whatever pager runs it.
std::span<const ParamInfo> machine_params();

/// The entry of that name, among the catalogue's or a caller's own. Throws InputError that lists
/// the valid names and the nearest.
const PagerInfo& find_pager(std::string_view name,
                            std::span<const PagerInfo> pagers = pager_catalog());
const WorkloadInfo& find_workload(std::string_view name);

}  // namespace mmuscope
