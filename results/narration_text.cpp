// A narration in words, as the grid of a two-dimensional walk, and as JSON.

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "results/cost_model.h"
#include "results/experiment.h"
#include "results/narration.h"
#include "results/tables.h"

namespace mmuscope {

namespace {

constexpr std::string_view kEntryNames[] = {"", "PTE", "PDE", "PDPTE", "PML4E", "PML5E"};
constexpr std::string_view kTableNames[] = {"guest", "shadow", "EPT", "NPT"};
constexpr std::string_view kSizeNames[] = {"4 KiB", "2 MiB", "1 GiB"};
constexpr std::string_view kKindNames[] = {"tlb",   "walk",       "cached",   "entry",
                                           "flags", "translated", "fault",    "exit",
                                           "vmm",   "reflected",  "emulated", "resumed"};
constexpr std::string_view kReasonNames[] = {"page fault",
                                             "MOV to CR3",
                                             "INVLPG",
                                             "INVPCID",
                                             "MOV to CR0",
                                             "MOV to CR4",
                                             "EPT violation",
                                             "EPT misconfiguration",
                                             "interrupt",
                                             "WRMSR",
                                             "full page-modification log",
                                             "hypercall"};
static_assert(std::size(kReasonNames) == static_cast<unsigned>(ExitReason::Hypercall) + 1);

std::string_view name_of(TableKind t) { return kTableNames[static_cast<unsigned>(t)]; }
bool is_second(TableKind t) { return t == TableKind::Ept || t == TableKind::Npt; }

/// What the hypervisor did, an event a phrase; {} is the count.
struct Phrase {
  Event event;
  std::string_view words;
};
constexpr Phrase kPhrases[] = {
    {Event::PfTaken, "its fault handler runs"},
    {Event::PfGuest, "the guest's tables forbid the access: the fault is the guest's own"},
    {Event::PfFixed, "the entry that was missing is set"},
    {Event::PfEmulate,
     "the write is to a table whose shadow must follow: it is done for the guest"},
    {Event::PfSpurious, "nothing was missing any more"},
    {Event::PfFast, "without the lock"},
    {Event::MmuCacheMiss, "shadow tables made: {}"},
    {Event::MmuPteWrite, "shadows of the entry written are brought in step"},
    {Event::MmuPdeZapped, "upper shadow entries dropped: {}"},
    {Event::MmuFlooded, "shadow tables dropped for too many writes: {}"},
    {Event::MmuRecycled, "shadow tables dropped to stay under the limit: {}"},
    {Event::MmuShadowZapped, "shadow tables dropped: {}"},
    {Event::LockAcquisition, "the MMU lock taken: {}"},
    {Event::Invlpg, "INVLPG emulated"},
    {Event::RemoteTlbFlushRequest, "all vCPUs asked to flush: {}"},
    {Event::RemoteTlbFlush, "of these, with another vCPU interrupted: {}"},
    {Event::TlbFlush, "TLBs flushed: {}"},
    {Event::Ipi, "interrupts sent to other CPUs: {}"},
    {Event::IpiReceived, "interrupts taken: {}"},
    {Event::DirtyHarvest, "dirty log harvested"},
    {Event::DirtyPage, "dirty pages found: {}"},
    {Event::UnbackedPage, "pages taken back by the host: {}"},
    {Event::MergedPage, "equal pages merged by the host: {}"},
    {Event::UnmergedPage, "merged pages copied: {}"},
};

std::string hypervisor_words(const Told& t) {
  std::vector<std::string> parts;
  for (const Phrase& p : kPhrases) {
    if (const u64 n = t.counted[p.event]; n != 0) {
      parts.push_back(fmt::format(fmt::runtime(p.words), n));
    }
  }
  const auto by = [&](std::int64_t n, const char* what) {
    if (n != 0) parts.push_back(fmt::format("{}: {:+}", what, n));
  };
  by(t.leaves, "pages mapped in its tables");
  by(t.table_pages, "its table pages");
  by(t.unsync, "tables out of sync");
  return fmt::format("{}", fmt::join(parts, "; "));
}

std::string tlb_words(const Told& t) {
  std::vector<std::string> parts;
  if (t.counted[Event::TlbL1Miss]) parts.push_back("first-level TLB: no entry for the page");
  if (t.counted[Event::TlbL2Hit]) parts.push_back("second-level TLB: an entry");
  if (t.counted[Event::TlbSplinter]) parts.push_back("cached as a smaller page than the guest's");
  if (t.counted[Event::GuestPageFault]) parts.push_back("the guest takes a page fault");
  return fmt::format("{}", fmt::join(parts, "; "));
}

/// The bits that say what an entry permits and what became of it.
std::string bits_of(TableKind table, unsigned level, u64 e) {
  struct Bit {
    u64 mask;
    const char* name;
  };
  constexpr std::array<Bit, 7> kX86 = {{{x86::kPresent, "P"},
                                        {x86::kWrite, "W"},
                                        {x86::kUser, "U"},
                                        {x86::kAccessed, "A"},
                                        {x86::kDirty, "D"},
                                        {x86::kGlobal, "G"},
                                        {x86::kNoExec, "NX"}}};
  constexpr std::array<Bit, 5> kEpt = {{{ept::kRead, "R"},
                                        {ept::kWrite, "W"},
                                        {ept::kExec, "X"},
                                        {ept::kAccessed, "A"},
                                        {ept::kDirty, "D"}}};
  std::string text;
  const auto add = [&](u64 mask, const char* name) {
    if (e & mask) text.append(text.empty() ? "" : " ").append(name);
  };
  if (table == TableKind::Ept) {
    for (const Bit& b : kEpt) add(b.mask, b.name);
    if (!(e & (ept::kRead | ept::kWrite | ept::kExec))) return "not present";
  } else {
    for (const Bit& b : kX86) add(b.mask, b.name);
    if (!(e & x86::kPresent)) return "not present";
  }
  if (level > 1) add(x86::kLarge, "PS");  // the same bit in EPT
  return text;
}

std::string fault_words(const GuestFault& f) {
  if (f.kind == GuestFault::Kind::GeneralProtection) return "#GP";
  return fmt::format("#PF, error code {:#x}, address {:#x}", f.error_code, f.address.raw());
}

/// AMD's exit for the second dimension: EXITINFO1 has bit 32 or 33, which an EPT violation's
/// qualification never has. APM vol. 2, *Nested versus Guest Page Faults, Fault Ordering*.
bool is_nested_page_fault(const VmExit& e) { return (e.qualification >> 32 & 3) != 0; }

std::string exit_words(const Told& t) {
  std::string text = fmt::format("VM exit: {}", kReasonNames[static_cast<unsigned>(t.reason)]);
  if (!t.exit) return text + fmt::format(" reaches vCPU {}", t.vcpu);
  const VmExit& e = *t.exit;
  if (t.reason == ExitReason::EptViolation && is_nested_page_fault(e)) {
    return fmt::format(
        "VM exit: nested page fault (#NPF) for guest-physical {:#x}, EXITINFO1 {:#x}", e.gpa.raw(),
        e.qualification);
  }
  switch (t.reason) {
    case ExitReason::PageFault:
      return text + fmt::format(" at {:#x}, error code {:#x}", e.gva.raw(), e.error_code);
    case ExitReason::EptViolation:
    case ExitReason::EptMisconfig:
    case ExitReason::PmlFull:
      return text + fmt::format(" for guest-physical {:#x}, qualification {:#x}", e.gpa.raw(),
                                e.qualification);
    case ExitReason::Invlpg:
      return text + fmt::format(" of {:#x}", e.gva.raw());
    default:
      return text;
  }
}

std::string cached_words(const CacheUse& c) {
  switch (c.kind) {
    case CacheUse::Kind::PagingStructure:
      return fmt::format("paging-structure cache: the walk starts at the table of {}s at {:#x}",
                         kEntryNames[c.level], c.table);
    case CacheUse::Kind::SecondStructure:
      return fmt::format("cache of the second dimension: {:#x} starts at its table of {}s at {:#x}",
                         c.gpa.raw(), kEntryNames[c.level], c.table);
    case CacheUse::Kind::PageEntry:
    case CacheUse::Kind::SecondPageEntry:
      return fmt::format("page-entry cache: the {} at {:#x}", kEntryNames[c.level], c.table);
    default:
      return fmt::format("nested TLB: guest-physical {:#x} is at {:#x}", c.gpa.raw(), c.table);
  }
}

std::string words_of(const Told& t) {
  using Kind = Told::Kind;
  switch (t.kind) {
    case Kind::Tlb:
      return tlb_words(t);
    case Kind::Walk:
      return "the hardware walks";
    case Kind::Cached:
      return cached_words(t.cached);
    case Kind::Entry:
      return {};
    case Kind::Flags:
      return fmt::format("sets {} in the {} {} at {:#x}",
                         t.flags.table == TableKind::Ept
                             ? bits_of(TableKind::Ept, 1, t.flags.bits | ept::kRead).substr(2)
                             : bits_of(t.flags.table, 1, t.flags.bits | x86::kPresent).substr(2),
                         name_of(t.flags.table), kEntryNames[t.flags.level], t.flags.where.raw());
    case Kind::Translated:
      return fmt::format("translated: a {} page at host-physical {:#x}{}",
                         kSizeNames[static_cast<unsigned>(t.page.size)], t.page.page.raw(),
                         t.page.rights & rights::kStoreOk ? "" : "; a store must walk again");
    case Kind::Fault:
      return "the guest's own fault, no exit: " + fault_words(t.fault);
    case Kind::Exit:
      return exit_words(t);
    case Kind::Hypervisor:
      return "hypervisor: " + hypervisor_words(t);
    case Kind::Reflected:
      return "hypervisor: gives the guest " + fault_words(t.fault);
    case Kind::Emulated:
      return "back in the guest, the instruction done for it";
    case Kind::Resumed:
      return "back in the guest, which tries again";
  }
  return {};
}

// --- text ----------------------------------------------------------------------------------------

const char* colour_of(const Told& t) {
  using Kind = Told::Kind;
  switch (t.kind) {
    case Kind::Entry:
      return t.entry.table == TableKind::Guest    ? "\033[32m"
             : t.entry.table == TableKind::Shadow ? "\033[35m"
                                                  : "\033[34m";
    case Kind::Cached:
      return "\033[36m";
    case Kind::Exit:
    case Kind::Fault:
    case Kind::Reflected:
      return "\033[31m";
    case Kind::Hypervisor:
    case Kind::Emulated:
      return "\033[33m";
    default:
      return "";
  }
}

std::string entry_line(u64 number, const EntryRead& e) {
  const std::string whose =
      e.table == TableKind::Shadow ? ""
      : !e.gpa_known               ? "gPA not needed"
      : e.table == TableKind::Guest
          ? fmt::format("gPA {:#x}", e.gpa.raw())
          : fmt::format("for {} {:#x}", e.final ? "the page" : "gPA", e.gpa.raw());
  return fmt::format("{:>4}  {:<6} {:<5} at {:<12} {:<24} = {:#018x}  {}", number, name_of(e.table),
                     kEntryNames[e.level], fmt::format("{:#x}", e.where.raw()), whose, e.value,
                     bits_of(e.table, e.level, e.value));
}

/// The last walk as a grid: a row for each guest-physical address it translates, a column for each
/// entry read on the way; the numbers are those of the list.
class Grid {
 public:
  explicit Grid(const Narration& n) : top_(n.guest_levels), row_(top_) {
    u64 number = 0;
    for (const Told& t : n.told) {
      if (t.kind == Told::Kind::Walk) start();
      if (t.kind == Told::Kind::Entry) add(++number, t.entry);
      if (t.kind == Told::Kind::Cached) add(t.cached);
    }
  }
  bool drawn() const { return second_; }

