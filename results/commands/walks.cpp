#include <fmt/format.h>

#include "results/commands/commands.h"
#include "results/csv.h"
#include "results/experiment.h"
#include "results/tables.h"

namespace mmuscope {
namespace {

constexpr CommandHelp kHelp = {
    "walks [options]",
    "The table entries that one page walk reads, by depth of tables, page sizes and walk caches:\n"
    "with nothing cached (cold), after a MOV to CR3 (flushed), and of the page beside one just\n"
    "walked for (warm).\n",
    "  mmuscope walks\n"
    "  mmuscope walks --csv\n"};

constexpr u64 kGiB = u64{1} << 30;
constexpr Gva kVa{0x40'0000'0000};
constexpr Gpa kRoot{1 << 20}, kData{2 * kGiB};
constexpr std::string_view kSizes[] = {"4k", "2m", "1g"};
constexpr std::string_view kCaches[] = {"off", "1d", "2d", "2d+ntlb"};

/// One setting of the ladder.
struct Rung {
  bool nested = false;
  u8 guest_levels = 4, nested_levels = 4;
  PageSize guest_page = PageSize::k4K, host_page = PageSize::k4K;
  WalkCaches caches = WalkCaches::Off;
  WalkCacheKind kind = WalkCacheKind::Prefix;
};

/// Two neighbouring pages at kVa, in tables that stand one after another from kRoot.
void lay_out(Machine& machine, const Rung& rung) {
  constexpr u64 kTable = x86::kPresent | x86::kWrite | x86::kUser | x86::kAccessed | x86::kDirty;
  Gpa table = kRoot;
  for (unsigned level = rung.guest_levels; level > leaf_level(rung.guest_page); --level) {
    machine.host_write(table + 8 * table_index(kVa, level), (table + kPageBytes).raw() | kTable);
    table = table + kPageBytes;
  }
  const u64 large = rung.guest_page == PageSize::k4K ? 0 : x86::kLarge;
  for (u64 i = 0; i < 2; ++i) {
    machine.host_write(table + 8 * (table_index(kVa, leaf_level(rung.guest_page)) + i),
                       (kData + i * page_bytes(rung.guest_page)).raw() | kTable | large);
  }
}

u64 refs_of_load(Vcpu& vcpu, Gva va) {
  const Counters before = vcpu.counters;
  vcpu.load(va);
  const Counters d = vcpu.counters - before;
  return d[Event::TableRefGuest] + d[Event::TableRefNested];
}

CsvRow row_of(const Rung& rung) {
  const PagerInfo& info = find_pager(rung.nested ? "nested" : "native");
  Params params("pager", info.params());
  if (rung.nested) params.set("levels", std::to_string(rung.nested_levels));
  MachineConfig config;
  config.memory_bytes = 4 * kGiB;
  config.backing = rung.host_page;
  config.walk_caches = rung.caches;
  config.walk_cache_kind = rung.kind;
  config.virtualized = info.virtualized;
  config.guest_levels = rung.guest_levels;
  Machine machine(config, [&](Machine& m) { return info.make(m, params); });
  lay_out(machine, rung);
  Vcpu& vcpu = machine.vcpu(0);
  Controls controls;
  controls.levels = rung.guest_levels;
  vcpu.set_controls(controls);
  vcpu.write_cr3(kRoot.raw());
  const Gva next = kVa + page_bytes(rung.guest_page);
  vcpu.load(kVa);
  vcpu.load(next);
  machine.pager().flush(vcpu);
  const u64 cold = refs_of_load(vcpu, kVa), warm = refs_of_load(vcpu, next);
  vcpu.write_cr3(kRoot.raw());
  const u64 flushed = refs_of_load(vcpu, kVa);
  return {std::string(info.name),
          std::to_string(rung.guest_levels),
          rung.nested ? std::to_string(rung.nested_levels) : "",
          std::string(kSizes[static_cast<unsigned>(rung.guest_page)]),
          rung.nested ? std::string(kSizes[static_cast<unsigned>(rung.host_page)]) : "",
          std::string(kCaches[static_cast<unsigned>(rung.caches)]),
          rung.kind == WalkCacheKind::Entry ? "entry" : "prefix",
          std::to_string(cold),
          std::to_string(flushed),
          std::to_string(warm)};
}

/// One setting with every cache that there is for it: by prefix, then by entry. Without any the
/// kinds are the same.
void add_caches(std::vector<Rung>& all, Rung rung) {
  const WalkCaches most = rung.nested ? WalkCaches::TwoDTlb : WalkCaches::OneD;
  for (const WalkCacheKind kind : {WalkCacheKind::Prefix, WalkCacheKind::Entry}) {
    for (unsigned caches = 0; caches <= static_cast<unsigned>(most); ++caches) {
      rung.kind = kind;
      rung.caches = static_cast<WalkCaches>(caches);
      if (caches != 0 || kind == WalkCacheKind::Prefix) all.push_back(rung);
    }
  }
}

std::vector<Rung> rungs() {
  std::vector<Rung> all;
  for (const u8 levels : {u8{4}, u8{5}}) {
    for (unsigned page = 0; page < kPageSizes; ++page) {
      add_caches(all, {false, levels, 4, static_cast<PageSize>(page)});
    }
  }
  for (const u8 levels : {u8{4}, u8{5}}) {
    for (const u8 second : {u8{4}, u8{5}}) {
      for (unsigned sizes = 0; sizes < kPageSizes * kPageSizes; ++sizes) {
        add_caches(all, {true, levels, second, static_cast<PageSize>(sizes / kPageSizes),
                         static_cast<PageSize>(sizes % kPageSizes)});
      }
    }
  }
  return all;
}

/// One line for the settings of the walk caches, each "cold/flushed/warm".
std::vector<CsvRow> for_people(const std::vector<CsvRow>& rows) {
  std::vector<CsvRow> lines = {{"pager", "levels", "guest page", "host page", "off", "1d", "2d",
                                "2d+ntlb", "entry 1d", "entry 2d", "entry 2d+ntlb"}};
  for (std::size_t i = 1; i < rows.size(); ++i) {
    const CsvRow& r = rows[i];
    if (r[5] == "off") {
      lines.push_back({r[0], r[2].empty() ? r[1] : r[1] + " x " + r[2], r[3], r[4]});
      lines.back().resize(lines[0].size());
    }
    const std::string column = r[6] == "entry" ? "entry " + r[5] : r[5];
    for (std::size_t c = 4; c < lines[0].size(); ++c) {
      if (lines[0][c] == column) lines.back()[c] = r[7] + "/" + r[8] + "/" + r[9];
    }
  }
  return lines;
}

}  // namespace

int walks_command(const Args& args) {
  CommandLine line(kHelp);
  line.flag("csv", "every setting in a row of its own, for machines");
  if (!line.parse(args)) return kDone;
  std::vector<CsvRow> rows = {{"pager", "guest_levels", "nested_levels", "guest_page", "host_page",
                               "walk_caches", "walk_cache_kind", "cold", "flushed", "warm"}};
  for (const Rung& rung : rungs()) rows.push_back(row_of(rung));
  if (!line.has("csv")) {
    fmt::print(
        "table entries read: with nothing cached / after a MOV to CR3 / of the page beside one "
        "just "
        "walked for\n\n{}",
        aligned(for_people(rows), 4));
    return kDone;
  }
  for (const CsvRow& row : rows) fmt::print("{}", csv_line(row));
  return kDone;
}

}  // namespace mmuscope
