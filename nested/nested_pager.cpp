#include "nested/nested_pager.h"

#include "core/error.h"
#include "core/mmu_lock.h"
#include "core/x86_hardware.h"
#include "nested/ept.h"
#include "nested/nested_walk.h"

namespace mmuscope {

namespace {

constexpr ParamInfo kParams[] = {
    {"format", ParamInfo::Kind::Choice, "cpu", "",
     "tables of the second dimension; cpu: EPT on Intel, NPT on AMD", 0, 0, "cpu|ept|npt"},
    {"page", ParamInfo::Kind::Choice, "1g", "",
     "largest page that the second dimension maps, if the backing is that large", 0, 0, "4k|2m|1g"},
    {"ad", ParamInfo::Kind::Choice, "cpu", "",
     "accessed and dirty flags in EPT entries; cpu: where the CPU has them; NPT always has", 0, 0,
     "cpu|on|off"},
    {"levels", ParamInfo::Kind::Choice, "4", "",
     "of the second dimension's tables, whatever the CPU has", 0, 0, "4|5"},
    {"pml", ParamInfo::Kind::Choice, "cpu", "",
     "dirty logging by the CPU's page-modification log; off: by write protection; cpu: where it "
     "has "
     "one and ad is on",
     0, 0, "cpu|on|off"},
};

NestedFormat format_of(const Machine& machine, const Params& params) {
  const std::string& format = params.text("format");
  if (format == "cpu") {
    return machine.cpu().vendor == Vendor::Intel ? NestedFormat::Ept : NestedFormat::Npt;
  }
  return format == "ept" ? NestedFormat::Ept : NestedFormat::Npt;
}

PageSize page_cap(const Machine& machine, const Params& params) {
  const std::string& page = params.text("page");
  const PageSize cap = page == "4k" ? PageSize::k4K : page == "2m" ? PageSize::k2M : PageSize::k1G;
  return machine.cpu().pages_1g ? cap : min_size(cap, PageSize::k2M);
}

bool flags_of(const Machine& machine, const Params& params) {
  const std::string& ad = params.text("ad");
  if (format_of(machine, params) == NestedFormat::Npt) {
    if (ad == "off") throw InputError("pager nested: ad=off needs format=ept; NPT always has A/D");
    return true;
  }
  return ad == "cpu" ? machine.cpu().ept_ad : ad == "on";
}

bool log_of(const Machine& machine, const Params& params) {
  const std::string& pml = params.text("pml");
  const bool can = format_of(machine, params) == NestedFormat::Ept && flags_of(machine, params);
  if (pml == "on" && !can) throw InputError("pager nested: pml=on needs format=ept and ad=on");
  return pml == "cpu" ? can && machine.cpu().pml : pml == "on";
}

class NestedPager final : public Pager {
 public:
  NestedPager(Machine& machine, const Params& params)
      : machine_(machine),
        lock_(machine, LockKind::ReadWrite),
        ep4ta_(machine.vm() + 1),
        logs_(machine.vcpu_count()),
        pml_(log_of(machine, params)),
        cap_(page_cap(machine, params)),
        ept_(machine.memory(), format_of(machine, params), params.text("levels") == "5" ? 5 : 4,
             flags_of(machine, params)) {
    assert(!machine.map().is_identity());
    second_.table = ept_.root();
    second_.levels = ept_.levels();
    second_.rules = {machine.max_phys_bits(), true, flags_of(machine, params), true,
                     machine.cpu().pages_1g};
    if (machine.config().prebacked) map_all();
  }

  Outcome walk(Vcpu& vcpu, Gva va, Access access) override {
    return walk_in_memory(vcpu, machine_.memory(), va, [&](auto& memory, auto& told) {
      return ept_.format() == NestedFormat::Ept
                 ? walk_in<EptDimension>(vcpu, va, access, memory, told)
                 : walk_in<NptDimension>(vcpu, va, access, memory, told);
    });
  }
  bool intercepts(ExitReason reason) const override {
    return reason == ExitReason::Interrupt || reason == ExitReason::MsrWrite ||
           reason == ExitReason::Hypercall;
  }
  std::optional<ExitReason> intercepts_change(const Controls& from,
                                              const Controls& to) const override;
  Resume handle(Vcpu& vcpu, const VmExit& exit) override;
  Gauges gauges() const override;
  TableUse table_use(std::span<const Gpa> roots) const override;
  void start(Vcpu& vcpu) override { vcpu.use_ept(ep4ta_); }
  void flush(Vcpu& vcpu) override;
  void left_guest(Vcpu& vcpu) override { drain(vcpu.index()); }
  void log_dirty(bool on) override;
  u64 harvest_dirty() override;
  void forget(Gfn first, u64 frames, Shootdown& owed) override;

