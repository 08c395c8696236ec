// The roots that vCPUs hold, and the instructions that change or invalidate translations.

#include <algorithm>

#include "shadow/shadow_mmu.h"

namespace mmuscope {

namespace {

constexpr u64 kNoFlush = u64{1} << 63;

u32 pcid_of(u64 cr3) { return static_cast<u32>(cr3 & kPcidBits); }

}  // namespace

/// What is done before a vCPU runs the guest: whatever was asked for since it last did.
void ShadowMmu::enter(Vcpu& v) {
  PerVcpu& s = state(v);
  if (s.roots_obsolete) {
    s.roots_obsolete = false;
    const auto obsolete = [](const Root& r) { return r.page != nullptr && r.page->invalid; };
    free_roots(v, obsolete(s.root), obsolete);
  }
  if (s.sync_asked) {
    s.sync_asked = false;
    sync_roots(v);
  }
  if (s.root.page == nullptr) load_root(v);
}

void ShadowMmu::load_root(Vcpu& v) {
  PerVcpu& s = state(v);
  {
    const auto held = lock_.write(&v, v.root().frame());
    make_room(v);
    ShadowPage& page = page_for(v, v.root().frame(), root_role(v.controls()));
    ++page.root_count;
    s.root = {&page, v.cr3()};
  }
  sync_roots(v);
  s.sync_asked = false;
  v.flush_space();
}

/// Lets go of the current root and of those previous ones that are named.
void ShadowMmu::free_roots(Vcpu& v, bool current,
                           const std::function<bool(const Root&)>& previous) {
  PerVcpu& s = state(v);
  std::vector<Root*> chosen;
  for (Root& r : s.previous) {
    if (r.page != nullptr && previous(r)) chosen.push_back(&r);
  }
  if (current && s.root.page != nullptr) chosen.push_back(&s.root);
  if (chosen.empty()) return;
  const auto held = lock_.write(&v, chosen.front()->page->gfn);
  Zapped zapped;
  for (Root* r : chosen) {
    tables_.put_root(*r->page, policy_.zap_unsync_children, zapped);
    *r = {};
  }
  v.counters[Event::MmuShadowZapped] += zapped.count;
  finish(&v, zapped);
}

/// Makes the root for this CR3 current if the vCPU still holds one. If not, the oldest of those it
/// holds makes place and there is no current root.
bool ShadowMmu::find_cached_root(Vcpu& v, u64 cr3) {
  PerVcpu& s = state(v);
  // None is of another role: when the role changes, all are let go of.
  const auto usable = [&](const Root& r) {
    return r.page != nullptr && r.cr3 == cr3 && !r.page->invalid;
  };
  if (s.root.page == nullptr) {
    const auto it = std::find_if(s.previous.begin(), s.previous.end(), usable);
    if (it == s.previous.end()) return false;
    s.root = *it;
    s.previous.erase(it);
    s.previous.emplace_back();
    return true;
  }
  if (usable(s.root)) return true;
  for (Root& r : s.previous) {
    std::swap(s.root, r);  // one by one: the order stays that of use
    if (usable(s.root)) return true;
  }
  free_roots(v, true, [](const Root&) { return false; });
  return false;
}

/// A root that the vCPU still holds is only made current; the flush that goes with it brings it up
/// to date when the vCPU next enters the guest. Any other is looked up, or made, and loaded at
/// once.
Resume ShadowMmu::write_cr3(Vcpu& v, u64 value) {
  enter(v);
  PerVcpu& s = state(v);
  const bool flush = !v.controls().pcide || !(value & kNoFlush);
  const u64 cr3 = value & ~kNoFlush;
  const bool same = cr3 == v.cr3();
  v.set_cr3(cr3);
  const bool held = same || find_cached_root(v, cr3);
  if (held && !same) s.root.page->writes_emulated = 0;
  if (flush) flush_guest_context(v, v.controls().pcide ? pcid_of(cr3) : 0);
  if (!held) load_root(v);
  return Resume::retry();
}

/// The guest flushes all that is tagged with a PCID.
void ShadowMmu::flush_guest_context(Vcpu& v, u32 pcid) {
  PerVcpu& s = state(v);
  const bool tagged = v.controls().pcide;
  if (!tagged || pcid_of(v.cr3()) == pcid) {
    s.sync_asked = true;
    flush_vcpu(v);
  }
  // Without PCIDs every use of another root begins with a flush of its own.
  if (tagged) {
    free_roots(v, false, [pcid](const Root& r) { return pcid_of(r.cr3) == pcid; });
  }
}

/// The guest flushes everything, whatever its tag.
void ShadowMmu::flush_guest_all(Vcpu& v) {
  sync_roots(v);
  free_roots(v, false,
             [](const Root& r) { return r.page->unsync || r.page->unsync_children != 0; });
  flush_vcpu(v);
}

/// All that this VM has in the vCPU's TLB: INVVPID of a single context. KVM never marks a shadow
/// entry global, and does not use the type that would spare global ones.
void ShadowMmu::flush_vcpu(Vcpu& v) {
  v.flush_space();
  ++v.counters[Event::TlbFlush];
}

Resume ShadowMmu::invlpg(Vcpu& v, Gva va) {
  enter(v);
  ++v.counters[Event::Invlpg];
  if (!is_canonical(va, v.controls().levels)) return Resume::retry();
  v.flush_page(va);
  PerVcpu& s = state(v);
  invalidate_address(v, s.root, va);
  for (const Root& r : s.previous) invalidate_address(v, r, va);
  return Resume::retry();
}

/// A fault for want of a right drops the CPU's translations of its address: SDM vol. 3, "Operations
/// that Invalidate TLBs and Paging-Structure Caches". A shadow out of sync is not to keep them
/// either, or the guest could fault again after it has granted the right.
void ShadowMmu::invalidate_before_fault(Vcpu& v, Gva va) {
  v.flush_page(va);
  invalidate_address(v, state(v).root, va);
}

/// Brings the one leaf entry for the address up to date where its table is out of sync. The table
/// stays so.
void ShadowMmu::invalidate_address(Vcpu& v, const Root& root, Gva va) {
  if (root.page == nullptr) return;
  const auto held = lock_.write(&v, root.page->gfn);
  for (ShadowPage* p = root.page; p != nullptr;) {
    const unsigned i = table_index(va, p->role.level);
    if (p->unsync) {
      Shootdown owed;
      sync_entry(v, *p, i, owed);
      flush_owed(&v, owed);
    }
    if (p->unsync_children == 0) return;
    p = present_child(*p, i);
  }
}

Resume ShadowMmu::invpcid(Vcpu& v, const VmExit& exit) {
  enter(v);
  const u32 pcid = static_cast<u32>(exit.value) & kPcidBits;
  PerVcpu& s = state(v);
  switch (exit.invpcid) {
    case InvpcidType::Address: {
      ++v.counters[Event::Invlpg];
      if (!is_canonical(exit.gva, v.controls().levels)) break;
      // INVVPID for one address knows no PCID.
      v.flush_page(exit.gva);
      v.flush_invpcid(InvpcidType::Address, pcid, exit.gva);
      if (pcid_of(v.cr3()) == pcid) invalidate_address(v, s.root, exit.gva);
      for (const Root& r : s.previous) {
        if (pcid_of(r.cr3) == pcid) invalidate_address(v, r, exit.gva);
      }
      break;
    }
    case InvpcidType::Context:
      flush_guest_context(v, pcid);
      break;
    case InvpcidType::All:
    case InvpcidType::AllNonGlobal:  // no shadow entry is global
      flush_guest_all(v);
      break;
  }
  return Resume::retry();
}

Resume ShadowMmu::write_controls(Vcpu& v, const Controls& to) {
  enter(v);
  const Controls from = v.controls();
  v.set_controls(to);
  const bool role_changes = from.wp != to.wp || from.nxe != to.nxe || from.smep != to.smep ||
                            from.smap != to.smap || from.levels != to.levels;
  if (role_changes || (!from.pcide && to.pcide)) {
    // Roots of before could be taken for others after a MOV to CR3 that does not flush.
    free_roots(v, true, [](const Root&) { return true; });
    load_root(v);
  }
  if (from.pge != to.pge || (from.pcide && !to.pcide)) {
    flush_guest_all(v);
  } else if (!from.smep && to.smep) {
    flush_vcpu(v);
  }
  return Resume::retry();
}

}  // namespace mmuscope
