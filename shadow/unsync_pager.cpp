#include "shadow/unsync_pager.h"

#include "core/error.h"
#include "shadow/shadow_mmu.h"

namespace mmuscope {

namespace {

using Kind = ParamInfo::Kind;

/// KVM's decisions, as of Linux 6.18.
constexpr ShadowPolicy kvm_policy() {
  ShadowPolicy p;
  p.unsync = true;
  p.prefetch = 8;  // PTE_PREFETCH_NUM
  p.flood = 3;
  p.roots = 3;          // KVM_MMU_NUM_PREV_ROOTS
  p.rmap_limit = 1000;  // RMAP_RECYCLE_THRESHOLD
  return p;
}

/// Xen's, as far as they concern when entries are made and synchronised.
constexpr ShadowPolicy xen_policy() {
  ShadowPolicy p;
  p.unsync = true;
  p.unsync_pages = 3;  // SHADOW_OOS_PAGES
  p.propagate = true;
  p.prefetch = 32;
  p.prefetch_forward = true;
  p.large_pages = false;
  return p;
}

constexpr ParamInfo kParams[] = {
    {"policy", Kind::Choice, "kvm", "",
     "the hypervisor whose decisions the keys below follow where they say 'policy'", 0, 0,
     "kvm|xen"},
    {"unsync", Kind::Switch, "policy", "",
     "leaf tables may be written without exits until the guest flushes: most table writes are "
     "theirs; kvm, xen: on",
     0, 0, "policy"},
    {"unsync-pages", Kind::Count, "policy", "pages",
     "leaf tables that one vCPU may have out of sync, for short synchronisations; 0: any number; "
     "kvm: 0, xen: 3",
     0, 1000, "policy"},
    {"propagate", Kind::Switch, "policy", "",
     "an emulated write to a table makes the new shadow entry at once and saves its fault; kvm: "
     "off, xen: on",
     0, 0, "policy"},
    {"prefetch", Kind::Choice, "policy", "",
     "entries filled along with a faulting one as far as they were accessed: the aligned group of "
     "8 "
     "or the next 31, as neighbours are used next; kvm: group, xen: forward",
     0, 0, "policy|off|group|forward"},
    {"flood", Kind::Count, "policy", "writes",
     "emulated writes to an upper table, with no walk between, that drop its shadow: it is likely "
     "no table any more; 0: never; kvm: 3, xen: 0",
     0, 1000, "policy"},
    {"roots", Kind::Count, "policy", "roots",
     "previous roots that a vCPU keeps: a switch back to one needs no lock and no search; kvm: 3, "
     "xen: 0",
     0, 64, "policy"},
    {"large-pages", Kind::Switch, "policy", "",
     "shadow leaves may be as large as guest page and backing allow; kvm: on, xen: off", 0, 0,
     "policy"},
    {"zap-unsync-children", Kind::Switch, "off", "",
     "an upper shadow page that is dropped takes its out-of-sync leaf pages along: nobody may ever "
     "come back for them",
     0, 0, ""},
    {"rmap-limit", Kind::Count, "policy", "mappings",
     "mappings of one frame beyond which all are dropped: the next change to it need not visit "
     "them; 0: never; kvm: 1000, xen: 0",
     0, 1e9, "policy"},
    {"limit", Kind::Count, "0", "pages",
     "shadow pages that may exist; 0: a 50th of the guest's pages, at least 64", 0, 1e9, ""},
};

bool is_given(const Params& params, std::string_view key) { return params.text(key) != "policy"; }

void set(const Params& params, std::string_view key, bool& value) {
  if (is_given(params, key)) value = params.on(key);
}
void set(const Params& params, std::string_view key, u32& value) {
  if (is_given(params, key)) value = static_cast<u32>(params.count(key));
}

}  // namespace

std::span<const ParamInfo> unsync_params() { return kParams; }

std::unique_ptr<Pager> make_unsync_pager(Machine& machine, const Params& params) {
  ShadowPolicy policy = params.text("policy") == "kvm" ? kvm_policy() : xen_policy();
  policy.name = "shadow-unsync";
  set(params, "unsync", policy.unsync);
  set(params, "unsync-pages", policy.unsync_pages);
  set(params, "propagate", policy.propagate);
  set(params, "flood", policy.flood);
  set(params, "roots", policy.roots);
  set(params, "large-pages", policy.large_pages);
  set(params, "rmap-limit", policy.rmap_limit);
  if (is_given(params, "prefetch")) {
    const std::string& shape = params.text("prefetch");
    policy.prefetch_forward = shape == "forward";
    policy.prefetch = shape == "off" ? 1 : shape == "group" ? 8 : 32;
  }
  if (policy.rmap_limit != 0 && policy.rmap_limit <= policy.prefetch) {
    throw InputError("pager shadow-unsync: rmap-limit=" + std::to_string(policy.rmap_limit) +
                     " must be 0 or more than the entries that one fault fills, " +
                     std::to_string(policy.prefetch));
  }
  policy.zap_unsync_children = params.on("zap-unsync-children");
  policy.limit = params.count("limit");
  return std::make_unique<ShadowMmu>(machine, policy);
}

}  // namespace mmuscope
