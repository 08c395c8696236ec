// Your own pager: a virtual TLB. The hypervisor keeps tables for each vCPU that hold what a TLB
// would hold: a translation comes in when the guest first uses it, and goes when the guest flushes
// it. Nothing needs to be write-protected, because a TLB may be stale until the guest flushes, too.

#include "own_pager.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "core/machine.h"
#include "core/x86_hardware.h"
#include "shadow_tables.h"

using namespace mmuscope;

namespace {

class OwnPager final : public Pager {
 public:
  explicit OwnPager(Machine& machine) : machine_(machine) {
    for (unsigned i = 0; i < machine.config().vcpus; ++i) {
      tables_.push_back(std::make_unique<ShadowTables>(machine));
    }
  }

  // --- the hardware: it walks the tables of the vCPU, and exits where they do not allow the access

  Outcome walk(Vcpu& v, Gva va, Access access) override {
    const Controls controls = hardware_controls(v.controls());
    WalkPath<ShadowFormat> path;
    const auto read = [&](Hpa where, unsigned, u64& entry) {
      ++v.counters[Event::TableRefShadow];
      entry = machine_.memory().read(where);
      return true;
    };
    const auto update = [&](Hpa where, unsigned, u64 seen, u64 bits) {
      machine_.memory().write(where, seen | bits);
      return true;
    };
    const WalkVerdict verdict =
        walk_for_access<ShadowFormat>(path, {tables(v).root(), controls.levels}, va, access,
                                      controls, machine_.guest_rules(controls), read, update);
    if (verdict == WalkVerdict::Permitted) {
      Translation t = x86_translation(path, controls);
      t.page = path.page();
      return Outcome::translated(t);
    }
    VmExit exit;
    exit.reason = ExitReason::PageFault;
    exit.access = access;
    exit.gva = va;
    exit.error_code = page_fault_code(access, controls, path.status);
    return Outcome::exit_with(exit);
  }

  bool intercepts(ExitReason reason) const override {
    switch (reason) {
      case ExitReason::PageFault:
      case ExitReason::Cr3:
      case ExitReason::Invlpg:
      case ExitReason::Invpcid:
      case ExitReason::Cr0:
      case ExitReason::Cr4:
      case ExitReason::MsrWrite:
      case ExitReason::Interrupt:
        return true;
      default:
        return false;
    }
  }

  /// The hardware obeys the rights of your tables for the kernel, too (WP), and knows NX; nothing
  /// in them is global.
  Controls hardware_controls(const Controls& guest) const override {
    Controls c = guest;
    c.wp = true;
    c.nxe = true;
    c.pge = false;
    return c;
  }

  // --- the hypervisor

  Resume handle(Vcpu& v, const VmExit& exit) override {
    switch (exit.reason) {
      case ExitReason::PageFault:
        return page_fault(v, exit);
      case ExitReason::Cr3:
        return write_cr3(v, exit.value);
      case ExitReason::Invlpg:
      case ExitReason::Invpcid:
        return invalidate(v, exit);
      default:
        return write_controls(v, exit.controls);
    }
  }

