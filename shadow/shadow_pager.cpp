#include "shadow/shadow_pager.h"

#include "shadow/shadow_mmu.h"

namespace mmuscope {

namespace {

constexpr ParamInfo kParams[] = {
    {"limit", ParamInfo::Kind::Count, "0", "pages",
     "shadow pages that may exist; 0: a 50th of the guest's pages, at least 64", 0, 1e9, ""},
};

}  // namespace

std::span<const ParamInfo> shadow_params() { return kParams; }

std::unique_ptr<Pager> make_shadow_pager(Machine& machine, const Params& params) {
  ShadowPolicy policy;
  policy.limit = params.count("limit");
  return std::make_unique<ShadowMmu>(machine, policy);
}

}  // namespace mmuscope