  std::string text() const {
    std::vector<CsvRow> rows = {{""}};
    for (unsigned l = columns_; l > 0; --l) {
      rows[0].push_back(fmt::format("{} {}", name_, kEntryNames[l]));
    }
    rows[0].push_back("entry itself");
    for (unsigned row = top_; row > 0; --row) {
      if (std::any_of(cells_[row].begin(), cells_[row].end(), [](auto& c) { return !c.empty(); })) {
        rows.push_back(line(fmt::format("guest {}", kEntryNames[row]), cells_[row]));
      }
    }
    rows.push_back(line("the page", cells_[0]));
    return aligned(rows, 1);
  }

 private:
  static constexpr unsigned kItself = 0;
  using Row = std::array<std::string, kMaxLevels + 1>;  // by level; [0] the guest entry itself

  void start() {
    cells_ = {};
    row_ = top_;
  }
  void add(u64 number, const EntryRead& e) {
    if (is_second(e.table)) {
      second_ = true;
      name_ = name_of(e.table);
      columns_ = std::max(columns_, e.level);
      cells_[e.final ? 0 : row_][e.level] = std::to_string(number);
      return;
    }
    cells_[row_][kItself] = std::to_string(number);
    row_ = e.level - 1;
  }
  void add(const CacheUse& c) {
    switch (c.kind) {
      case CacheUse::Kind::PagingStructure:
        for (unsigned l = top_; l > c.level; --l) cells_[l].fill("cached");
        for (unsigned l = 1; l <= kMaxLevels; ++l) cells_[c.level][l] = "cached";
        row_ = c.level;
        break;
      case CacheUse::Kind::SecondStructure:
        for (unsigned l = kMaxLevels; l > c.level; --l) cells_[c.final ? 0 : row_][l] = "cached";
        break;
      case CacheUse::Kind::NestedTlb:
        for (unsigned l = 1; l <= kMaxLevels; ++l) cells_[c.final ? 0 : row_][l] = "nTLB";
        break;
      case CacheUse::Kind::PageEntry:
        cells_[row_][kItself] = "cached";
        row_ = c.level - 1;
        break;
      case CacheUse::Kind::SecondPageEntry:
        cells_[c.final ? 0 : row_][c.level] = "cached";
        break;
    }
  }
  CsvRow line(const std::string& name, const Row& cells) const {
    CsvRow row = {name};
    for (unsigned l = columns_; l > 0; --l) row.push_back(cells[l].empty() ? "." : cells[l]);
    row.push_back(cells[kItself].empty() ? "." : cells[kItself]);
    return row;
  }

