#include "results/suite/suite.h"

#include <algorithm>
#include <array>
#include <boost/program_options/errors.hpp>
#include <boost/program_options/options_description.hpp>
#include <boost/program_options/parsers.hpp>
#include <filesystem>
#include <set>
#include <sstream>

#include "core/error.h"
#include "results/csv.h"

namespace mmuscope {
namespace {

namespace po = boost::program_options;

constexpr std::size_t kMaxSuiteBytes = 1 << 20;
constexpr std::size_t kMaxLine = 1 << 16;
constexpr std::size_t kMaxNumbers = 1000;
constexpr std::array<std::string_view, 8> kKeys = {"name", "workload", "pager", "cpu",
                                                   "set",  "vcpus",    "vms",   "seed"};

/// A value and the line that it stands in, for messages about it.
template <class T>
struct Placed {
  T value;
  unsigned line = 0;
};

/// What a suite file says, before it is multiplied out.
struct Axes {
  std::string name;
  std::vector<Placed<std::string>> workloads, pagers, cpus;
  std::vector<std::vector<Placed<std::string>>> sets;  // one axis for each key, its settings
  std::vector<Placed<u64>> vcpus, vms, seeds;
};

[[noreturn]] void fail(const std::string& file, unsigned line, const std::string& what) {
  throw InputError(file + ":" + std::to_string(line) + ": " + what);
}

/// Key and value of one line; an empty key for a line that says nothing.
std::pair<std::string, std::string> parse_line(const std::string& line, const std::string& file,
                                               unsigned number) {
  std::istringstream stream(line);
  const po::options_description none;
  try {
    const auto parsed = po::parse_config_file(stream, none, true);
    if (parsed.options.empty()) {
      const auto text = line.find_first_not_of(" \t\r");
      if (text != line.npos && line[text] == '[') {
        fail(file, number, "a suite has no sections: write key = value");
      }
      return {};
    }
    const auto& option = parsed.options[0];
    if (option.string_key.empty()) fail(file, number, "'" + line + "' is not key = value");
    return {option.string_key, option.value.at(0)};
  } catch (const po::error&) {
    fail(file, number, "'" + line + "' is not key = value");
  }
}

std::vector<Placed<u64>> parse_numbers(const std::string& key, const std::string& list,
                                       const std::string& file, unsigned line) {
  const ParamInfo info{key, ParamInfo::Kind::Count, "0", "", "", 0, 0, ""};
  std::vector<Placed<u64>> numbers;
  std::istringstream stream(list + ",");
  for (std::string item; std::getline(stream, item, ',');) {
    item.erase(0, item.find_first_not_of(" \t"));
    item.erase(item.find_last_not_of(" \t") + 1);
    Params number("suite", std::span(&info, 1));
    try {
      number.set(key, item);
    } catch (const InputError&) {
      fail(file, line, key + " = " + list + " is not a list of numbers: write N,N,...");
    }
    numbers.push_back({number.count(key), line});
    if (numbers.size() > kMaxNumbers) fail(file, line, "more than 1,000 numbers");
  }
  return numbers;
}

/// Adds the setting to the axis of its key.
void add_setting(Axes& axes, const std::string& setting, unsigned line) {
  const std::string key = setting.substr(0, setting.find('='));
  for (auto& axis : axes.sets) {
    const std::string& other = axis.front().value;
    if (other.substr(0, other.find('=')) == key) {
      axis.push_back({setting, line});
      return;
    }
  }
  axes.sets.push_back({{setting, line}});
}

void add_line(Axes& axes, const std::string& key, const std::string& value, const std::string& file,
              unsigned line) {
  if (value.empty()) fail(file, line, key + " has no value");
  if (key == "name") {
    axes.name = value;
  } else if (key == "workload") {
    axes.workloads.push_back({value, line});
  } else if (key == "pager") {
    axes.pagers.push_back({value, line});
  } else if (key == "cpu") {
    axes.cpus.push_back({value, line});
  } else if (key == "set") {
    if (value.find(',') != value.npos || value.find('=') == value.npos) {
      fail(file, line, "set = " + value + " is not set = key=value, one key a line");
    }
    add_setting(axes, value, line);
  } else if (key == "vcpus" || key == "vms" || key == "seed") {
    auto& axis = key == "vcpus" ? axes.vcpus : key == "vms" ? axes.vms : axes.seeds;
    const auto numbers = parse_numbers(key, value, file, line);
    axis.insert(axis.end(), numbers.begin(), numbers.end());
  } else {
    fail(file, line, unknown_word("suite key", key, kKeys));
  }
}

Axes parse_axes(std::string_view text, const std::string& file) {
  Axes axes;
  axes.name = std::filesystem::path(file).stem().string();
  unsigned line = 0;
  while (!text.empty()) {
    ++line;
    const auto end = text.find('\n');
    const std::string_view whole = text.substr(0, end);
    text.remove_prefix(end == text.npos ? text.size() : end + 1);
    if (whole.size() > kMaxLine) fail(file, line, "the line is longer than 64 KiB");
    if (whole.find('\0') != whole.npos) fail(file, line, "not a text file");
    const auto [key, value] = parse_line(std::string(whole), file, line);
    if (!key.empty()) add_line(axes, key, value, file, line);
  }
  if (axes.workloads.empty()) fail(file, line, "no workload = SPEC");
  if (axes.pagers.empty()) fail(file, line, "no pager = SPEC");
  if (axes.cpus.empty()) axes.cpus.push_back({std::string(kDefaultCpu), line});
  if (axes.vcpus.empty()) axes.vcpus.push_back({1, line});
  if (axes.vms.empty()) axes.vms.push_back({1, line});
  if (axes.seeds.empty()) axes.seeds.push_back({1, line});
  return axes;
}

/// Says of each value of an axis, alone, whether it is valid: a message then has its line.
template <class T, class Try>
void check_axis(const std::vector<Placed<T>>& axis, const std::string& file, const Try& attempt) {
  for (const Placed<T>& placed : axis) {
    try {
      attempt(placed.value);
    } catch (const InputError& error) {
      fail(file, placed.line, error.what());
    }
  }
}

void check_axes(const Axes& axes, const std::string& file) {
  const auto check = [&](const auto& axis, auto set) {
    check_axis(axis, file, [&](const auto& value) {
      ExperimentText text;
      text.workload = axes.workloads[0].value;
      text.pager = axes.pagers[0].value;
      set(text, value);
      (void)parse_experiment(text);
    });
  };
  // Workloads and pagers first: the others are tried with the first of each.
  check(axes.workloads, [](ExperimentText& t, const std::string& v) {
    t.workload = v;
    t.pager = "native";
  });
  check(axes.pagers, [](ExperimentText& t, const std::string& v) { t.pager = v; });
  check(axes.cpus, [](ExperimentText& t, const std::string& v) { t.cpu = v; });
  check(axes.vcpus, [](ExperimentText& t, u64 v) { t.vcpus = v; });
  check(axes.vms, [](ExperimentText& t, u64 v) { t.vms = v; });
  for (const auto& axis : axes.sets) {
    check(axis, [](ExperimentText& t, const std::string& v) { t.set = {v}; });
  }
}

/// Counts through all combinations like an odometer: the last of the sizes changes fastest.
bool next_combination(std::vector<std::size_t>& index, const std::vector<std::size_t>& sizes) {
  for (std::size_t i = index.size(); i-- > 0;) {
    if (++index[i] < sizes[i]) return true;
    index[i] = 0;
  }
  return false;
}

std::vector<Experiment> multiply(const Axes& axes, const std::string& file) {
  std::vector<std::size_t> sizes = {axes.workloads.size(), axes.cpus.size()};
  for (const auto& axis : axes.sets) sizes.push_back(axis.size());
  const std::size_t after_sets = sizes.size();
  sizes.insert(sizes.end(),
               {axes.vcpus.size(), axes.vms.size(), axes.seeds.size(), axes.pagers.size()});
  std::size_t cells = 1;
  for (const std::size_t size : sizes) {
    cells *= size;
    if (cells > kMaxCells) {
      throw InputError(file + ": the product has more than " + std::to_string(kMaxCells) +
                       " experiments");
    }
  }
  std::vector<Experiment> experiments;
  std::vector<std::size_t> at(sizes.size(), 0);
  do {
    ExperimentText text;
    text.workload = axes.workloads[at[0]].value;
    text.cpu = axes.cpus[at[1]].value;
    for (std::size_t i = 0; i < axes.sets.size(); ++i) {
      text.set.push_back(axes.sets[i][at[2 + i]].value);
    }
    text.vcpus = axes.vcpus[at[after_sets]].value;
    text.vms = axes.vms[at[after_sets + 1]].value;
    text.seed = axes.seeds[at[after_sets + 2]].value;
    text.pager = axes.pagers[at[after_sets + 3]].value;
    try {
      experiments.push_back(parse_experiment(text));
    } catch (const InputError& error) {
      throw InputError(file + ": " + error.what());
    }
  } while (next_combination(at, sizes));
  return experiments;
}

}  // namespace

Suite parse_suite(std::string_view text, const std::string& file) {
  const Axes axes = parse_axes(text, file);
  check_axes(axes, file);
  return {axes.name, multiply(axes, file), std::string(text)};
}

Suite expand(const NamedSuite& named) {
  Suite suite{std::string(named.name), {}, {}};
  std::set<std::string> seen;
  for (const std::string_view product : named.products) {
    suite.text.append(suite.text.empty() ? "" : "\n").append(product);
    for (Experiment& e : parse_suite(product, suite.name).cells) {
      if (seen.insert(identity(e)).second) suite.cells.push_back(std::move(e));
    }
  }
  return suite;
}

Suite find_suite(const std::string& name_or_file) {
  std::vector<std::string_view> names;
  for (const NamedSuite& named : named_suites()) {
    if (named.name == name_or_file) return expand(named);
    names.push_back(named.name);
  }
  if (!std::filesystem::exists(name_or_file)) {
    throw InputError("no such file, and " + unknown_word("suite", name_or_file, names));
  }
  return parse_suite(read_file(name_or_file, kMaxSuiteBytes), name_or_file);
}

std::string identity(const Experiment& e) {
  std::string text;
  for (const std::string& part :
       {std::string(e.workload->name), e.workload_params.canonical(), std::string(e.pager->name),
        e.pager_params.canonical(), e.cpu, e.machine.canonical(), std::to_string(e.vcpus),
        std::to_string(e.vms), std::to_string(e.seed)}) {
    text.append(part).append("\n");
  }
  return text;
}

}  // namespace mmuscope
