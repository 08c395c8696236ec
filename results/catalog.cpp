#include "results/catalog.h"

#include <array>
#include <vector>

#include "core/error.h"
#include "core/native_pager.h"
#include "nested/nested_pager.h"
#include "shadow/shadow_pager.h"
#include "shadow/unsync_pager.h"

namespace mmuscope {
namespace {

std::span<const ParamInfo> no_params() { return {}; }
std::unique_ptr<Pager> make_native(Machine& machine, const Params&) {
  return make_native_pager(machine);
}

constexpr std::array kPagers = {
    PagerInfo{"native", "no virtualization: the hardware walks the guest's tables, nothing exits",
              false, TableOwner::Nobody, no_params, make_native},
    PagerInfo{"shadow",
              "shadow paging: every guest table write-protected, every guest write to one trapped "
              "and emulated",
              true, TableOwner::Process, shadow_params, make_shadow_pager},
    PagerInfo{"shadow-unsync",
              "shadow paging as KVM does it: leaf tables go out of sync and are synchronised at "
              "flushes, only writes to upper tables are trapped",
              true, TableOwner::Process, unsync_params, make_unsync_pager},
    PagerInfo{"nested",
              "two-dimensional paging (EPT or NPT): the hardware walks the guest's tables through "
              "the hypervisor's",
              true, TableOwner::Vm, nested_params, make_nested_pager},
};

constexpr std::array kMachineParams = {
    ParamInfo{
        "backing", ParamInfo::Kind::Choice, "4k", "",
        "host pages under guest memory, the same for every pager; mixed: 1g where fragmentation "
        "allows, else 2m, else 4k",
        0, 0, "4k|2m|1g|mixed"},
    ParamInfo{"fragmentation", ParamInfo::Kind::Real, "0.5", "",
              "with backing=mixed: share of the host's 1g regions, and of the 2m regions in those, "
              "that cannot be one page; the seed says which",
              0, 1, ""},
    ParamInfo{"prebacked", ParamInfo::Kind::Switch, "off", "",
              "host pages are all there before the run, and mapped where the VM has tables of its "
              "own",
              0, 0, ""},
    ParamInfo{"vpid", ParamInfo::Kind::Switch, "on", "",
              "tags of the TLB by VM (VPID, ASID); off: every exit and entry flushes it", 0, 0, ""},
    ParamInfo{"tlb-scale", ParamInfo::Kind::Real, "1", "",
              "TLB entries of every level, as a multiple of the CPU's", 0.25, 8, ""},
    ParamInfo{
        "walk-caches", ParamInfo::Kind::Choice, "1d", "",
        "paging-structure caches: none, of the guest-virtual dimension, of both, and a nested "
        "TLB besides",
        0, 0, "off|1d|2d|2d+ntlb"},
    ParamInfo{"walk-cache-kind", ParamInfo::Kind::Choice, "cpu", "",
              "what walk caches hold: tables by prefix of the address, or entries by their own "
              "address (1d: of the guest's tables); cpu: entry on barcelona, else prefix",
              0, 0, "cpu|prefix|entry"},
    ParamInfo{"table-lines", ParamInfo::Kind::Switch, "off", "",
              "models the data caches that table entries are read through: where each read hits is "
              "counted and priced",
              0, 0, ""},
    ParamInfo{"guest-levels", ParamInfo::Kind::Choice, "4", "",
              "levels of the guest kernel's page tables, whatever the CPU has", 0, 0, "4|5"},
    ParamInfo{
        "kpti", ParamInfo::Kind::Switch, "off", "",
        "the guest kernel isolates its tables: a root of its own for user mode, a CR3 load at "
        "each entry and exit; off as on CPUs that Meltdown spares",
        0, 0, ""},
    ParamInfo{"pcid", ParamInfo::Kind::Switch, "on", "",
              "the guest kernel tags address spaces by PCID, where the CPU has them", 0, 0, ""},
    ParamInfo{"thp", ParamInfo::Kind::Choice, "never", "",
              "where the guest kernel gives 2-MByte pages by itself (transparent huge pages): "
              "nowhere, where a program asks for them, or to all anonymous memory",
              0, 0, "never|madvise|always"},
    ParamInfo{"khugepaged", ParamInfo::Kind::Count, "0", "accesses",
              "with thp: guest accesses between two passes in which the guest kernel collapses "
              "small pages to huge ones; 0: none",
              0, 1e12, ""},
    ParamInfo{"swap", ParamInfo::Kind::Bytes, "0", "bytes",
              "persistent memory that the guest has besides what the workload gives it, to swap to "
              "when that runs low; 0: it does not swap",
              0, double(u64{1} << 46), ""},
    ParamInfo{"quantum", ParamInfo::Kind::Count, "64", "accesses",
              "turn of each vCPU when there are several", 1, 1e9, ""},
    ParamInfo{"schedule", ParamInfo::Kind::Choice, "lockstep", "",
              "who runs next: lockstep: vCPUs by turns of a quantum; time: the one whose clock is "
              "furthest behind, and waiting for locks and answers takes time",
              0, 0, "lockstep|time"},
    ParamInfo{"lock", ParamInfo::Kind::Choice, "kvm", "",
              "the hypervisor's MMU lock: one (coarse), one that faults of EPT and NPT share (rw), "
              "one for each table (fine); kvm: coarse for shadow tables, rw for EPT and NPT",
              0, 0, "kvm|coarse|rw|fine"},
    ParamInfo{"apicv", ParamInfo::Kind::Switch, "on", "",
              "a virtual APIC, where the CPU has one: the guest's interrupts are delivered and "
              "ended without an exit; sending one exits",
              0, 0, ""},
    ParamInfo{"pv-flush", ParamInfo::Kind::Switch, "off", "",
              "the guest leaves flushes for vCPUs that have no CPU to the hypervisor, which does "
              "them before the vCPU runs again; with schedule=time",
              0, 0, ""},
    ParamInfo{"cpus", ParamInfo::Kind::Count, "0", "CPUs",
              "of the host, the vCPUs of all VMs placed on them by turns; 0: one for each vCPU; "
              "fewer need schedule=time",
              0, 64, ""},
    ParamInfo{"slice", ParamInfo::Kind::Count, "2500000", "cycles",
              "for which a vCPU keeps its CPU while others want it: 1 ms at 2.5 GHz", 1000, 1e12,
              ""},
    ParamInfo{"tags", ParamInfo::Kind::Count, "0", "tags",
              "VPIDs or ASIDs of a CPU, the host's included; 0: as many as the CPU has", 0, 65536,
              ""},
    ParamInfo{"prices", ParamInfo::Kind::Text, "none", "",
              "file of prices that differ from `list costs`, a line `name = cycles` each", 0, 0,
              ""},
    ParamInfo{"series-every", ParamInfo::Kind::Count, "0", "accesses",
              "a row of series.csv for each so many, when a step of the guest's program ends; 0: "
              "none. Peaks are taken at samples, so that many samples may raise them",
              0, 1e9, ""},
};

template <class Info>
const Info& find_in(std::span<const Info> catalog, std::string_view what, std::string_view name) {
  std::vector<std::string_view> names;
  for (const Info& info : catalog) {
    if (info.name == name) return info;
    names.push_back(info.name);
  }
  throw InputError(unknown_word(what, name, names));
}

}  // namespace

std::span<const PagerInfo> pager_catalog() { return kPagers; }
std::span<const ParamInfo> machine_params() { return kMachineParams; }

const PagerInfo& find_pager(std::string_view name, std::span<const PagerInfo> pagers) {
  return find_in(pagers, "pager", name);
}
const WorkloadInfo& find_workload(std::string_view name) {
  return find_in(workload_catalog(), "workload", name);
}

}  // namespace mmuscope