  unsigned top_, row_, columns_ = 4;
  bool second_ = false;
  std::string_view name_ = "EPT";
  std::array<Row, kMaxLevels + 1> cells_;  // by guest level; [0] the page itself
};

std::string sum_line(const Narration& n) {
  const Counters c = n.counters;
  return fmt::format(
      "{} table entries read: {} guest, {} shadow, {} of the second dimension; walks {}, "
      "exits {}\n",
      n.references(), c[Event::TableRefGuest], c[Event::TableRefShadow], c[Event::TableRefNested],
      c[Event::Walk], total_exits(c));
}

std::string ended_line(const Narration& n) {
  if (!n.ended) return "done";
  if (!n.ended->done) return "ends in " + fault_words(n.ended->fault);
  return n.counters[Event::Walk] == 0 ? "done: the TLB had the page, nothing was read" : "done";
}

Cycles cycles_of(const Narration& n) { return price(n.cpu, {n.accesses, n.counters}); }

}  // namespace

std::string narration_text(const Narration& n, bool colour) {
  std::string text = fmt::format("{}, pager {}, cpu {}\n\n", n.what, n.pager, n.cpu);
  u64 number = 0;
  for (const Told& t : n.told) {
    const std::string line =
        t.kind == Told::Kind::Entry ? entry_line(++number, t.entry) : words_of(t);
    if (line.empty()) continue;
    const char* escape = colour ? colour_of(t) : "";
    const char* indent = t.kind == Told::Kind::Entry ? "" : "      ";
    text += fmt::format("{}{}{}{}\n", escape, indent, line, *escape ? "\033[0m" : "");
  }
  text += fmt::format("      {}\n\n", ended_line(n));
  if (const Grid grid(n); grid.drawn()) {
    text += "the last walk, by guest-physical address translated (numbers: the order above)\n" +
            grid.text() + "\n";
  }
  text += sum_line(n);
  const Cycles c = cycles_of(n);
  return text +
         fmt::format("modelled cycles: {} (guest {}, walk {}, exit {}, hypervisor {}, sync {})\n",
                     c.total(), c.guest, c.walk, c.exit, c.vmm, c.sync);
}

// --- JSON ----------------------------------------------------------------------------------------

namespace {

using Json = nlohmann::ordered_json;

std::string hex(u64 value) { return fmt::format("{:#x}", value); }

Json counted_json(const Counters& c) {
  Json j = Json::object();
  for (const EventInfo& info : kEventInfo) {
    if (c[info.event] != 0) j[std::string(info.name)] = c[info.event];
  }
  return j;
}

Json json_of(const Told& t) {
  Json j;
  j["kind"] = kKindNames[static_cast<unsigned>(t.kind)];
  if (t.kind == Told::Kind::Entry) {
    const EntryRead& e = t.entry;
    j["table"] = name_of(e.table);
    j["level"] = e.level;
    j["at"] = hex(e.where.raw());
    if (e.gpa_known) j[e.table == TableKind::Guest ? "gpa" : "for"] = hex(e.gpa.raw());
    if (e.final) j["final"] = true;
    j["value"] = hex(e.value);
    j["bits"] = bits_of(e.table, e.level, e.value);
    return j;
  }
  if (t.kind == Told::Kind::Cached) {
    constexpr std::string_view kCaches[] = {"paging-structure", "second-structure", "nested-tlb",
                                            "page-entry", "second-page-entry"};
    j["cache"] = kCaches[static_cast<unsigned>(t.cached.kind)];
    if (t.cached.level != 0) j["level"] = t.cached.level;
    if (t.cached.kind != CacheUse::Kind::PagingStructure &&
        t.cached.kind != CacheUse::Kind::PageEntry) {
      j["for"] = hex(t.cached.gpa.raw());
    }
    if (t.cached.final) j["final"] = true;
  }
  if (t.vcpu != 0) j["vcpu"] = t.vcpu;
  if (t.kind == Told::Kind::Tlb || t.kind == Told::Kind::Hypervisor || t.kind == Told::Kind::Exit) {
    j["counted"] = counted_json(t.counted);
  }
  if (const std::string words = words_of(t); !words.empty()) j["words"] = words;
  return j;
}

}  // namespace

std::string narration_json(const Narration& n) {
  Json j;
  j["what"] = n.what;
  j["pager"] = n.pager;
  j["cpu"] = n.cpu;
  j["guest_levels"] = n.guest_levels;
  j["told"] = Json::array();
  for (const Told& t : n.told) j["told"].push_back(json_of(t));
  j["ended"] = ended_line(n);
  j["references"] = n.references();
  j["accesses"] = n.accesses;
  j["counters"] = counted_json(n.counters);
  const Cycles c = cycles_of(n);
  j["cycles"] = {{"guest", c.guest}, {"walk", c.walk}, {"exit", c.exit},
                 {"vmm", c.vmm},     {"sync", c.sync}, {"total", c.total()}};
  return j.dump();
}

}  // namespace mmuscope
