#include "results/report/report.h"

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/error.h"
#include "results/csv.h"
#include "results/experiment.h"
#include "results/published/published.h"
#include "tests/support/paths.h"

using namespace mmuscope;
namespace fs = std::filesystem;

namespace {

constexpr const char* kSuite =
    "name = page\n"
    "workload = fork:operations=20\nworkload = touch:memory=1m\n"
    "pager = native\npager = shadow\npager = shadow-unsync\npager = nested\n"
    "vcpus = 1,2\n";
constexpr const char* kTimed =
    "name = timed\n"
    "workload = fork:operations=3,processes=2\n"
    "pager = native\npager = shadow\npager = nested\n"
    "set = schedule=time\nset = lock=coarse\nset = lock=fine\n"
    "vcpus = 1,2\n";

/// Published rows as if the emulator had made these numbers of them: the first right, the last
/// wrong.
std::vector<Reproduced> some_published() {
  const auto rows = published_rows();
  std::vector<Reproduced> some = {{&rows.front(), {rows.front().low}}, {&rows.back(), {}}};
  for (std::size_t i = 0; i < rows.back().figures.size(); ++i) some.back().ours.push_back(1e6);
  return some;
}

/// A folder with the results of a small suite, removed at the end.
class Results {
 public:
  explicit Results(const char* text = kSuite)
      : folder_(fs::temp_directory_path() / fmt::format("mmuscope_report_{}", getpid())) {
    fs::create_directories(folder_);
    const std::string suite = (folder_ / "page.suite").string();
    write_file(suite, text);
    const std::string command = fmt::format("'{}/mmuscope' suite '{}' --out '{}' >/dev/null 2>&1",
                                            build_dir(), suite, folder_.string());
    REQUIRE(std::system(command.c_str()) == 0);
    write_file((folder_ / "published.csv").string(), published_csv(some_published()));
  }
  ~Results() { fs::remove_all(folder_); }
  const fs::path& folder() const { return folder_; }

 private:
  fs::path folder_;
};

u64 exits_of(const Narration& n) { return total_exits(n.counters); }

const LifeOfWrite& life(const std::vector<LifeOfWrite>& lives, const std::string& pager) {
  return *std::find_if(lives.begin(), lives.end(), [&](auto& l) { return l.pager == pager; });
}

/// Run in the page once it is ready: uses it as a reader does, and leaves what it saw in #seen.
constexpr const char* kReader = R"js(<script>
(() => {
  const $ = id => document.getElementById(id), seen = {};
  const sums = id => {
    const by = {};
    for (const r of document.querySelectorAll(`#${id} rect[data-value]`))
      by[r.dataset.label] = (by[r.dataset.label] || 0) + Number(r.dataset.value);
    return by;
  };
  const rows = () => document.querySelectorAll('#numbers tbody tr').length;
  const refs = () => document.querySelector('#walk-panels .nested .refs').textContent;
  const choose = (id, value) => { $(id).value = value; $(id).dispatchEvent(new Event('change')); };
  seen.ready = document.body.dataset.ready;
  seen.requests = performance.getEntriesByType('resource').length;
  seen.exits = sums('exits');
  seen.cycles = sums('cycles');
  seen.csv = document.querySelector('#exits .csv').dataset.csv;
  seen.canvases = document.querySelectorAll('#sync canvas').length;
  seen.verdict = document.querySelectorAll('#verdict li').length;
  seen.verdict_names = ['native', 'shadow', 'shadow-unsync', 'nested'].filter(p => new RegExp(p + '[ ,.]').test($('verdict').textContent));
  choose('setting', '2 vCPUs');
  seen.vcpus = document.querySelector('#vcpus .csv').dataset.csv;
  choose('vcpu-column', 'exits');
  seen.vcpu_exits = document.querySelector('#vcpus .csv').dataset.csv;
  choose('setting', '1 vCPU');
  seen.rows = rows();
  document.querySelector('#pagers input[value="shadow"]').click();
  seen.filtered_rows = rows();
  seen.filtered = Object.keys(sums('cycles'));
  document.querySelector('[data-sort="exits"]').click();
  const column = [...document.querySelectorAll('#numbers thead th')].findIndex(h => h.textContent.startsWith('exits'));
  seen.sorted = [...document.querySelectorAll('#numbers tbody tr')].map(r => Number(r.children[column].textContent.replaceAll(',', '')));
  seen.aria_sort = document.querySelectorAll('#numbers thead th')[column].getAttribute('aria-sort');
  seen.refs = refs();
  // The TLB, the walk, then five entries.
  for (let i = 0; i < 6; ++i) $('walk-next').click();
  seen.five_read = document.querySelectorAll('#walk-panels .nested td.read').length;
  seen.marked = document.querySelector('#walk-panels .nested td.now').dataset.cell;
  $('walk-last').click();
  seen.cells = [...document.querySelectorAll('#walk-panels .nested td.read')].map(c => Number(c.textContent));
  seen.shadow_cells = document.querySelectorAll('#walk-panels .shadow td.read').length;
  choose('walk-caches', '1d');
  choose('walk-before', 'near');
  seen.refs_near = refs();
  choose('walk-caches', 'off');
  choose('walk-kind', 'store');
  choose('walk-second', 'npt-4');
  choose('walk-before', 'read');
  seen.npt = document.querySelector('#walk-panels .nested thead').textContent;
  seen.flags_set = document.querySelector('#walk-panels .nested .told').textContent.includes('sets D in the guest PTE');
  seen.life = [...document.querySelectorAll('#life-panels section')].map(s => s.querySelectorAll('.badge.exit').length);
  $('life-next').click();
  seen.life_next = $('life-count').textContent;
  seen.published = [...document.querySelectorAll('#published tbody tr')].map(r => r.querySelector('[data-column=verdict]').firstChild.textContent);
  seen.published_words = $('published-words').textContent;
  seen.published_shown = !$('published').hidden && !$('published-link').hidden;
  seen.published_headed = [...document.querySelectorAll('#published table')].every(t => t.caption && t.querySelectorAll('thead th[scope=col]').length === 9 && t.querySelectorAll('tbody th[scope=row]').length === t.tBodies[0].rows.length);
  const unnamed = [...document.querySelectorAll('button, select, input')].filter(e => !(e.textContent.trim() || e.labels && e.labels.length));
  seen.unnamed = unnamed.length;
  const out = document.createElement('pre');
  out.id = 'seen';
  out.textContent = '@@' + JSON.stringify(seen) + '@@';
  document.body.append(out);
})();
</script></body>)js";