 private:
  template <class Dimension, class Memory, class Listener>
  Outcome walk_in(Vcpu& vcpu, Gva va, Access access, Memory& memory, Listener& listener);
  template <class Walk>
  [[gnu::always_inline]] inline void cache_path(Vcpu& vcpu, Gva va, const Walk& w, u64 rights);
  template <class Dimension, class Walk>
  Outcome translated(const Controls& controls, const Walk& w) const;
  Resume back(Vcpu& vcpu, Gfn g, bool write);
  void map_all();
  void drain(unsigned vcpu) {
    for (const Gfn g : logs_[vcpu].take()) dirty_[g.raw()] = true;
  }
  u64 watched_flag() const { return pml_ ? ept::kDirty : ept::kWrite; }
  Resume write_controls(Vcpu& vcpu, const Controls& to);
  PageSize leaf_size_for(Gfn g, PageSize backing) const;
  u64 pager_bytes() const { return ept_.table_pages() * (kPageBytes + Ept::kHeaderBytes); }

  // Of an exit qualification and of NPT's EXITINFO1 alike. SDM vol. 3, *Exit Qualification for EPT
  // Violations*; APM vol. 2, *Nested Page Faults*.
  static constexpr u64 kQualifiedWrite = 2;

  Machine& machine_;
  MmuLock lock_;
  u32 ep4ta_;                   // a VM has one set of tables
  std::vector<DirtyLog> logs_;  // by vCPU, in use while pml_ and logging_
  std::vector<bool> dirty_;     // by frame, while logging_
  bool pml_, logging_ = false;
  PageSize cap_;
  Ept ept_;
  SecondRoot second_;
};

// --- hardware face -------------------------------------------------------------------------------

/// Remembers the guest tables that a successful walk went through by their host-physical
/// addresses: the combined mappings of SDM vol. 3, *Caching Translation Information*. A table that
/// the second dimension keeps read-only is not remembered, so that an update of A or D in it is
/// judged where its guest-physical address is known.
template <class Walk>
void NestedPager::cache_path(Vcpu& vcpu, Gva va, const Walk& w, u64 rights) {
  const auto& guest = w.guest();
  for (unsigned level = guest.start_level; level > guest.level; --level) {
    rights &= GuestFormat::rights_of(guest.entry[level]);
    if (w.updatable(level - 1)) {
      vcpu.walk_cache().insert(va, level, vcpu.context(), w.table(level - 1).raw(), rights);
    }
  }
}

/// What both dimensions grant: the smaller page, the rights that both give, and a store without a
/// walk only if no dirty flag is left to set in either.
template <class Dimension, class Walk>
Outcome NestedPager::translated(const Controls& controls, const Walk& w) const {
  using Second = typename Dimension::Format;
  Translation t = x86_translation(w.guest(), controls);
  const auto& second = w.second();
  t.size = min_size(t.size, second.size());
  t.page = w.where().align_down(t.size);
  u8 denied = Dimension::denies(second.rights);
  if (Dimension::sets_flags(second_.rules) && !(second.entry[second.level] & Second::kDirty)) {
    denied |= rights::kStoreOk;
  }
  t.rights &= static_cast<u8>(~denied);
  return Outcome::translated(t);
}

template <class Dimension, class Memory, class Listener>
Outcome NestedPager::walk_in(Vcpu& vcpu, Gva va, Access access, Memory& memory,
                             Listener& listener) {
  const Controls& controls = vcpu.controls();
  NestedStart start = NestedStart::at_root(vcpu.root(), controls.levels);
  if (const WalkCache::Hit hit = vcpu.walk_cache().find(va, vcpu.context()); hit.level != 0) {
    ++vcpu.counters[Event::WalkCacheHit];
    listener.on_cached({CacheUse::Kind::PagingStructure, hit.level, hit.table, {}, false});
    start = NestedStart::below(Hpa(hit.table), hit.level, hit.rights);
  }
  GuestPhysicalCache& cache = vcpu.guest_physical();
  NestedWalk<Dimension, Memory, Listener> w(
      memory, second_, {cache.on() ? &cache : nullptr, vcpu.guest_physical_context()},
      logging_ && pml_ ? &logs_[vcpu.index()] : nullptr, listener);
  const NestedEnd end = w.run(start, va, access, controls, machine_.guest_rules(controls));
  vcpu.counters[Event::TableRefGuest] += w.guest_refs() - cached_entries(memory, Side::First);
  vcpu.counters[Event::TableRefNested] += w.second_refs() - cached_entries(memory, Side::Second);
  vcpu.counters[Event::NestedCacheHit] += w.cache_hits();
  vcpu.counters[Event::NestedTlbHit] += w.tlb_hits();
  if (end == NestedEnd::Ok) [[likely]] {
    cache_path(vcpu, va, w, start.guest.rights);
    return translated<Dimension>(controls, w);
  }
  if (end == NestedEnd::GuestFault) {
    return Outcome::fault_of(GuestFault::Kind::PageFault, w.error_code(), va);
  }
  VmExit exit;
  exit.reason = end == NestedEnd::Violation ? ExitReason::EptViolation
                : end == NestedEnd::LogFull ? ExitReason::PmlFull
                                            : ExitReason::EptMisconfig;
  exit.access = access;
  exit.gva = va;
  exit.gpa = w.gpa();
  if (end == NestedEnd::Violation) {
    exit.qualification = w.qualification();
    vcpu.forget_translation(va, w.gpa());
  }
  return Outcome::exit_with(exit);
}

/// Which bits the guest owns: Linux keeps CR4.PGE and CR0.WP with the guest under EPT, and
/// intercepts every write of CR4, and those of CR0 that change more than TS and MP, under NPT.
std::optional<ExitReason> NestedPager::intercepts_change(const Controls& from,
                                                         const Controls& to) const {
  const bool npt = ept_.format() == NestedFormat::Npt;
  if (npt && from.wp != to.wp) return ExitReason::Cr0;
  if (from.smep != to.smep || from.smap != to.smap || from.pcide != to.pcide ||
      from.levels != to.levels || (npt && from.pge != to.pge)) {
    return ExitReason::Cr4;
  }
  if (from.nxe != to.nxe) return ExitReason::MsrWrite;
  return std::nullopt;
}

// --- hypervisor face -----------------------------------------------------------------------------

Resume NestedPager::handle(Vcpu& vcpu, const VmExit& exit) {
  switch (exit.reason) {
    case ExitReason::EptViolation:
      return back(vcpu, exit.gpa.frame(), (exit.qualification & kQualifiedWrite) != 0);
    case ExitReason::PmlFull:
      return Resume::retry();  // left_guest emptied it; Linux, handle_pml_full
    case ExitReason::EptMisconfig:
      throw RunError("EPT misconfiguration at guest-physical address " +
                     std::to_string(exit.gpa.raw()));
    case ExitReason::Cr0:
    case ExitReason::Cr4:
    case ExitReason::MsrWrite:
      return write_controls(vcpu, exit.controls);
    default:
      assert(false && "an exit that two-dimensional paging does not have");
      return Resume::retry();
  }
}

/// Gives the frame memory if it has none and maps it. Adding a mapping makes nothing stale: the
/// violation itself dropped what the vCPU had cached for the address (SDM vol. 3, *Operations that
/// Invalidate Cached Mappings*).
Resume NestedPager::back(Vcpu& vcpu, Gfn g, bool write) {
  ++vcpu.counters[Event::PfTaken];
  if (machine_.map().is_merged(g)) {
    if (!write) {
      const auto held = lock_.read(&vcpu, Gfn(g.raw() / kEntriesPerTable));
      const bool changed = ept_.map_read_only(g, machine_.map().find(g)->frame);
      ++vcpu.counters[changed ? Event::PfFixed : Event::PfSpurious];
      return Resume::retry();
    }
    machine_.unmerge(g, &vcpu);  // a copy of its own first
  }
  if (logging_ && ept_.allow_write(g)) {
    // Linux, fast_page_fault: an atomic exchange of the entry, without the lock.
    dirty_[g.raw()] = true;
    ++vcpu.counters[Event::PfFast];
    ++vcpu.counters[Event::PfFixed];
    return Resume::retry();
  }
  const auto held = lock_.read(&vcpu, Gfn(g.raw() / kEntriesPerTable));
  const Backing backing = machine_.map().back(g);
  const bool changed = ept_.map(g, backing.frame, leaf_size_for(g, backing.size));
  // A page mapped while writes are logged is mapped writable and taken for written, as make_spte
  // does.
  if (changed && logging_) dirty_[g.raw()] = true;
  ++vcpu.counters[changed ? Event::PfFixed : Event::PfSpurious];
  return Resume::retry();
}

void NestedPager::map_all() {
  for (Gfn g(0); machine_.map().contains(g);) {
    const Backing backing = machine_.map().back(g);
    const PageSize size = leaf_size_for(g, backing.size);
    ept_.map(g, backing.frame, size);
    g = g + page_bytes(size) / kPageBytes;
  }
}

/// As large as the backing and the cap allow, all of it inside guest memory (Linux, *The x86 kvm
/// shadow mmu*, on large pages: inside one memory slot).
PageSize NestedPager::leaf_size_for(Gfn g, PageSize backing) const {
  if (logging_) return PageSize::k4K;
  PageSize size = min_size(cap_, backing);
  while (size != PageSize::k4K &&
         !machine_.map().contains(g.base().align_down(size), page_bytes(size))) {
    size = static_cast<PageSize>(static_cast<u8>(size) - 1);
  }
  return size;
}

/// Does what the instruction does. A change of a bit that decides what tables mean makes Linux
/// load the vCPU's MMU anew, which flushes it (kvm_mmu_reset_context, kvm_mmu_load).
Resume NestedPager::write_controls(Vcpu& vcpu, const Controls& to) {
  const Controls from = vcpu.controls();
  vcpu.set_controls(to);
  if (from.smep != to.smep || from.smap != to.smap || from.levels != to.levels ||
      from.nxe != to.nxe || from.pge != to.pge || (from.pcide && !to.pcide)) {
    ++vcpu.counters[Event::TlbFlush];
    flush(vcpu);
  }
  return Resume::completed();
}

// --- host face -----------------------------------------------------------------------------------

Gauges NestedPager::gauges() const {
  Gauges g;
  g.pages_4k = ept_.pages(PageSize::k4K);
  g.pages_2m = ept_.pages(PageSize::k2M);
  g.pages_1g = ept_.pages(PageSize::k1G);
  g.table_pages = ept_.table_pages();
  g.table_bytes = ept_.table_pages() * kPageBytes;
  g.pager_bytes = pager_bytes();
  g.table_bytes_peak = ept_.table_pages_peak() * kPageBytes;
  g.pager_bytes_peak = ept_.table_pages_peak() * (kPageBytes + Ept::kHeaderBytes);
  return g;
}

/// Linux flushes a VM with EPT by INVEPT of its root, one with NPT by its ASID.
void NestedPager::flush(Vcpu& vcpu) {
  if (vcpu.cpu().vendor == Vendor::Intel) {
    vcpu.invept(InveptType::Single, ep4ta_);
  } else {
    vcpu.tlb_control(TlbControl::FlushAsid, (vcpu.context() & kVpidBits) >> 12);
  }
}

/// Linux, kvm_mmu_slot_apply_flags and vmx_update_cpu_dirty_logging: small pages only while writes
/// are logged, large ones again after it.
void NestedPager::log_dirty(bool on) {
  if (on == logging_) return;
  for (unsigned i = 0; i < machine_.vcpu_count(); ++i) (void)logs_[i].take();
  logging_ = on;
  dirty_.assign(machine_.map().bytes() / kPageBytes, false);
  if (on) {
    ept_.watch_all(watched_flag());
  } else {
    for (Gfn g(0); machine_.map().contains(g);) {
      const auto backing = machine_.map().find(g);
      const PageSize size = backing ? leaf_size_for(g, backing->size) : PageSize::k4K;
      if (size != PageSize::k4K) ept_.merge(g, backing->frame, size);
      g = g + page_bytes(size) / kPageBytes;
    }
  }
  machine_.flush_all(nullptr);
}

void NestedPager::forget(Gfn first, u64 frames, Shootdown& owed) {
  const auto held = lock_.write(nullptr, first);
  for (u64 i = 0; i < frames; ++i) {
    if (ept_.unmap(first + i)) owed.add();
  }
}

u64 NestedPager::harvest_dirty() {
  if (!logging_) return 0;
  if (pml_) machine_.interrupt_all(nullptr);  // exits empty the logs
  u64 count = 0;
  for (u64 g = 0; g < dirty_.size(); ++g) {
    if (!dirty_[g]) continue;
    dirty_[g] = false;
    ++count;
    ept_.take(Gfn(g), watched_flag());
  }
  if (count != 0) machine_.flush_all(nullptr);
  return count;
}

/// The tables are the VM's, whatever its processes: no root needs one of its own.
TableUse NestedPager::table_use(std::span<const Gpa> roots) const {
  TableUse use;
  use.by_root.resize(roots.size());
  use.shared_pages.resize(roots.size());
  use.shared = {ept_.table_pages(), pager_bytes()};
  return use;
}

}  // namespace

std::span<const ParamInfo> nested_params() { return kParams; }

std::unique_ptr<Pager> make_nested_pager(Machine& machine, const Params& params) {
  return std::make_unique<NestedPager>(machine, params);
}

}  // namespace mmuscope
