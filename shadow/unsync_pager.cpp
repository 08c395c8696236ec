#include "shadow/unsync_pager.h"

#include "shadow/shadow_mmu.h"

namespace mmuscope {

namespace {

using Kind = ParamInfo::Kind;

constexpr u32 kPrefetchGroup = 8;  // PTE_PREFETCH_NUM

constexpr ParamInfo kParams[] = {
    {"unsync", Kind::Switch, "on", "",
     "leaf tables may be written without exits until the guest flushes: most table writes are "
     "theirs",
     0, 0, ""},
    {"prefetch", Kind::Switch, "on", "",
     "a fault fills the aligned group of 8 as far as it has been accessed: neighbours come next", 0,
     0, ""},
    {"flood", Kind::Count, "3", "writes",
     "emulated writes to an upper table, with no walk between, that drop its shadow: it is likely "
     "no "
     "table any more; 0: never",
     0, 1000, ""},
    {"roots", Kind::Count, "3", "roots",
     "previous roots that a vCPU keeps: a switch back to one needs no lock and no search", 0, 16,
     ""},
    {"zap-unsync-children", Kind::Switch, "off", "",
     "an upper shadow page that is dropped takes its out-of-sync leaf pages along: nobody may ever "
     "come back for them",
     0, 0, ""},
    {"rmap-limit", Kind::Count, "1000", "mappings",
     "mappings of one frame beyond which all are dropped: the next change to it need not visit "
     "them; "
     "0: never",
     0, 1e9, ""},
    {"limit", Kind::Count, "0", "pages",
     "shadow pages that may exist; 0: a 50th of the guest's pages, at least 64", 0, 1e9, ""},
};

}  // namespace

std::span<const ParamInfo> unsync_params() { return kParams; }

std::unique_ptr<Pager> make_unsync_pager(Machine& machine, const Params& params) {
  ShadowPolicy policy;
  policy.name = "shadow-unsync";
  policy.unsync = params.on("unsync");
  policy.prefetch = params.on("prefetch") ? kPrefetchGroup : 1;
  policy.flood = static_cast<u32>(params.count("flood"));
  policy.roots = static_cast<u32>(params.count("roots"));
  policy.zap_unsync_children = params.on("zap-unsync-children");
  policy.rmap_limit = static_cast<u32>(params.count("rmap-limit"));
  policy.limit = params.count("limit");
  return std::make_unique<ShadowMmu>(machine, policy);
}

}  // namespace mmuscope
