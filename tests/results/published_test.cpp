#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <string>

#include "results/csv.h"
#include "results/published/calibration.h"

namespace mmuscope {
namespace {

/// A row of which the emulator would have made these numbers.
Reproduced made(const PublishedRow& row, std::vector<std::optional<double>> ours) {
  return {&row, std::move(ours)};
}

PublishedRow row_of(Judge judge, double low, double high, double tolerance, std::size_t figures = 1,
                    Section section = Section::Others) {
  return {section, "a paper", "a row", std::vector<Figure>(figures), judge, low,
          high,    tolerance, false};
}

/// Rows whose names begin so.
std::vector<PublishedRow> rows_named(const std::string& begin) {
  std::vector<PublishedRow> some;
  for (const PublishedRow& row : published_rows()) {
    if (row.what.substr(0, begin.size()) == begin) some.push_back(row);
  }
  return some;
}

TEST_CASE("published: a range stretched by the tolerance, either way") {
  const PublishedRow row = row_of(Judge::Near, 2.0, 2.0, 1.3);
  CHECK(made(row, {2.6}).holds());
  CHECK(made(row, {1.54}).holds());
  CHECK_FALSE(made(row, {2.61}).holds());
  CHECK_FALSE(made(row, {1.53}).holds());
  CHECK(made(row, {2.7}).verdict() == "miss");
  CHECK(made(row, {2.7}).off_by() == doctest::Approx(1.35));
  CHECK(made(row, {std::nullopt}).verdict() == "no result");
  const PublishedRow range = row_of(Judge::Near, 0.75, 0.93, 1);
  CHECK(made(range, {0.8}).off_by() == 1);
  CHECK(made(range, {0.93}).verdict() == "ok");
  CHECK(made(range, {0.94}).verdict() == "miss");
  CHECK(made(range, {0.6}).off_by() == doctest::Approx(0.8));
  CHECK(range.figures.size() == 1);
  CHECK(made(row_of(Judge::Near, 24, 24, 1), {24.0}).verdict() == "exact");
}

TEST_CASE("published: what conclusions are decided by") {
  const auto says = [](Judge judge, double tolerance, std::vector<std::optional<double>> ours) {
    const PublishedRow row =
        row_of(judge, 0.95, 1.05, tolerance, ours.size(), Section::Conclusions);
    return made(row, ours).verdict();
  };
  CHECK(says(Judge::Rising, 1.05, {1.0, 2.0, 2.2}) == "true");
  CHECK(says(Judge::Rising, 1.05, {1.0, 2.0, 2.05}) == "false");
  CHECK(says(Judge::Falling, 1.05, {3.0, 2.0}) == "true");
  CHECK(says(Judge::Falling, 1.05, {2.0, 3.0}) == "false");
  CHECK(says(Judge::Most, 1, {1.0, 1.04, 3.0}) == "true");
  CHECK(says(Judge::Most, 1, {1.0, 1.06}) == "false");
  CHECK(says(Judge::Halving, 1, {0.9, 0.96}) == "true");
  CHECK(says(Judge::Halving, 1, {0.9, 0.94}) == "false");
  CHECK(says(Judge::Halving, 1, {0.9, 1.06}) == "false");
}

TEST_CASE("published: a cold walk reads what arithmetic says, entry by entry") {
  std::vector<PublishedRow> walks;
  for (const PublishedRow& row : published_rows()) {
    if (row.section == Section::Walks) walks.push_back(row);
  }
  REQUIRE(walks.size() == 12);
  const auto all = reproduce(walks, {});
  REQUIRE(all);
  for (const Reproduced& r : *all) {
    CAPTURE(r.row->what);
    CHECK(r.verdict() == "exact");
  }
}

TEST_CASE("published: the rows that are quick come out, the same on any number of jobs") {
  const std::vector<PublishedRow> rows = rows_named("getpid");
  REQUIRE(rows.size() == 2);
  const auto one = reproduce(rows, {1}), two = reproduce(rows, {2});
  REQUIRE(one);
  REQUIRE(two);
  CHECK(published_csv(*one) == published_csv(*two));
  CHECK(published_table(*one) == published_table(*two));
  for (const Reproduced& r : *one) {
    CHECK(r.row->calibration);
    CHECK(r.holds());
  }
  const auto csv = parse_csv(published_csv(*one), "published.csv");
  REQUIRE(csv.size() == 3);
  for (const CsvRow& line : csv) CHECK(line.size() == csv[0].size());
  const auto at = [&](const char* name) {
    return static_cast<std::size_t>(std::find(csv[0].begin(), csv[0].end(), name) - csv[0].begin());
  };
  CHECK(csv[2][at("workload")] == "micro:op=getpid,operations=2200 less 200");
  CHECK(csv[2][at("published")] == "9.5");
  CHECK(csv[2][at("verdict")] == "ok");
}

TEST_CASE("published: stopped before it began, it keeps nothing") {
  const std::atomic<bool> stop = true;
  CHECK_FALSE(reproduce(rows_named("getpid"), {1, "none", &stop}));
}

TEST_CASE("published: every row has a name of its own, and every conclusion a row") {
  std::set<std::string> names;
  std::string conclusions = "";
  for (const PublishedRow& row : published_rows()) {
    CHECK(names.insert(std::string(title_of(row.section)) + std::string(row.what)).second);
    CHECK(row.figures.size() >= (row.judge == Judge::Near ? 1 : 2));
    if (row.section == Section::Conclusions && conclusions.find(row.what[0]) == std::string::npos) {
      conclusions += row.what[0];
    }
  }
  CHECK(conclusions == "123456");
}

/// A prices file with what the fit says.
class Fitted {
 public:
  explicit Fitted(const std::vector<Calibrated>& all) {
    std::string lines;
    for (const Calibrated& c : all) {
      lines += std::string(c.component->constant) + " = " + std::to_string(c.fitted) + "\n";
    }
    write_file(path_, lines);
  }
  ~Fitted() { std::filesystem::remove(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_ =
      (std::filesystem::temp_directory_path() / ("mmuscope_fit_" + std::to_string(getpid())))
          .string();
};

TEST_CASE("published: the constants that components determine follow from them") {
  const auto all = calibrate({});
  REQUIRE(all);
  for (const Calibrated& c : *all) {
    CAPTURE(c.component->what);
    REQUIRE(c.ours);
    // Who changes the guest by more than this fits again: results/README.md.
    CHECK(*c.ours == doctest::Approx(c.component->published).epsilon(0.01));
  }
}

TEST_CASE("published: the fit finds the constants again from others") {
  const auto right = calibrate({});
  REQUIRE(right);
  std::vector<Calibrated> now = *right;
  for (Calibrated& c : now) c.fitted = c.constant + c.constant / 4;
  // A component is made of several constants, so that one round is not enough.
  for (int round = 0; round < 4; ++round) {
    const Fitted file(now);
    const auto next = calibrate({1, file.path()});
    REQUIRE(next);
    now = *next;
  }
  for (std::size_t i = 0; i < now.size(); ++i) {
    CAPTURE(now[i].component->what);
    CHECK(static_cast<double>(now[i].fitted) ==
          doctest::Approx(static_cast<double>((*right)[i].fitted)).epsilon(0.01));
  }
}

TEST_CASE("slow: published: whole, a row that misses says why, and only such a row") {
  const auto all = reproduce(published_rows(), {2});
  REQUIRE(all);
  for (const Reproduced& r : *all) {
    CAPTURE(r.row->what);
    CHECK(r.complete());
    CHECK(r.holds() == r.row->why.empty());
  }
}

}  // namespace
}  // namespace mmuscope