/// The same for the plot over vCPUs.
constexpr const char* kElapsedReader = R"js(<script>
(() => {
  const seen = {};
  seen.workloads = [...document.querySelectorAll('#workload option')].map(o => o.value);
  seen.elapsed = document.querySelector('#elapsed .csv').dataset.csv;
  seen.canvases = document.querySelectorAll('#elapsed canvas').length;
  const out = document.createElement('pre');
  out.id = 'seen';
  out.textContent = '@@' + JSON.stringify(seen) + '@@';
  document.body.append(out);
})();
</script></body>)js";

struct Browsed {
  nlohmann::json seen;
  std::string messages;  ///< what the page wrote to the console
};

bool has_chromium() { return std::system("command -v chromium >/dev/null 2>&1") == 0; }

Browsed browse(const Results& results, const char* reader = kReader) {
  std::string page = report_page(results.folder());
  const std::size_t end = page.rfind("</body>");
  page.replace(end, std::string("</body>").size(), reader);
  const std::string path = (results.folder() / "driven.html").string();
  write_file(path, page);
  const std::string command = fmt::format(
      "chromium --headless --no-sandbox --disable-gpu --user-data-dir='{0}/profile' "
      "--host-resolver-rules='MAP * ~NOTFOUND' --enable-logging=stderr --v=0 "
      "--virtual-time-budget=5000 --dump-dom 'file://{1}' >'{0}/dom' 2>'{0}/log'",
      results.folder().string(), path);
  REQUIRE(std::system(command.c_str()) == 0);
  const std::string dom = read_file(results.folder() / "dom", 1 << 26);
  const std::string log = read_file(results.folder() / "log", 1 << 26);
  Browsed browsed;
  for (std::size_t at = log.find("CONSOLE"); at != std::string::npos;
       at = log.find("CONSOLE", at + 1)) {
    browsed.messages += log.substr(at, log.find('\n', at) - at) + "\n";
  }
  const std::size_t from = dom.rfind("<pre id=\"seen\">@@");
  REQUIRE_MESSAGE(from != std::string::npos, browsed.messages);
  const std::size_t begin = from + 17;
  browsed.seen = nlohmann::json::parse(dom.substr(begin, dom.find("@@", begin) - begin));
  return browsed;
}

/// A column of the first guest's rows, by pager.
std::map<std::string, u64> of_first_guest(const Results& results, const std::string& column,
                                          const std::string& vcpus = "1") {
  const auto rows = parse_csv(read_file(results.folder() / "suite.csv", 1 << 26), "suite.csv");
  const auto at = [&](const std::string& name) {
    return static_cast<std::size_t>(std::find(rows[0].begin(), rows[0].end(), name) -
                                    rows[0].begin());
  };
  std::map<std::string, u64> values;
  for (std::size_t i = 1; i < rows.size(); ++i) {
    if (rows[i][at("workload")] == rows[1][at("workload")] && rows[i][at("vcpus")] == vcpus) {
      if (const u64 v = std::stoull(rows[i][at(column)]); v != 0) values[rows[i][at("pager")]] = v;
    }
  }
  return values;
}

}  // namespace

