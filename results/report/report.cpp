#include "results/report/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "results/catalog.h"
#include "results/columns.h"
#include "results/csv.h"
#include "results/report/assets.h"
#include "results/version.h"

namespace mmuscope {
namespace {

using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

constexpr std::size_t kMaxFile = std::size_t{256} << 20;

// --- the walk explorer ---------------------------------------------------------------------------

constexpr Gva kVa{0x40'0000'0000};
constexpr std::string_view kSizes[] = {"4k", "2m", "1g"};
constexpr std::string_view kCaches[] = {"off", "1d", "2d", "2d+ntlb"};
constexpr Before kBefores[] = {Before::Nothing, Before::Cold, Before::Flushed, Before::Near};
constexpr std::string_view kSeconds[] = {"ept-4", "ept-5", "npt-4"};

/// One setting of the explorer.
struct Setting {
  AccessKind kind;
  std::string_view pager;
  unsigned guest_levels;
  std::string_view second;  ///< format and levels of the second dimension; "-": there is none
  unsigned guest_page, host_page, caches;
  Before before;
};

std::string key(const Setting& s) {
  return fmt::format("{}/{}/{}/{}/{}/{}/{}/{}", s.kind == AccessKind::Read ? "load" : "store",
                     s.pager, s.guest_levels, s.second, kSizes[s.guest_page], kSizes[s.host_page],
                     kCaches[s.caches], kBeforeNames[static_cast<unsigned>(s.before)]);
}

Narration walk_of(const Setting& s) {
  MachineConfig config;
  config.guest_levels = static_cast<u8>(s.guest_levels);
  config.backing = static_cast<PageSize>(s.host_page);
  config.walk_caches = static_cast<WalkCaches>(s.caches);
  std::string pager(s.pager);
  if (s.second != "-") {
    pager += fmt::format(":format={},levels={}", s.second.substr(0, 3), s.second.substr(4));
  }
  const LoneAccess access{
      kVa, {s.kind, Privilege::User}, static_cast<PageSize>(s.guest_page), s.before};
  return narrate_access(access, pager, config);
}

/// Narrations with what many of them tell alike held once: `told` has each thing told, `runs` the
/// different narrations by places in it, `of` the place in `runs` by setting.
class Walks {
 public:
  void add(const Setting& s) {
    const Narration n = walk_of(s);
    const Json whole = Json::parse(narration_json(n));
    Json told = Json::array();
    for (const Json& t : whole["told"]) told.push_back(place(told_, t));
    of_[key(s)] = place(runs_, {{"told", told},
                                {"guest_levels", n.guest_levels},
                                {"references", n.references()},
                                {"exits", total_exits(n.counters)},
                                {"cycles", whole["cycles"]["total"]}});
  }
  Json json() const { return {{"told", told_.all}, {"runs", runs_.all}, {"of", of_}}; }

 private:
  struct Distinct {
    Json all = Json::array();
    std::map<std::string, std::size_t> at;
  };
  static std::size_t place(Distinct& among, const Json& j) {
    const auto [at, is_new] = among.at.emplace(j.dump(), among.all.size());
    if (is_new) among.all.push_back(j);
    return at->second;
  }

