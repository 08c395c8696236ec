#include "core/vcpu.h"

namespace mmuscope {

std::optional<ExitReason> Pager::intercepts_change(const Controls& from, const Controls& to) const {
  if (from.wp != to.wp && intercepts(ExitReason::Cr0)) return ExitReason::Cr0;
  const bool cr4 = from.smep != to.smep || from.smap != to.smap || from.pge != to.pge ||
                   from.pcide != to.pcide || from.levels != to.levels;
  if (cr4 && intercepts(ExitReason::Cr4)) return ExitReason::Cr4;
  if (from.nxe != to.nxe && intercepts(ExitReason::MsrWrite)) return ExitReason::MsrWrite;
  return std::nullopt;
}

void Pager::flush(Vcpu& vcpu) { vcpu.flush_space(); }

}  // namespace mmuscope
