#include "nested/nested_pager.h"

#include "core/error.h"
#include "core/machine.h"
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

class NestedPager final : public Pager {
 public:
  NestedPager(Machine& machine, const Params& params)
      : machine_(machine),
        cap_(page_cap(machine, params)),
        ept_(machine.memory(), format_of(machine, params), flags_of(machine, params)) {
    assert(!machine.map().is_identity());
    second_.table = ept_.root();
    second_.rules = {machine.max_phys_bits(), true, flags_of(machine, params), true,
                     machine.cpu().pages_1g};
  }

  Outcome walk(Vcpu& vcpu, Gva va, Access access) override {
    return ept_.format() == NestedFormat::Ept ? walk_in<EptDimension>(vcpu, va, access)
                                              : walk_in<NptDimension>(vcpu, va, access);
  }
  bool intercepts(ExitReason reason) const override {
    return reason == ExitReason::Interrupt || reason == ExitReason::MsrWrite;
  }
  std::optional<ExitReason> intercepts_change(const Controls& from,
                                              const Controls& to) const override;
  Resume handle(Vcpu& vcpu, const VmExit& exit) override;
  Gauges gauges() const override;
  TableUse table_use(std::span<const Gpa> roots) const override;

 private:
  template <class Dimension>
  Outcome walk_in(Vcpu& vcpu, Gva va, Access access);
  template <class Walk>
  [[gnu::always_inline]] inline void cache_path(Vcpu& vcpu, Gva va, const Walk& w, u64 rights);
  template <class Dimension, class Walk>
  Outcome translated(const Controls& controls, const Walk& w) const;
  Resume back(Vcpu& vcpu, Gpa gpa);
  Resume write_controls(Vcpu& vcpu, const Controls& to);
  PageSize leaf_size_for(Gfn g, PageSize backing) const;
  u64 pager_bytes() const { return ept_.table_pages() * (kPageBytes + Ept::kHeaderBytes); }

  Machine& machine_;
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

template <class Dimension>
Outcome NestedPager::walk_in(Vcpu& vcpu, Gva va, Access access) {
  const Controls& controls = vcpu.controls();
  NestedStart start = NestedStart::at_root(vcpu.root(), controls.levels);
  if (const WalkCache::Hit hit = vcpu.walk_cache().find(va, vcpu.context()); hit.level != 0) {
    ++vcpu.counters[Event::WalkCacheHit];
    start = NestedStart::below(Hpa(hit.table), hit.level, hit.rights);
  }
  NestedWalk<Dimension, PhysicalMemory> w(machine_.memory(), second_);
  const NestedEnd end = w.run(start, va, access, controls, machine_.guest_rules(controls));
  vcpu.counters[Event::TableRefGuest] += w.guest_refs();
  vcpu.counters[Event::TableRefNested] += w.second_refs();
  if (end == NestedEnd::Ok) [[likely]] {
    cache_path(vcpu, va, w, start.guest.rights);
    return translated<Dimension>(controls, w);
  }
  if (end == NestedEnd::GuestFault) {
    return Outcome::fault_of(GuestFault::Kind::PageFault, w.error_code(), va);
  }
  VmExit exit;
  exit.reason = end == NestedEnd::Violation ? ExitReason::EptViolation : ExitReason::EptMisconfig;
  exit.access = access;
  exit.gva = va;
  exit.gpa = w.gpa();
  if (end == NestedEnd::Violation) exit.qualification = w.qualification();
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
      return back(vcpu, exit.gpa);
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
Resume NestedPager::back(Vcpu& vcpu, Gpa gpa) {
  ++vcpu.counters[Event::PfTaken];
  ++vcpu.counters[Event::LockAcquisition];
  const Backing backing = machine_.map().back(gpa.frame());
  const bool changed =
      ept_.map(gpa.frame(), backing.frame, leaf_size_for(gpa.frame(), backing.size));
  ++vcpu.counters[changed ? Event::PfFixed : Event::PfSpurious];
  return Resume::retry();
}

/// As large as the backing and the cap allow, all of it inside guest memory (Linux, *The x86 kvm
/// shadow mmu*, on large pages: inside one memory slot).
PageSize NestedPager::leaf_size_for(Gfn g, PageSize backing) const {
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
    vcpu.flush_space();
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
  // No table is ever given back.
  g.table_bytes_peak = g.table_bytes;
  g.pager_bytes_peak = g.pager_bytes;
  return g;
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