  Distinct told_, runs_;
  Json of_ = Json::object();
};

/// The settings whose walks differ under pagers of each kind: paging in one dimension has one kind
/// of walk cache, a machine without virtualization no host pages, and what a first touch does
/// depends on no cache of the second dimension.
void add_walks(Walks& walks, Setting s) {
  for (s.caches = 0; s.caches < std::size(kCaches); ++s.caches) {
    const bool both_dimensions = s.caches > 1;
    s.second = "-";
    s.host_page = 0;
    s.pager = "native";
    if (!both_dimensions) walks.add(s);
    for (; s.host_page < kPageSizes; ++s.host_page) {
      s.pager = "shadow";
      s.second = "-";
      if (!both_dimensions) walks.add(s);
      if (both_dimensions && s.before == Before::Nothing) continue;
      s.pager = "nested";
      for (const std::string_view second : kSeconds) {
        s.second = second;
        walks.add(s);
      }
    }
  }
}

Json all_walks() {
  Walks walks;
  for (const AccessKind kind : {AccessKind::Read, AccessKind::Write}) {
    std::vector<Before> befores(std::begin(kBefores), std::end(kBefores));
    // What a load does after a load, Cold says.
    if (kind == AccessKind::Write) befores.push_back(Before::Read);
    for (const Before before : befores) {
      for (const unsigned levels : {4u, 5u}) {
        for (unsigned page = 0; page < kPageSizes; ++page) {
          add_walks(walks, {kind, "", levels, "-", page, 0, 0, before});
        }
      }
    }
  }
  return walks.json();
}

// --- the life of a PTE write ---------------------------------------------------------------------

constexpr u64 kRights = x86::kPresent | x86::kWrite | x86::kUser | x86::kAccessed | x86::kDirty;
constexpr u64 kRoot = 0x1'0000, kPage = 0x40'0000'0000, kWindow = 0xc0'0000'0000;
constexpr u64 kLeafTable = 0x2'0000, kOldFrame = 0x30'0000, kNewFrame = 0x31'0000;
constexpr u64 kNewContent = 42;

/// A page at kPage whose table the guest also sees, as a page at kWindow.
Scenario guest_with_a_window() {
  Scenario s;
  s.name = "life of a PTE write";
  s.cr3 = kRoot;
  u64 next = kRoot;
  const auto chain = [&](u64 va, u64 table, u64 last, u64 leaf) {
    for (unsigned level = 4; level > 1; --level) {
      const u64 below = level == 2 ? last : (next += kPageBytes);
      s.memory.push_back({table + 8 * table_index(Gva(va), level), below | kRights, 1, 0});
      table = below;
    }
    s.memory.push_back({table + 8 * table_index(Gva(va), 1), leaf | kRights, 1, 0});
  };
  s.memory.push_back({kNewFrame, kNewContent, 1, 0});
  chain(kPage, kRoot, kLeafTable, kOldFrame);
  chain(kWindow, kRoot, kLeafTable + kPageBytes, kLeafTable);
  return s;
}

ScenarioOp access(AccessKind kind, u64 va, u64 value = 0) {
  return access_op(0, {kind, Privilege::User}, va, value);
}

ScenarioOp instruction(ScenarioOp::Kind kind, u64 operand) {
  return other_op(kind, 0, operand, operand);
}

LifeOfWrite life_under(const PagerInfo& pager) {
  const u64 entry = kWindow + 8 * table_index(Gva(kPage), 1);
  const std::pair<const char*, ScenarioOp> ops[] = {
      {"the guest stores a new frame in the entry",
       access(AccessKind::Write, entry, kNewFrame | kRights)},
      {"it invalidates the page, as it must", instruction(ScenarioOp::Kind::Invlpg, kPage)},
      {"it reads the page, in its new frame", access(AccessKind::Read, kPage)},
      {"it stores to the entry after it, not present till now",
       access(AccessKind::Write, entry + 8, kOldFrame | kRights)},
      {"it reads that page", access(AccessKind::Read, kPage + kPageBytes)},
      {"it switches address space and back: MOV to CR3", instruction(ScenarioOp::Kind::Cr3, kRoot)},
      {"it stores to the entry once more", access(AccessKind::Write, entry, kOldFrame | kRights)},
  };
  MachineConfig config;
  config.virtualized = pager.virtualized;
  ScenarioMachine run(guest_with_a_window(), config,
                      [&](Machine& m) { return pager.make(m, Params("pager", pager.params())); });
  for (int i = 0; i < 2; ++i) {
    run.run(access(AccessKind::Write, kPage));
    run.run(access(AccessKind::Read, entry));
  }
  // KVM's way lets the table out of step as soon as the guest sees it, until the next MOV to CR3.
  run.run(instruction(ScenarioOp::Kind::Cr3, kRoot));
  LifeOfWrite life{std::string(pager.name), {}, {}};
  for (const auto& [title, op] : ops) {
    life.titles.push_back(title);
    life.ops.push_back(narrate(run, op, life.pager));
  }
  return life;
}

Json lives_json() {
  Json all = Json::array();
  for (const LifeOfWrite& life : lives_of_a_write()) {
    Json steps = Json::array();
    for (std::size_t i = 0; i < life.ops.size(); ++i) {
      Json step = Json::parse(narration_json(life.ops[i]));
      step["title"] = life.titles[i];
      steps.push_back(std::move(step));
    }
    all.push_back({{"pager", life.pager}, {"steps", steps}});
  }
  return all;
}

// --- the suite -----------------------------------------------------------------------------------

/// Of a file beside suite.csv the columns that the page draws, in this order; nothing if there is
/// no file, and without those that it lacks.
std::string some_columns(const fs::path& file, std::initializer_list<const char*> names) {
  if (!fs::exists(file)) return "";
  const std::vector<CsvRow> rows = parse_csv(read_file(file, kMaxFile), file.string());
  if (rows.empty()) return "";
  std::vector<std::size_t> places;
  for (const char* name : names) {
    const auto at = std::find(rows[0].begin(), rows[0].end(), name);
    if (at != rows[0].end()) places.push_back(static_cast<std::size_t>(at - rows[0].begin()));
  }
  std::string text;
  for (const CsvRow& row : rows) {
    CsvRow some;
    for (const std::size_t at : places) some.push_back(at < row.size() ? row[at] : "");
    text += csv_line(some);
  }
  return text;
}

Json dictionary() {
  Json all = Json::array();
  for (const Column<SuiteRow>& c : suite_columns()) {
    all.push_back({{"name", c.name},
                   {"kind", name_of(c.kind)},
                   {"unit", c.unit},
                   {"group", c.group},
                   {"meaning", c.meaning}});
  }
  return all;
}

std::string checked_suite(const fs::path& file) {
  if (!fs::exists(file)) {
    throw InputError(file.string() + ": no such file; report takes the folder that a suite wrote");
  }
  std::string text = read_file(file, kMaxFile);
  const std::vector<CsvRow> rows = parse_csv(text, file.string());
  for (const char* name : {"workload", "pager", "vcpus", "status", "exits", "cycles_total"}) {
    if (rows.empty() || std::find(rows[0].begin(), rows[0].end(), name) == rows[0].end()) {
      throw InputError(fmt::format("{}: line 1: no column {}; it must be the suite.csv of a suite",
                                   file.string(), name));
    }
  }
  for (std::size_t i = 1; i < rows.size(); ++i) {
    if (rows[i].size() != rows[0].size()) {
      throw InputError(fmt::format("{}: record {}: {} fields, not {}", file.string(), i,
                                   rows[i].size(), rows[0].size()));
    }
  }
  return text;
}

/// What `published` wrote, if it did.
std::string published_of(const fs::path& file) {
  if (!fs::exists(file)) return "";
  std::string text = read_file(file, kMaxFile);
  const std::vector<CsvRow> rows = parse_csv(text, file.string());
  for (const char* name : {"section", "row", "published", "ours", "verdict", "calibration"}) {
    if (rows.empty() || std::find(rows[0].begin(), rows[0].end(), name) == rows[0].end()) {
      throw InputError(
          fmt::format("{}: line 1: no column {}; it must be what `published --csv` "
                      "wrote",
                      file.string(), name));
    }
  }
  return text;
}

/// As the content of a script element: nothing in it may end the element or begin a comment.
std::string in_script(std::string json) {
  std::string safe;
  safe.reserve(json.size());
  for (const char c : json) safe += c == '<' ? std::string("\\u003c") : std::string(1, c);
  return safe;
}

void put(std::string& page, std::string_view mark, std::string_view text) {
  const std::size_t at = page.find(mark);
  assert(at != std::string::npos && "the page lost a mark");
  page.replace(at, mark.size(), text);
}

}  // namespace

std::vector<LifeOfWrite> lives_of_a_write() {
  std::vector<LifeOfWrite> lives;
  for (const PagerInfo& pager : pager_catalog()) lives.push_back(life_under(pager));
  return lives;
}

std::string report_page(const fs::path& folder) {
  Json data;
  data["version"] = version();
  data["suite"] = checked_suite(folder / "suite.csv");
  data["processes"] = some_columns(folder / "processes.csv", {"cell", "pid", "name", "exits",
                                                              "guest_table_bytes", "pager_bytes"});
  data["vcpus"] = some_columns(folder / "vcpus.csv",
                               {"cell", "vm", "vcpu", "cycles_total", "exits", "ipis_sent",
                                "ipis_received", "lock_wait_cycles", "flush_wait_cycles"});
  data["published"] = published_of(folder / "published.csv");
  data["columns"] = dictionary();
  data["walks"] = all_walks();
  data["lives"] = lives_json();
  std::string page(kPageHtml);
  put(page, "/*{uplot.css}*/", kUplotCss);
  put(page, "/*{page.css}*/", kPageCss);
  // The data last: what it holds is not searched for marks.
  put(page, "/*{uplot.js}*/", kUplotJs);
  put(page, "/*{page.js}*/", kPageJs);
  put(page, "/*{data}*/", in_script(data.dump(-1, ' ', false, Json::error_handler_t::replace)));
  return page;
}

fs::path write_report(const fs::path& folder) {
  const fs::path path = folder / "report.html";
  write_file(path.string(), report_page(folder));
  return path;
}

}  // namespace mmuscope
