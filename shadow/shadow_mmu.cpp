#include "shadow/shadow_mmu.h"

#include <algorithm>
#include <bit>
#include <unordered_map>

#include "core/walk_memory.h"
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
      lock_(machine, LockKind::Coarse),
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
  return walk_in_memory(vcpu, machine_.memory(), va, [&](auto& memory, auto& told) {
    return walk_told(vcpu, va, access, memory, told);
  });
}

template <class Memory, class Listener>
Outcome ShadowMmu::walk_told(Vcpu& vcpu, Gva va, Access access, Memory& memory,
                             Listener& listener) {
  const Controls controls = hardware_controls(vcpu.controls());
  WalkStart<ShadowFormat> start{state(vcpu).root.page->table.base(), controls.levels};
  start_from_cache(vcpu, va, start, listener);
  WalkPath<ShadowFormat> path;
  u64 refs = 0;
  const auto read = [&](Hpa where, unsigned level, u64& entry) {
    ++refs;
    entry = read_entry(memory, listener, Side::First, va.raw(),
                       {TableKind::Shadow, level, where, false, {}, 0, false});
    return true;
  };
  const auto update = [&](Hpa where, unsigned level, u64 seen, u64 bits) {
    listener.on_flags({TableKind::Shadow, level, where, bits & ~seen});
    memory.write(where, seen | bits);
    return true;
  };
  const WalkVerdict verdict = walk_for_access<ShadowFormat>(
      path, start, va, access, controls, machine_.guest_rules(controls), read, update);
  vcpu.counters[Event::TableRefShadow] += refs - cached_entries(memory, Side::First);
  if (verdict != WalkVerdict::Permitted) {
    VmExit exit;
    exit.reason = ExitReason::PageFault;
    exit.access = access;
    exit.gva = va;
    exit.error_code = page_fault_code(access, controls, path.status);
    return Outcome::exit_with(exit);
  }
  cache_path(vcpu, va, path, start.rights);
  keep_entries(memory, path, Side::First, va.raw(), true,
               [&](unsigned level) { return path.where[level]; });
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
    case ExitReason::Hypercall:
      return true;
    case ExitReason::EptViolation:
    case ExitReason::EptMisconfig:
    case ExitReason::PmlFull:
      return false;
  }
  return false;
}

void ShadowMmu::start(Vcpu& vcpu) { enter(vcpu); }

/// No exit, but the guest ran to get there.
void ShadowMmu::controls_changed(Vcpu& vcpu) { enter(vcpu); }

// --- hypervisor face -----------------------------------------------------------------------------

Resume ShadowMmu::handle(Vcpu& vcpu, const VmExit& exit) {
  Resume r;
  switch (exit.reason) {
    case ExitReason::PageFault:
      r = page_fault(vcpu, exit);
      enter(vcpu);  // the guest runs on
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
    for (unsigned i = 0; i < vcpus_.size(); ++i) {
      vcpus_[i].roots_obsolete = true;
      // Kicked: it lets go of the root before it runs on, whatever its TLB could answer.
      machine_.vcpu(i).flush_space();
    }
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

void ShadowMmu::forget(Gfn first, u64 frames, Shootdown& owed) {
  const auto held = lock_.write(nullptr, first);
  tables_.drop_range(first, frames, owed);
}

void ShadowMmu::limit_shadow_pages(u64 pages) {
  const auto held = lock_.write(nullptr, Gfn(0));
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
  const auto held = lock_.write(nullptr, Gfn(0));
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
  const auto held = lock_.write(nullptr, Gfn(0));
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

/// Which of some roots reach each shadow page: one bit a root. Tables are strictly by level, so one
/// pass from the top down finds all, each page asking those that point to it.
class Reach {
 public:
  Reach(const ShadowCache& cache, std::span<const Gpa> roots) : words_((roots.size() + 63) / 64) {
    for (const ShadowPage& p : cache.by_age()) index_.emplace(&p, index_.size());
    bits_.resize(index_.size() * words_);
    for (std::size_t r = 0; r < roots.size(); ++r) {
      for (const ShadowPage* p : cache.shadows_of(roots[r].frame())) {
        const bool is_root = p->role.level >= 4 && p->role.access == kAllAccess;
        if (is_root) bits_of(*p)[r / 64] |= u64{1} << (r % 64);
      }
    }
    for (unsigned level = kMaxLevels; level > 0; --level) {
      for (const ShadowPage& p : cache.by_age()) {
        if (p.role.level == level) ask_parents(p);
      }
    }
  }

  /// Calls visit(r) for every root number that reaches the page; their number.
  template <class Visit>
  u64 each(const ShadowPage& page, Visit&& visit) {
    u64 count = 0;
    const u64* words = bits_of(page);
    for (std::size_t w = 0; w < words_; ++w) {
      for (u64 rest = words[w]; rest != 0; rest &= rest - 1) {
        visit(64 * w + static_cast<std::size_t>(std::countr_zero(rest)));
        ++count;
      }
    }
    return count;
  }

 private:
  u64* bits_of(const ShadowPage& page) { return bits_.data() + index_.at(&page) * words_; }
  void ask_parents(const ShadowPage& page) {
    u64* own = bits_of(page);
    for (const EntryNote& from : page.parents) {
      const u64* above = bits_of(from.page());
      for (std::size_t w = 0; w < words_; ++w) own[w] |= above[w];
    }
  }

  std::size_t words_;
  std::unordered_map<const ShadowPage*, std::size_t> index_;
  std::vector<u64> bits_;
};

}  // namespace

TableUse ShadowMmu::table_use(std::span<const Gpa> roots) const {
  TableUse use;
  use.by_root.resize(roots.size());
  use.shared_pages.resize(roots.size());
  Reach reach(tables_.cache(), roots);
  for (const ShadowPage& p : tables_.cache().by_age()) {
    std::size_t last = 0;
    const u64 reached_by = reach.each(p, [&](std::size_t r) { last = r; });
    TableUse::Share& share = reached_by == 0   ? use.orphaned
                             : reached_by == 1 ? use.by_root[last]
                                               : use.shared;
    ++share.pages;
    share.bytes += ShadowTables::page_cost(p);
    if (reached_by > 1) reach.each(p, [&](std::size_t r) { ++use.shared_pages[r]; });
  }
  return use;
}

}  // namespace mmuscope
