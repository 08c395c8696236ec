#include "shadow/shadow_mmu.h"

#include <algorithm>
#include <map>
#include <set>

#include "core/x86_hardware.h"

namespace mmuscope {

namespace {

constexpr u64 kPagesPerShadowPage = 50;  // KVM_MEMSLOT_PAGES_TO_MMU_PAGES_RATIO
constexpr u64 kMinLimit = 64;            // KVM_MIN_ALLOC_MMU_PAGES

}  // namespace

Role root_role(const Controls& c) {
  Role r;
  r.level = c.levels;
  r.access = kAllAccess;
  r.nxe = c.nxe;
  r.wp = c.wp;
  r.smep_andnot_wp = c.smep && !c.wp;
  r.smap_andnot_wp = c.smap && !c.wp;
  return r;
}

ShadowMmu::ShadowMmu(Machine& machine, const ShadowPolicy& policy)
    : machine_(machine),
      policy_(policy),
      limit_(policy.limit),
      tables_(machine, policy.unsync),
      vcpus_(machine.config().vcpus) {
  assert(!machine.map().is_identity());
  const u64 guest_pages = machine.map().bytes() / kPageBytes;
  if (limit_ == 0) limit_ = std::max(guest_pages / kPagesPerShadowPage, kMinLimit);
  for (PerVcpu& s : vcpus_) s.previous.resize(policy.roots);
}

// --- hardware face -------------------------------------------------------------------------------

Controls ShadowMmu::hardware_controls(const Controls& guest) const {
  // Write protection must hold for the guest's kernel too, and NX is used whether the guest knows
  // it or not. No entry is global.
  Controls c = guest;
  c.wp = true;
  c.nxe = true;
  c.pge = false;
  return c;
}

Outcome ShadowMmu::walk(Vcpu& vcpu, Gva va, Access access) {
  enter(vcpu);
  PhysicalMemory& memory = machine_.memory();
  const Controls controls = hardware_controls(vcpu.controls());
  WalkStart<ShadowFormat> start{state(vcpu).root.page->table.base(), controls.levels};
  start_from_cache(vcpu, va, start);
  WalkPath<ShadowFormat> path;
  u64 refs = 0;
  const auto read = [&](Hpa where, unsigned, u64& entry) {
    ++refs;
    entry = memory.read(where);
    return true;
  };
  const auto update = [&](Hpa where, unsigned, u64 seen, u64 bits) {
    memory.write(where, seen | bits);
    return true;
  };
  const WalkVerdict verdict = walk_for_access<ShadowFormat>(
      path, start, va, access, controls, machine_.guest_rules(controls), read, update);
  vcpu.counters[Event::TableRefShadow] += refs;
  if (verdict != WalkVerdict::Permitted) {
    VmExit exit;
    exit.reason = ExitReason::PageFault;
    exit.access = access;
    exit.gva = va;
    exit.error_code = page_fault_code(access, controls, path.status);
    return Outcome::exit_with(exit);
  }
  cache_path(vcpu, va, path, start.rights);
  Translation t = x86_translation(path, controls);
  t.page = path.page();
  return Outcome::translated(t);
}

bool ShadowMmu::intercepts(ExitReason reason) const {
  switch (reason) {
    case ExitReason::PageFault:
    case ExitReason::Cr3:
    case ExitReason::Invlpg:
    case ExitReason::Invpcid:
    case ExitReason::Cr0:
    case ExitReason::Cr4:
    case ExitReason::Interrupt:
    case ExitReason::MsrWrite:
      return true;
    case ExitReason::EptViolation:
    case ExitReason::EptMisconfig:
    case ExitReason::PmlFull:
      return false;
  }
  return false;
}

void ShadowMmu::start(Vcpu& vcpu) { enter(vcpu); }

// --- hypervisor face -----------------------------------------------------------------------------

Resume ShadowMmu::handle(Vcpu& vcpu, const VmExit& exit) {
  Resume r;
  switch (exit.reason) {
    case ExitReason::PageFault:
      r = page_fault(vcpu, exit);
      break;
    case ExitReason::Cr3:
      r = write_cr3(vcpu, exit.value);
      break;
    case ExitReason::Invlpg:
      r = invlpg(vcpu, exit.gva);
      break;
    case ExitReason::Invpcid:
      r = invpcid(vcpu, exit);
      break;
    case ExitReason::Cr0:
    case ExitReason::Cr4:
    case ExitReason::MsrWrite:
      r = write_controls(vcpu, exit.controls);
      break;
    default:
      assert(false && "not intercepted");
  }
  pages_peak_ = std::max(pages_peak_, tables_.used());
  bytes_peak_ = std::max(bytes_peak_, tables_.bytes());
  return r;
}

void ShadowMmu::flush_owed(Vcpu* v, Shootdown& owed) { machine_.apply(std::move(owed), v); }

void ShadowMmu::finish(Vcpu* v, Zapped& zapped) {
  if (!zapped.pages.empty()) zapped.owed.add();  // the tables themselves may still be walked
  flush_owed(v, zapped.owed);
  if (zapped.root) {
    for (PerVcpu& s : vcpus_) s.roots_obsolete = true;
    zapped.root = false;
  }
  tables_.release(zapped);
}

void ShadowMmu::zap(Vcpu* v, ShadowPage& page, Zapped& zapped) {
  const u64 before = zapped.count;
  tables_.zap(page, policy_.zap_unsync_children, zapped);
  counters(v)[Event::MmuShadowZapped] += zapped.count - before;
}

// --- host face -----------------------------------------------------------------------------------

Gauges ShadowMmu::gauges() const {
  Gauges g;
  g.mmu_unsync = tables_.unsync_pages();
  g.pages_4k = tables_.leaves(PageSize::k4K);
  g.pages_2m = tables_.leaves(PageSize::k2M);
  g.pages_1g = tables_.leaves(PageSize::k1G);
  g.table_pages = tables_.used();
  g.table_bytes = tables_.used() * kPageBytes;
  g.pager_bytes = tables_.bytes();
  g.table_bytes_peak = pages_peak_ * kPageBytes;
  g.pager_bytes_peak = bytes_peak_;
  return g;
}

void ShadowMmu::limit_shadow_pages(u64 pages) {
  lock(nullptr);
  if (tables_.used() > pages) {
    Counters& c = counters(nullptr);
    c[Event::MmuRecycled] += zap_oldest(nullptr, tables_.used() - pages);
    pages = tables_.used();  // roots in use stay
  }
  limit_ = pages;
}

// --- dirty logging: Linux, kvm_mmu_slot_remove_write_access, kvm_get_dirty_log_protect ----------

void ShadowMmu::mark_dirty(Gfn gfn) {
  if (logging_dirty_) dirty_[gfn.raw()] = true;
}

void ShadowMmu::log_dirty(bool on) {
  if (on == logging_dirty_) return;
  logging_dirty_ = on;
  dirty_.assign(machine_.map().bytes() / kPageBytes, false);
  lock(nullptr);
  Shootdown owed;
  if (on) {
    tables_.remove_write_access();
    owed.add();
  } else {
    tables_.drop_split_leaves(machine_.map().page(), owed);
  }
  flush_owed(nullptr, owed);
}

u64 ShadowMmu::harvest_dirty() {
  u64 count = 0;
  Shootdown owed;
  lock(nullptr);
  for (u64 g = 0; g < dirty_.size(); ++g) {
    if (!dirty_[g]) continue;
    dirty_[g] = false;
    ++count;
    tables_.write_protect(Gfn(g), false, owed);
    owed.add();
  }
  flush_owed(nullptr, owed);
  return count;
}

namespace {

using PageSet = std::set<const ShadowPage*>;

/// Adds the page and all that can be reached from it.
void add_reachable(const ShadowPage& page, PageSet& reached) {
  if (!reached.insert(&page).second || page.role.level == 1) return;
  for (unsigned i = 0; i < kEntriesPerTable; ++i) {
    const u64 e = page.entry(i);
    if ((e & x86::kPresent) && !page.is_leaf(e)) add_reachable(page.notes[i].child(), reached);
  }
}

}  // namespace

TableUse ShadowMmu::table_use(std::span<const Gpa> roots) const {
  const auto add = [](TableUse::Share& share, const ShadowPage& p) {
    ++share.pages;
    share.bytes += ShadowTables::page_cost(p);
  };
  std::vector<PageSet> reached(roots.size());
  std::map<const ShadowPage*, u32> reachers;
  for (std::size_t r = 0; r < roots.size(); ++r) {
    for (const ShadowPage* p : tables_.cache().shadows_of(roots[r].frame())) {
      if (p->role.level >= 4 && p->role.access == kAllAccess) add_reachable(*p, reached[r]);
    }
    for (const ShadowPage* p : reached[r]) ++reachers[p];
  }
  TableUse use;
  use.by_root.resize(roots.size());
  use.shared_pages.resize(roots.size());
  for (std::size_t r = 0; r < roots.size(); ++r) {
    for (const ShadowPage* p : reached[r]) {
      if (reachers[p] == 1) {
        add(use.by_root[r], *p);
      } else {
        ++use.shared_pages[r];
      }
    }
  }
  for (const ShadowPage& p : tables_.cache().by_age()) {
    const auto found = reachers.find(&p);
    if (found == reachers.end()) add(use.orphaned, p);
    if (found != reachers.end() && found->second > 1) add(use.shared, p);
  }
  return use;
}

}  // namespace mmuscope
