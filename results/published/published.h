#pragma once

#include <atomic>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/types.h"
#include "results/suite/engine.h"

namespace mmuscope {

/// What a guest does, on which machine. With `few`, it runs twice, and what counts is the
/// difference: start-up and the first backing of memory are in both.
struct Load {
  /// SPEC with OPS where the number of operations goes; or kLoneAccess.
  std::string_view workload{};
  u64 few = 0, many = 0;  ///< operations; 0: the run as a whole
  unsigned vcpus = 1;
  std::string_view settings{};  ///< of the machine, besides kSettings
  std::string_view cpu = "cascade-lake";
};
/// Settings of every run: vCPUs have clocks, and the host has given the VM its memory.
inline constexpr std::string_view kSettings = "schedule=time,prebacked=on";
/// "lone-access:page=SIZE" is one load from a cold machine, as `explain` tells it: its columns are
/// table_refs and table_refs_for_guest_tables, those that translate addresses of guest tables.
inline constexpr std::string_view kLoneAccess = "lone-access";
bool is_lone(const Load& load);

/// A sum of columns of suite.csv ("a+b") for a load under one pager.
struct Quantity {
  Load load{};
  std::string_view pager{};  ///< SPEC
  std::string_view column = "cycles_elapsed";
};

/// One number of ours: a quantity over another, or over the number of its operations where the
/// other has no pager.
struct Figure {
  std::string_view label;
  Quantity of, over{};
};

/// How figures and published values are compared.
enum class Judge : u8 {
  Near,     ///< each lies in the published range, stretched by the tolerance either way
  Most,     ///< more than half of them do
  Rising,   ///< each is larger than the one before by the tolerance's factor or more
  Falling,  ///< the same, smaller
  Halving,  ///< the last is no further from 1 than half as far as the first
};

/// The part of a row's text that it belongs to.
enum class Section : u8 { Walks, Pvm, Others, Conclusions };
inline constexpr unsigned kSections = 4;
std::string_view title_of(Section section);

/// Something published, and the runs it is compared with. The same for all rows: prices, seed,
/// kSettings; a row says nothing but what ran, where, and what was published.
struct PublishedRow {
  Section section;
  std::string_view source, what;
  std::vector<Figure> figures;
  Judge judge;
  double low, high;  ///< published; equal where it is one value
  double tolerance;  ///< a factor; 1: exact
  bool calibration;  ///< a price of `list costs` was derived from it: no test
  /// Why it misses, where it does.
  std::string_view why{};
};
std::span<const PublishedRow> published_rows();

/// What the emulator makes of a row.
struct Reproduced {
  const PublishedRow* row = nullptr;
  std::vector<std::optional<double>> ours;  ///< by figure; none: a run could not go on
  bool complete() const;
  bool holds() const;
  /// The factor by which a single figure lies outside the published range, below 1 if it is less;
  /// 1 inside.
  double off_by() const;
  std::string verdict() const;         ///< exact, ok, true; miss, false; no result
  std::string published_text() const;  ///< "6.1", "0.75 to 0.93", "rising"
  std::string ours_text() const;       ///< the figures, with labels if there are several
};

/// How figures are measured.
struct Measuring {
  unsigned jobs = 1;                        ///< experiments at a time, by the engine of suites
  std::string prices = "none";              ///< a file of a user's own prices
  const std::atomic<bool>* stop = nullptr;  ///< set by whoever wants an early end
  std::function<void(const SuiteProgress&)> progress{};  ///< told about every experiment
};
/// Runs the experiments that figures need, each once. By figure: its value, or none if a run could
/// not go on. Nothing at all if it was stopped.
std::optional<std::vector<std::optional<double>>> measure(std::span<const Figure> figures,
                                                          const Measuring& how);
/// The same for the figures of rows.
std::optional<std::vector<Reproduced>> reproduce(std::span<const PublishedRow> rows,
                                                 const Measuring& how);

/// published.csv: a row for each.
std::string published_csv(std::span<const Reproduced> rows);
/// For people: a table for each section, and below it why rows miss.
std::string published_table(std::span<const Reproduced> rows);

}  // namespace mmuscope