TEST_CASE("report: what a store to a page-table entry costs under each pager") {
  const std::vector<LifeOfWrite> lives = lives_of_a_write();
  REQUIRE(lives.size() == 4);
  for (const LifeOfWrite& l : lives) {
    for (const Narration& n : l.ops) {
      CHECK(n.narrated() == n.counters);
      CHECK((!n.ended || n.ended->done));
    }
    CHECK(l.ops[2].ended->value == 42);  // what the new frame holds
  }
  // The store itself: nothing leaves the guest but where tables are write-protected.
  CHECK(exits_of(life(lives, "native").ops[0]) == 0);
  CHECK(exits_of(life(lives, "nested").ops[0]) == 0);
  CHECK(life(lives, "shadow").ops[0].counters[Event::MmuPteWrite] == 1);
  CHECK(life(lives, "shadow").ops[3].counters[Event::MmuPteWrite] == 1);
  // KVM's way: the first store takes the table out of sync, later ones are free until a MOV to CR3
  // has synchronised it.
  const LifeOfWrite& unsync = life(lives, "shadow-unsync");
  CHECK(unsync.ops[0].counters[Event::MmuPteWrite] == 0);
  CHECK(exits_of(unsync.ops[0]) == 1);
  CHECK(exits_of(unsync.ops[3]) == 0);
  CHECK(exits_of(unsync.ops[6]) == 1);
}

