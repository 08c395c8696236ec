#include <fmt/format.h>

#include <array>

#include "core/cpu_model.h"
#include "core/error.h"
#include "results/commands/commands.h"
#include "results/suite/statistics.h"
#include "results/suite/suite.h"
#include "results/tables.h"

namespace mmuscope {
namespace {

constexpr CommandHelp kHelp = {
    "list pagers|workloads|cpus|columns|suites|costs [--csv]",
    "The catalogues: pagers and workloads with every key, its default, unit and meaning; CPU "
    "models\n"
    "with their TLBs, walk caches and prices; the columns of the CSV files and the keys of --set; "
    "the suites that have\n"
    "names; the constants of the cost model with their sources.\n",
    "  mmuscope list workloads\n"
    "  mmuscope list columns --csv\n"};

// A list is a CSV table; for people the same rows are grouped and aligned.

void add_keys(std::vector<CsvRow>& rows, std::string_view owner, std::string_view description,
              std::span<const ParamInfo> params) {
  rows.push_back({std::string(owner), "", "", "", "", std::string(description)});
  for (const ParamInfo& p : params) {
    rows.push_back({std::string(owner), std::string(p.name), std::string(p.default_value),
                    std::string(p.unit), valid_values(p), std::string(p.meaning)});
  }
}

/// Rows of add_keys: the owner, and indented below it its keys.
std::string keys_for_people(const std::vector<CsvRow>& rows) {
  std::string text;
  std::vector<CsvRow> keys;
  const auto flush = [&] {
    text += aligned(keys, 4);
    keys.clear();
  };
  for (std::size_t i = 1; i < rows.size(); ++i) {
    const CsvRow& r = rows[i];
    if (r[1].empty()) {
      flush();
      text += fmt::format("{}: {}\n", r[0], r[5]);
    } else {
      keys.push_back({fmt::format("  {}={}", r[1], r[2]), r[3], r[5], "(" + r[4] + ")"});
    }
  }
  flush();
  return text;
}

std::vector<CsvRow> pager_rows() {
  std::vector<CsvRow> rows = {{"pager", "key", "default", "unit", "valid", "meaning"}};
  for (const PagerInfo& p : pager_catalog()) add_keys(rows, p.name, p.description, p.params());
  return rows;
}

std::vector<CsvRow> workload_rows() {
  std::vector<CsvRow> rows = {{"workload", "key", "default", "unit", "valid", "meaning"}};
  for (const WorkloadInfo& w : workload_catalog()) add_keys(rows, w.name, w.description, w.params);
  return rows;
}

std::string_view name_of(Confidence sure) {
  constexpr std::array<std::string_view, 3> kNames = {"cpuid", "text", "memory"};
  return kNames[static_cast<unsigned>(sure)];
}

std::string sizes_of(u8 sizes) {
  constexpr std::array<std::string_view, kPageSizes> kNames = {"4K", "2M", "1G"};
  std::string text;
  for (unsigned i = 0; i < kPageSizes; ++i) {
    if (sizes & (1u << i)) text.append(text.empty() ? "" : "+").append(kNames[i]);
  }
  return text;
}

/// A price of the cost model.
struct PriceRow {
  std::string part, name, cycles, per, sure, source;
};

/// Prices that are the same on every CPU.
std::vector<PriceRow> common_prices() {
  std::vector<PriceRow> rows;
  for (const Cost& c : costs()) {
    rows.push_back({"cycles_" + std::string(name_of(c.part)), std::string(c.name),
                    std::to_string(c.cycles), std::string(c.unit), std::string(name_of(c.sure)),
                    std::string(c.source)});
  }
  for (const OtherCost& c : other_costs()) {
    rows.push_back({c.name == "access" ? "cycles_guest" : "cycles_sync", std::string(c.name),
                    std::to_string(c.cycles), std::string(c.unit), std::string(name_of(c.sure)),
                    std::string(c.source)});
  }
  return rows;
}

/// Prices of one CPU.
std::vector<PriceRow> prices_of(std::string_view cpu) {
  const ExitCost& exit = exit_cost(cpu);
  const RefCost& ref = ref_cost(cpu);
  std::vector<PriceRow> rows = {{"cycles_exit", "exit", std::to_string(exit.cycles), "exit",
                                 std::string(name_of(exit.sure)), std::string(exit.source)}};
  const auto add = [&](std::string_view level, u64 cycles) {
    rows.push_back({"cycles_walk", "table_ref_" + std::string(level), std::to_string(cycles),
                    "table entry read from there, with table-lines=on",
                    std::string(name_of(Sure::Memory)), "load-to-use latency, widely measured"});
  };
  add("l1", ref.l1);
  add("l2", ref.l2);
  add("llc", ref.llc);
  add("memory", ref.memory);
  return rows;
}

constexpr const char* kEveryCpu = "every";

void add_structures(std::vector<CsvRow>& rows, const CpuModel& cpu) {
  const std::string name(cpu.name), description(cpu.description);
  const auto tlbs = [&](const char* structure, const std::vector<TlbGeometry>& banks) {
    for (const TlbGeometry& t : banks) {
      rows.push_back({name, description, structure, std::to_string(t.entries),
                      std::to_string(t.ways), sizes_of(t.sizes), std::string(name_of(t.sure)), "",
                      "", ""});
    }
  };
  tlbs("L1 load", cpu.l1_load);
  tlbs("L1 store", cpu.l1_store);
  tlbs("L1 fetch", cpu.l1_fetch);
  tlbs("L2", cpu.l2_data);
  tlbs("L2 fetch", cpu.l2_fetch);
  const auto cache = [&](const char* structure, const WalkCacheGeometry& c) {
    if (c.entries == 0) return;
    rows.push_back({name, description, structure, std::to_string(c.entries), std::to_string(c.ways),
                    "", std::string(name_of(c.sure)), "", "", ""});
  };
  cache("PML5E cache", cpu.pml5e);
  cache("PML4E cache", cpu.pml4e);
  cache("PDPTE cache", cpu.pdpte);
  cache("PDE cache", cpu.pde);
}

/// Each CPU's TLBs and walk caches, then its prices; at the end those of every CPU.
std::vector<CsvRow> cpu_rows() {
  std::vector<CsvRow> rows = {{"cpu", "description", "structure", "entries", "ways", "pages",
                               "sure", "cycles", "per", "source"}};
  const auto add = [&](const std::string& cpu, const std::string& description,
                       const std::vector<PriceRow>& prices) {
    for (const PriceRow& p : prices) {
      rows.push_back(
          {cpu, description, "price " + p.name, "", "", "", p.sure, p.cycles, p.per, p.source});
    }
  };
  for (const CpuModel& cpu : cpu_models()) {
    add_structures(rows, cpu);
    add(std::string(cpu.name), std::string(cpu.description), prices_of(cpu.name));
  }
  add(kEveryCpu, "prices of the cost model on every CPU", common_prices());
  return rows;
}

std::string cpus_for_people(const std::vector<CsvRow>& rows) {
  std::string text, last;
  std::vector<CsvRow> structures, prices;
  const auto flush = [&] {
    text += aligned(structures, 1) + aligned(prices, 5);
    structures.clear();
    prices.clear();
  };
  for (std::size_t i = 1; i < rows.size(); ++i) {
    const CsvRow& r = rows[i];
    if (r[0] != last) {
      flush();
      text += fmt::format("{}: {}\n", r[0], r[1]);
      last = r[0];
    }
    if (r[7].empty()) {
      structures.push_back({"  " + r[2], r[3] + " entries", r[4] + " ways", r[5], r[6]});
    } else {
      prices.push_back({"  " + r[2], r[7] + " cycles", r[8], r[6], r[9]});
    }
  }
  flush();
  return text +
         "How sure a line is: cpuid: read from the CPU's own CPUID leaves; text: in the full text "
         "of a\nmanual or article; abstract: in its abstract; secondary: in a text that quotes it; "
         "derived: by\narithmetic on figures read; memory: not verified; assumed: chosen for want "
         "of a figure.\n" +
         fmt::format("PVM paper: {}\n", kPvmPaper);
}

template <class Row>
void add_columns(std::vector<CsvRow>& rows, const char* file,
                 std::span<const Column<Row>> columns) {
  for (const Column<Row>& c : columns) {
    rows.push_back({file, std::string(c.name), std::string(name_of(c.kind)), std::string(c.unit),
                    std::string(c.meaning)});
  }
}

std::vector<CsvRow> column_rows() {
  std::vector<CsvRow> rows = {{"table", "name", "kind", "unit", "meaning"}};
  add_columns(rows, "suite.csv", suite_columns());
  add_columns(rows, "processes.csv", process_columns());
  add_columns(rows, "vcpus.csv", vcpu_columns());
  add_columns(rows, "series.csv", series_columns());
  for (const SummaryColumn& c : summary_columns()) {
    rows.push_back({"summary.csv", std::string(c.name), std::string(name_of(c.kind)),
                    std::string(c.unit), std::string(c.meaning)});
  }
  for (const ParamInfo& p : machine_params()) {
    rows.push_back(
        {"--set", std::string(p.name), "parameter", std::string(p.unit),
         fmt::format("{}; default {}, valid: {}", p.meaning, p.default_value, valid_values(p))});
  }
  return rows;
}

/// Grouped by the first field, the others aligned.
std::string grouped_for_people(const std::vector<CsvRow>& rows) {
  std::vector<CsvRow> shown;
  for (std::size_t i = 1; i < rows.size(); ++i) {
    if (rows[i][0] != rows[i - 1][0]) shown.push_back({rows[i][0]});
    CsvRow& row = shown.emplace_back(rows[i].begin() + 1, rows[i].end());
    row[0].insert(0, "  ");
  }
  return aligned(shown, rows[0].size());
}

std::vector<CsvRow> suite_rows() {
  std::vector<CsvRow> rows = {{"suite", "experiments", "description"}};
  for (const NamedSuite& s : named_suites()) {
    rows.push_back(
        {std::string(s.name), std::to_string(expand(s).cells.size()), std::string(s.description)});
  }
  return rows;
}

std::vector<CsvRow> cost_rows() {
  std::vector<CsvRow> rows = {{"part", "name", "cycles", "per", "sure", "source"}};
  const auto add = [&](const std::vector<PriceRow>& prices, const std::string& on) {
    for (const PriceRow& p : prices) {
      rows.push_back({p.part, p.name + on, p.cycles, p.per, p.sure, p.source});
    }
  };
  add(common_prices(), "");
  for (const CpuModel& cpu : cpu_models()) {
    add(prices_of(cpu.name), " on " + std::string(cpu.name));
  }
  return rows;
}

struct Catalogue {
  std::string_view name;
  std::vector<CsvRow> (*rows)();
  std::string (*for_people)(const std::vector<CsvRow>&);
};
constexpr std::array<Catalogue, 6> kCatalogues = {{
    {"pagers", pager_rows, keys_for_people},
    {"workloads", workload_rows, keys_for_people},
    {"cpus", cpu_rows, cpus_for_people},
    {"columns", column_rows, grouped_for_people},
    {"suites", suite_rows, [](const std::vector<CsvRow>& rows) { return aligned(rows, 3); }},
    {"costs", cost_rows,
     [](const std::vector<CsvRow>& rows) {
       return grouped_for_people(rows) + fmt::format("PVM paper: {}\n", kPvmPaper);
     }},
}};

}  // namespace

int list_command(const Args& args) {
  CommandLine line(kHelp);
  Args names_of_all;
  for (const Catalogue& c : kCatalogues) names_of_all.emplace_back(c.name);
  line.words("what", names_of_all).flag("csv", "as CSV, for machines");
  if (!line.parse(args)) return kDone;
  const Args words = line.texts("what");
  if (words.size() != 1) {
    throw InputError("one catalogue is needed; usage: mmuscope " + std::string(kHelp.usage));
  }
  std::vector<std::string_view> names;
  for (const Catalogue& c : kCatalogues) {
    if (c.name != words[0]) {
      names.push_back(c.name);
      continue;
    }
    const std::vector<CsvRow> rows = c.rows();
    if (!line.has("csv")) {
      fmt::print("{}", c.for_people(rows));
    } else {
      for (const CsvRow& row : rows) fmt::print("{}", csv_line(row));
    }
    return kDone;
  }
  throw InputError(unknown_word("catalogue", words[0], names));
}

}  // namespace mmuscope