 private:
  /// An access that the tables of the vCPU do not allow. Do the guest's tables allow it?
  /// machine_.walk_guest(v.root(), exit.gva, exit.access, v.controls()) walks them in software, and
  /// sets accessed and dirty flags as hardware would. Of its result:
  ///   ok, error_code            whether they allow it, and what the guest's #PF says if not
  ///   path.translate(exit.gva)  the guest-physical address
  ///   path.rights               what all entries grant: rights::kWrite, kUser, kExec
  ///   path.entry[path.level]    the leaf as it is now: x86::kDirty
  /// machine_.map().back(gpa) is the host-physical address of a guest-physical one.
  Resume page_fault(Vcpu& v, const VmExit& exit) {
    ++v.counters[Event::PfTaken];
    const Controls& controls = v.controls();
    const SoftwareWalk guest = machine_.walk_guest(v.root(), exit.gva, exit.access, controls);
    if (!guest.ok) {
      // As a fault makes a CPU drop what it has cached of the address.
      tables(v).unmap(exit.gva, controls.levels);
      v.flush_page(exit.gva);
      ++v.counters[Event::PfGuest];
      return Resume::reflect({GuestFault::Kind::PageFault, guest.error_code, exit.gva});
    }
    const Gpa gpa = guest.path.translate(exit.gva);
    unsigned granted = static_cast<unsigned>(guest.path.rights);
    const bool dirty = guest.path.entry[guest.path.level] & x86::kDirty;
    if (!dirty) granted &= ~unsigned{rights::kWrite};
    if (exit.access.is_write() && !(granted & rights::kWrite)) {
      // CR0.WP=0: the kernel writes to a read-only page.
      if (controls.smap && !exit.store->string) return write_for_guest(exit, gpa);
      granted = (granted | rights::kWrite) & ~unsigned{rights::kUser};
      if (controls.smep) granted &= ~unsigned{rights::kExec};
    }
    tables(v).map(exit.gva, controls.levels, machine_.map().back(Gpa(gpa.raw() & ~u64{0xfff})),
                  granted);
    ++v.counters[Event::PfFixed];
    return Resume::retry();
  }

  /// MOV to CR3: from now on the guest means another address space, or the same one anew.
  Resume write_cr3(Vcpu& v, u64 value) {
    v.set_cr3(value & ~(u64{1} << 63));
    forget_all(v);
    return Resume::retry();
  }

  /// INVLPG of exit.gva, or INVPCID: the guest says that translations have changed.
  Resume invalidate(Vcpu& v, const VmExit& exit) {
    (void)exit;
    ++v.counters[Event::Invlpg];
    forget_all(v);
    return Resume::retry();
  }

  /// MOV to CR0 or CR4, or WRMSR EFER.
  Resume write_controls(Vcpu& v, const Controls& to) {
    v.set_controls(to);
    forget_all(v);
    return Resume::retry();
  }

  /// Empties the tables of the vCPU, and its TLB of all that came from them.
  void forget_all(Vcpu& v) {
    tables(v).clear();
    v.flush_space();
    ++v.counters[Event::TlbFlush];
  }

  /// Performs the write under way in the guest's stead.
  Resume write_for_guest(const VmExit& exit, Gpa gpa) {
    std::byte* where = machine_.memory().at(machine_.map().back(gpa));
    u64 old = 0;
    std::memcpy(&old, where, exit.store->bytes);
    std::memcpy(where, &exit.store->value, exit.store->bytes);
    return Resume::completed(old);
  }

  ShadowTables& tables(const Vcpu& v) { return *tables_[v.index()]; }

  // --- what the host may ask

 public:
  Gauges gauges() const override {
    Gauges g;
    for (const auto& t : tables_) g.table_pages += t->pages();
    g.table_bytes = g.pager_bytes = g.table_pages * kPageBytes;
    peak_ = std::max(peak_, g.table_bytes);
    g.table_bytes_peak = g.pager_bytes_peak = peak_;
    return g;
  }
  TableUse table_use(std::span<const Gpa> roots) const override {
    const Gauges g = gauges();
    return {std::vector<TableUse::Share>(roots.size()),
            std::vector<u64>(roots.size()),
            {g.table_pages, g.table_bytes},
            {}};
  }

 private:
  Machine& machine_;
  std::vector<std::unique_ptr<ShadowTables>> tables_;  // by vCPU
  mutable u64 peak_ = 0;
};

std::span<const ParamInfo> no_keys() { return {}; }
std::unique_ptr<Pager> make(Machine& machine, const Params&) {
  return std::make_unique<OwnPager>(machine);
}

}  // namespace

const PagerInfo& own_pager() {
  static const PagerInfo info{"own", "a virtual TLB", true, TableOwner::Process, no_keys, make};
  return info;
}
