#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <utility>

#include "core/walk_listener.h"
#include "results/narration.h"
#include "results/published/published.h"
#include "results/suite/engine.h"

namespace mmuscope {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> split(std::string_view text, char at) {
  std::vector<std::string> parts;
  while (!text.empty()) {
    const auto end = text.find(at);
    parts.emplace_back(text.substr(0, end));
    text = end == text.npos ? "" : text.substr(end + 1);
  }
  return parts;
}

/// Settings of the machine, where later keys win over earlier ones.
std::vector<std::string> merged(std::initializer_list<std::string_view> lists) {
  std::vector<std::string> all;
  for (const std::string_view list : lists) {
    for (std::string& item : split(list, ',')) {
      const std::string key = item.substr(0, item.find('=') + 1);
      all.erase(std::remove_if(all.begin(), all.end(),
                               [&](const std::string& old) { return old.rfind(key, 0) == 0; }),
                all.end());
      all.push_back(std::move(item));
    }
  }
  return all;
}

double of_lone_access(const Quantity& q) {
  const Load& load = q.load;
  const std::string_view page = load.workload.substr(load.workload.find('=') + 1);
  LoneAccess access;
  access.va = Gva{0x40'0000'0000};
  access.access = {AccessKind::Read, Privilege::User};
  access.guest_page = page == "4k" ? PageSize::k4K : page == "2m" ? PageSize::k2M : PageSize::k1G;
  const Narration n = narrate_access(access, std::string(q.pager),
                                     parse_machine(std::string(load.cpu), merged({load.settings})));
  if (q.column == "table_refs") return static_cast<double>(n.references());
  return static_cast<double>(std::count_if(n.told.begin(), n.told.end(), [](const Told& t) {
    const bool second = t.entry.table == TableKind::Ept || t.entry.table == TableKind::Npt;
    return t.kind == Told::Kind::Entry && second && !t.entry.final;
  }));
}

/// The runs that rows need, each once, and what they gave.
class Runs {
 public:
  explicit Runs(const Measuring& how) : how_(how), prices_("prices=" + how.prices) {}

  void add(const Quantity& q) {
    if (q.pager.empty() || is_lone(q.load)) return;
    if (q.load.few != 0) (void)index(q, q.load.few);
    (void)index(q, q.load.many);
  }

  /// False: it was stopped.
  bool run() {
    SuiteOptions options;
    options.out = fs::temp_directory_path() / fmt::format("mmuscope_published_{}", getpid());
    options.jobs = how_.jobs;
    options.stop = how_.stop;
    options.progress = how_.progress;
    SuiteOutcome outcome = run_suite(suite_, options);
    fs::remove_all(options.out);
    cells_ = std::move(outcome.cells);
    return !outcome.interrupted;
  }

  std::optional<double> value(const Quantity& q) {
    if (is_lone(q.load)) return of_lone_access(q);
    const auto all = of_run(q, q.load.many);
    if (q.load.few == 0 || !all) return all;
    const auto less = of_run(q, q.load.few);
    if (!less) return std::nullopt;
    return *all - *less;
  }

 private:
  Experiment experiment_of(const Quantity& q, u64 operations) const {
    ExperimentText text;
    text.workload = q.load.workload;
    if (const auto at = text.workload.find("OPS"); at != std::string::npos) {
      text.workload.replace(at, 3, std::to_string(operations));
    }
    text.pager = q.pager;
    text.cpu = q.load.cpu;
    text.vcpus = q.load.vcpus;
    text.set = merged({kSettings, prices_, q.load.settings});
    return parse_experiment(text);
  }
  std::size_t index(const Quantity& q, u64 operations) {
    Experiment e = experiment_of(q, operations);
    const auto [at, is_new] = places_.emplace(identity(e), suite_.cells.size());
    if (is_new) suite_.cells.push_back(std::move(e));
    return at->second;
  }
  std::optional<double> of_run(const Quantity& q, u64 operations) {
    const CsvRow& row = cells_.at(index(q, operations)).suite;
    double sum = 0;
    for (const std::string& column : split(q.column, '+')) {
      const std::string& text = row.at(suite_column(column));
      if (text.empty()) return std::nullopt;
      sum += std::strtod(text.c_str(), nullptr);
    }
    return sum;
  }

  const Measuring& how_;
  const std::string prices_;
  Suite suite_{"published", {}, ""};
  std::map<std::string, std::size_t> places_;
  std::vector<CellText> cells_;
};

std::optional<double> value_of(const Figure& f, Runs& runs) {
  const auto of = runs.value(f.of);
  if (!of || is_lone(f.of.load)) return of;
  const Load& load = f.of.load;
  if (f.over.pager.empty()) return *of / static_cast<double>(load.many - load.few);
  const auto over = runs.value(f.over);
  if (!over || *over == 0) return std::nullopt;
  return *of / *over;
}

bool within(const PublishedRow& row, double ours) {
  return ours >= row.low / row.tolerance && ours <= row.high * row.tolerance;
}

}  // namespace

bool is_lone(const Load& load) {
  return load.workload.substr(0, kLoneAccess.size()) == kLoneAccess;
}

bool Reproduced::complete() const {
  return std::all_of(ours.begin(), ours.end(), [](const auto& v) { return v.has_value(); });
}

bool Reproduced::holds() const {
  if (!complete()) return false;
  const auto hits =
      std::count_if(ours.begin(), ours.end(), [&](const auto& v) { return within(*row, *v); });
  const auto count = static_cast<std::ptrdiff_t>(ours.size());
  // True if every figure is `step` times the one before, or more.
  const auto steps = [&](bool up) {
    for (std::size_t i = 1; i < ours.size(); ++i) {
      const double ratio = up ? *ours[i] / *ours[i - 1] : *ours[i - 1] / *ours[i];
      if (ratio < row->tolerance) return false;
    }
    return true;
  };
  switch (row->judge) {
    case Judge::Near:
      return hits == count;
    case Judge::Most:
      return 2 * hits > count;
    case Judge::Rising:
      return steps(true);
    case Judge::Falling:
      return steps(false);
    case Judge::Halving:
      return std::abs(*ours.back() - 1) <= std::abs(*ours.front() - 1) / 2;
  }
  return false;
}

double Reproduced::off_by() const {
  const double value = *ours.front();
  return value < row->low ? value / row->low : value > row->high ? value / row->high : 1;
}

std::optional<std::vector<std::optional<double>>> measure(std::span<const Figure> figures,
                                                          const Measuring& how) {
  Runs runs(how);
  for (const Figure& f : figures) {
    runs.add(f.of);
    runs.add(f.over);
  }
  if (!runs.run()) return std::nullopt;
  std::vector<std::optional<double>> values;
  for (const Figure& f : figures) values.push_back(value_of(f, runs));
  return values;
}

std::optional<std::vector<Reproduced>> reproduce(std::span<const PublishedRow> rows,
                                                 const Measuring& how) {
  std::vector<Figure> figures;
  for (const PublishedRow& row : rows) {
    figures.insert(figures.end(), row.figures.begin(), row.figures.end());
  }
  const auto values = measure(figures, how);
  if (!values) return std::nullopt;
  std::vector<Reproduced> all;
  auto next = values->begin();
  for (const PublishedRow& row : rows) {
    const auto end = next + static_cast<std::ptrdiff_t>(row.figures.size());
    all.push_back({&row, {next, end}});
    next = end;
  }
  return all;
}

}  // namespace mmuscope
