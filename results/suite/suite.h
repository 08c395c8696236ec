#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "results/experiment.h"

namespace mmuscope {

/// A matrix of experiments, in the order of its cells.
struct Suite {
  std::string name;
  std::vector<Experiment> cells;
  std::string text;  ///< of its file, or of the named suite's products
};

/// A suite that comes with the program: the union of products, each written as a suite file, an
/// experiment that several of them contain taken once.
struct NamedSuite {
  std::string_view name;
  std::string_view description;
  std::span<const std::string_view> products;
};
std::span<const NamedSuite> named_suites();
Suite expand(const NamedSuite& named);

/// The most cells that a suite may have.
inline constexpr std::size_t kMaxCells = 100'000;

/// Reads a suite file: one `key = value` a line, # begins a comment.
///   name = TEXT         (default: the file's name without its ending)
///   workload = SPEC     at least one; every further one is an alternative
///   pager = SPEC        likewise
///   cpu = NAME
///   set = key=value     a key of the machine; the values of one key are alternatives
///   vcpus = N,N,...     vms = N,N,...     seed = N,N,...
/// The suite is the product of all alternatives; in the order of its cells the pager changes
/// fastest, so that what is compared stands together, then what stands last in this list.
/// Throws InputError that names the file and the line.
Suite parse_suite(std::string_view text, const std::string& file);

/// A named suite, or else a file. Throws InputError that lists the names if it is neither.
Suite find_suite(const std::string& name_or_file);

/// What makes two experiments the same; the number of a cell is not part of it.
std::string identity(const Experiment& experiment);

}  // namespace mmuscope