TEST_CASE("report: one page that holds the results and refers to nothing") {
  const Results results;
  CHECK(write_report(results.folder()) == results.folder() / "report.html");
  const std::string page = read_file(results.folder() / "report.html", 1 << 26);
  CHECK(page.find("default-src 'none'") != std::string::npos);
  for (const char* outside : {" src=", "@import", "url(http", "href=\"http", "/*{"}) {
    CAPTURE(outside);
    CHECK(page.find(outside) == std::string::npos);
  }
  CHECK(page == report_page(results.folder()));
  const std::size_t from = page.find("id=\"data\">") + 10;
  const auto data = nlohmann::json::parse(page.substr(from, page.find("</script>", from) - from));
  CHECK(data.at("suite") == read_file(results.folder() / "suite.csv", 1 << 26));
  CHECK(data.at("published") == read_file(results.folder() / "published.csv", 1 << 26));
  const auto& walks = data.at("walks");
  const auto run = [&](const char* setting) {
    return walks.at("runs").at(walks.at("of").at(setting).get<std::size_t>());
  };
  CHECK(run("load/nested/4/ept-4/4k/4k/off/cold").at("references") == 24);
  CHECK(run("load/nested/5/ept-5/4k/4k/off/cold").at("references") == 35);
  // The first store to a clean page: the flag costs a shadow pager an exit, the others none.
  CHECK(run("store/native/4/-/4k/4k/off/read").at("exits") == 0);
  CHECK(run("store/shadow/4/-/4k/4k/off/read").at("exits") == 1);
  CHECK(run("store/nested/4/npt-4/4k/4k/off/read").at("exits") == 0);
  // What is told stands once, whatever tells it.
  const nlohmann::json cold = run("load/nested/4/ept-4/4k/4k/off/cold").at("told");
  u64 entries = 0;
  for (const auto& t : cold)
    entries += walks.at("told").at(t.get<std::size_t>()).at("kind") == "entry";
  CHECK(entries == 24);
  CHECK(page.size() < 700'000);
}

TEST_CASE("report: a folder without results is bad input, and so is a broken file") {
  const fs::path folder = fs::temp_directory_path() / fmt::format("mmuscope_none_{}", getpid());
  fs::create_directories(folder);
  CHECK_THROWS_AS(report_page(folder), InputError);
  write_file((folder / "suite.csv").string(), "a,b\n1,2\n");
  CHECK_THROWS_AS(report_page(folder), InputError);
  write_file((folder / "suite.csv").string(),
             "workload,pager,vcpus,status,exits,cycles_total\nfork,native\n");
  CHECK_THROWS_AS(report_page(folder), InputError);
  write_file((folder / "suite.csv").string(), "workload,pager,vcpus,status,exits,cycles_total\n");
  CHECK_NOTHROW(report_page(folder));
  write_file((folder / "published.csv").string(), "a,b\n1,2\n");
  CHECK_THROWS_AS(report_page(folder), InputError);
  fs::remove_all(folder);
}

TEST_CASE("slow: report: the page in Chromium shows the CSV's numbers and answers clicks") {
  if (!has_chromium()) {
    MESSAGE("skipped: no chromium on this machine (Debian: chromium, fonts-dejavu-core)");
    return;
  }
  const Results results;
  const Browsed browsed = browse(results);
  const nlohmann::json& seen = browsed.seen;
  CHECK(browsed.messages == "");
  CHECK(seen.at("ready") == "yes");
  CHECK(seen.at("requests") == 0);
  const std::map<std::string, u64> exits = seen.at("exits"), cycles = seen.at("cycles");
  CHECK(exits == of_first_guest(results, "exits"));
  CHECK(cycles == of_first_guest(results, "cycles_total"));
  CHECK(seen.at("canvases") == 1);
  CHECK(seen.at("verdict") >= 3);
  CHECK(seen.at("rows") == 8);
  CHECK(seen.at("filtered_rows") == 6);
  CHECK(seen.at("filtered") == std::vector<std::string>{"native", "shadow-unsync", "nested"});
  const std::vector<u64> sorted = seen.at("sorted");
  CHECK(std::is_sorted(sorted.rbegin(), sorted.rend()));
  CHECK(sorted.front() > 0);
  CHECK(seen.at("aria_sort") == "descending");
  CHECK(seen.at("refs") == "24 entries read");
  CHECK(seen.at("five_read") == 5);
  CHECK(seen.at("marked") == "4,0");
  std::vector<u64> order(24);
  std::iota(order.begin(), order.end(), 1);
  CHECK(seen.at("cells") == order);
  CHECK(seen.at("shadow_cells") == 4);
  CHECK(seen.at("refs_near") == "5 entries read");
  CHECK(seen.at("npt") == "NPT PML4ENPT PDPTENPT PDENPT PTEguest entry");
  CHECK(seen.at("flags_set") == true);
  CHECK(seen.at("verdict_names").size() == 4);
  for (const char* chart : {"vcpus", "vcpu_exits"}) {
    const auto lines = parse_csv(seen.at(chart).get<std::string>(), chart);
    CHECK(lines.at(0) == CsvRow{"vCPU", "native", "shadow", "shadow-unsync", "nested"});
    REQUIRE(lines.size() == 3);
    const std::string column = chart == std::string("vcpus") ? "cycles_total" : "exits";
    CHECK(std::stoull(lines[1][2]) + std::stoull(lines[2][2]) ==
          of_first_guest(results, column, "2").at("shadow"));
  }
  CHECK(seen.at("life") == std::vector<int>{0, 1, 1, 0});
  CHECK(seen.at("life_next") == "step 2 of 7");
  CHECK(seen.at("published") == std::vector<std::string>{"✓ exact", "✗ false"});
  CHECK(seen.at("published_words").get<std::string>().find("1 of 2 tests hold") !=
        std::string::npos);
  CHECK(seen.at("published_shown") == true);
  CHECK(seen.at("published_headed") == true);
  CHECK(seen.at("unnamed") == 0);
}

TEST_CASE("slow: report: a line over vCPUs for each pager and lock where each has as much to do") {
  if (!has_chromium()) {
    MESSAGE("skipped: no chromium on this machine (Debian: chromium, fonts-dejavu-core)");
    return;
  }
  const Results results(kTimed);
  const std::string path = (results.folder() / "suite.csv").string();
  auto rows = parse_csv(read_file(path, 1 << 26), path);
  const auto at = [&](const char* name) {
    return static_cast<std::size_t>(std::find(rows[0].begin(), rows[0].end(), name) -
                                    rows[0].begin());
  };
  std::map<std::string, double> elapsed;
  std::string text;
  for (CsvRow& row : rows) {
    std::string& params = row[at("workload_params")];
    if (row[at("vcpus")] == "1") params.replace(params.find("processes=2"), 11, "processes=1");
    if (row[at("vcpus")] == "2") {
      const std::string& machine = row[at("machine_params")];
      const char* lock = machine.find("lock=fine") != std::string::npos ? "fine" : "coarse";
      elapsed[row[at("pager")] + lock] = std::stod(row[at("cycles_elapsed")]);
    }
    text += csv_line(row);
  }
  write_file(path, text);
  const Browsed browsed = browse(results, kElapsedReader);
  CHECK(browsed.messages == "");
  CHECK(browsed.seen.at("workloads") == std::vector<std::string>{"fork"});
  CHECK(browsed.seen.at("canvases") == 1);
  const auto lines = parse_csv(browsed.seen.at("elapsed").get<std::string>(), "elapsed");
  CHECK(lines.at(0) == CsvRow{"vCPUs", "shadow, lock=coarse", "nested, lock=coarse",
                              "shadow, lock=fine", "nested, lock=fine"});
  REQUIRE(lines.size() == 3);
  CHECK(lines[2][0] == "2");
  CHECK(std::stod(lines[2][1]) == doctest::Approx(elapsed["shadowcoarse"] / elapsed["nativefine"]));
  CHECK(std::stod(lines[2][4]) == doctest::Approx(elapsed["nestedfine"] / elapsed["nativefine"]));
}
