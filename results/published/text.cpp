#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>

#include "results/csv.h"
#include "results/published/published.h"
#include "results/tables.h"

namespace mmuscope {
namespace {

std::string number(double value) {
  return value < 1000 ? fmt::format("{:.3g}", value) : thousands(static_cast<u64>(value + 0.5));
}

/// What all figures have in common, or every different one, "; " between them.
template <class Get>
std::string each(const PublishedRow& row, Get get) {
  std::vector<std::string> seen;
  for (const Figure& f : row.figures) {
    std::string text = get(f);
    if (std::find(seen.begin(), seen.end(), text) == seen.end()) seen.push_back(std::move(text));
  }
  return fmt::format("{}", fmt::join(seen, "; "));
}

/// With the number of operations in place; what stands after "less" is taken away again.
std::string workload_text(const Load& load) {
  std::string text(load.workload);
  const auto at = text.find("OPS");
  if (at == std::string::npos) return text;
  text.replace(at, 3, std::to_string(load.many));
  return load.few == 0 ? text : fmt::format("{} less {}", text, load.few);
}

std::string over_text(const Figure& f) {
  const Quantity& over = f.over;
  if (is_lone(f.of.load)) return "";
  if (over.pager.empty()) return "operations";
  std::string text = fmt::format("{} {}", over.pager, over.column);
  if (over.load.workload != f.of.load.workload) text += " of " + workload_text(over.load);
  if (over.load.settings != f.of.load.settings) text += fmt::format(" with {}", over.load.settings);
  return text;
}

std::string off_text(const Reproduced& r) {
  if (!r.complete() || r.row->judge != Judge::Near || r.ours.size() != 1 || r.row->tolerance == 1) {
    return "";
  }
  return fmt::format("{:+.0f} %", 100 * (r.off_by() - 1));
}

std::string tolerance_text(const PublishedRow& row) {
  if (row.tolerance == 1) return row.low == row.high && row.judge == Judge::Near ? "exact" : "";
  return fmt::format("{:.2g}x", row.tolerance);
}

std::vector<CsvRow> table_of(std::span<const Reproduced> rows, Section section) {
  std::vector<CsvRow> shown;
  for (const Reproduced& r : rows) {
    if (r.row->section != section) continue;
    shown.push_back({std::string(r.row->what),
                     each(*r.row, [](const Figure& f) { return std::to_string(f.of.load.vcpus); }),
                     r.published_text(), r.ours_text(), off_text(r), tolerance_text(*r.row),
                     r.verdict() + (r.row->calibration ? ", calibration" : "")});
  }
  return shown;
}

}  // namespace

std::string_view title_of(Section section) {
  constexpr std::array<std::string_view, kSections> kTitles = {
      "Table entries that a cold walk reads",
      "PVM, SOSP 2023: shadow paging's time over EPT's on Cascade Lake",
      "Other publications",
      "Conclusions",
  };
  return kTitles[static_cast<unsigned>(section)];
}

std::string Reproduced::verdict() const {
  if (!complete()) return "no result";
  const bool ok = holds();
  if (row->section == Section::Conclusions) return ok ? "true" : "false";
  return !ok ? "miss" : row->tolerance == 1 && row->low == row->high ? "exact" : "ok";
}

std::string Reproduced::published_text() const {
  const bool open = row->high == std::numeric_limits<double>::infinity();
  const std::string range = open                    ? "above " + number(row->low)
                            : row->low == row->high ? number(row->low)
                            : row->low == 0         ? "up to " + number(row->high)
                                                    : number(row->low) + " to " + number(row->high);
  switch (row->judge) {
    case Judge::Near:
      return row->figures.size() > 1 ? "each " + range : range;
    case Judge::Most:
      return "most " + range;
    case Judge::Rising:
      return "rising";
    case Judge::Falling:
      return "falling";
    case Judge::Halving:
      return "nearer to 1 by half";
  }
  return range;
}

std::string Reproduced::ours_text() const {
  std::vector<std::string> texts;
  for (std::size_t i = 0; i < ours.size(); ++i) {
    const std::string value = ours[i] ? number(*ours[i]) : "none";
    texts.push_back(ours.size() == 1 ? value : fmt::format("{} {}", row->figures[i].label, value));
  }
  return fmt::format("{}", fmt::join(texts, ", "));
}

std::string published_csv(std::span<const Reproduced> rows) {
  std::string csv = csv_line({"section", "source", "row", "workload", "cpu", "vcpus", "settings",
                              "quantity", "over", "published", "ours", "tolerance", "off_by",
                              "verdict", "calibration", "why"});
  for (const Reproduced& r : rows) {
    const PublishedRow& row = *r.row;
    csv += csv_line(
        {std::string(title_of(row.section)), std::string(row.source), std::string(row.what),
         each(row, [](const Figure& f) { return workload_text(f.of.load); }),
         each(row, [](const Figure& f) { return std::string(f.of.load.cpu); }),
         each(row, [](const Figure& f) { return std::to_string(f.of.load.vcpus); }),
         each(row, [](const Figure& f) { return std::string(f.of.load.settings); }),
         each(row, [](const Figure& f) { return fmt::format("{} {}", f.of.pager, f.of.column); }),
         each(row, over_text), r.published_text(), r.ours_text(),
         fmt::format("{:.6g}", row.tolerance), off_text(r), r.verdict(),
         row.calibration ? "yes" : "no", r.holds() ? "" : std::string(row.why)});
  }
  return csv;
}

std::string published_table(std::span<const Reproduced> rows) {
  std::string text;
  for (unsigned s = 0; s < kSections; ++s) {
    const auto section = static_cast<Section>(s);
    std::vector<CsvRow> shown = table_of(rows, section);
    if (shown.empty()) continue;
    shown.insert(shown.begin(),
                 {"row", "vCPUs", "published", "ours", "off by", "within", "verdict"});
    text += fmt::format("{}{}\n{}", text.empty() ? "" : "\n", title_of(section), aligned(shown, 1));
  }
  for (const Reproduced& r : rows) {
    if (!r.holds()) text += fmt::format("\n{}: {}", r.row->what, r.row->why);
  }
  const auto missed = std::count_if(rows.begin(), rows.end(), [](auto& r) { return !r.holds(); });
  return text + fmt::format("\n{} of {} rows hold\n",
                            rows.size() - static_cast<std::size_t>(missed), rows.size());
}

}  // namespace mmuscope
