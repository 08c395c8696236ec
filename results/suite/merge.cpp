#include "results/suite/merge.h"

#include <map>
#include <set>

#include "core/error.h"
#include "results/suite/manifest.h"
#include "results/suite/records.h"
#include "results/version.h"

namespace mmuscope {
namespace {

namespace fs = std::filesystem;

using CellsByNumber = std::map<u64, CellText>;

/// The manifest of a folder that may be merged, after `first` if there is one.
Manifest check_folder(const fs::path& folder, const Manifest* first) {
  const Manifest m = read_manifest(folder);
  const auto fail = [&](const std::string& what) {
    throw InputError(folder.string() + ": " + what);
  };
  if (!m.finished) fail("is not finished: run its suite again with --resume");
  if (m.version != version()) {
    fail("is of version " + m.version + ", this is " + std::string(version()));
  }
  if (first == nullptr) return m;
  if (m.suite != first->suite || m.text != first->text || m.cells != first->cells) {
    fail("is of another suite (" + m.suite + ") than the first folder (" + first->suite + ")");
  }
  return m;
}

void add_cells(const fs::path& folder, const Manifest& manifest, CellsByNumber& cells) {
  const std::size_t number_column = suite_column("cell"),
                    slowdown = suite_column("slowdown_vs_native");
  Records records = read_records(folder);
  if (records.empty()) {
    throw InputError(folder.string() + ": suite.csv is missing or has other columns");
  }
  for (auto& [identity, cell] : records) {
    const u64 number = std::strtoull(cell.suite[number_column].c_str(), nullptr, 10);
    if (number < 1 || number > manifest.cells) {
      throw InputError(folder.string() + ": suite.csv: no cell " + cell.suite[number_column] +
                       " in a suite of " + std::to_string(manifest.cells));
    }
    cell.suite[slowdown].clear();  // a shard need not have the native cell
    const auto [at, fresh] = cells.emplace(number, cell);
    if (!fresh && (at->second.suite != cell.suite || at->second.processes != cell.processes ||
                   at->second.vcpus != cell.vcpus || at->second.series != cell.series)) {
      throw InputError(folder.string() + ": cell " + std::to_string(number) +
                       " differs from the same cell of another folder");
    }
  }
}

/// Throws if a cell is missing, and says in which shards of how many it would be.
void check_complete(const CellsByNumber& cells, u64 all, u64 shards) {
  if (cells.size() == all) return;
  std::set<u64> missing;
  for (u64 number = 1; number <= all; ++number) {
    if (cells.count(number) != 0) continue;
    for (u64 index = 1; index <= shards; ++index) {
      if (Shard{index, shards}.has(number)) missing.insert(index);
    }
  }
  std::string names;
  for (const u64 index : missing) {
    names += (names.empty() ? "" : ", ") + Shard{index, shards}.text();
  }
  throw InputError(std::to_string(all - cells.size()) + " of " + std::to_string(all) +
                   " cells are in none of the folders: those of shard " + names);
}

}  // namespace

std::vector<CellText> merge_shards(const std::vector<fs::path>& folders, const fs::path& out,
                                   const std::string& command) {
  std::vector<Manifest> shards;
  CellsByNumber cells;
  for (const fs::path& folder : folders) {
    shards.push_back(check_folder(folder, shards.empty() ? nullptr : &shards.front()));
    add_cells(folder, shards.back(), cells);
  }
  check_complete(cells, shards.front().cells, shards.front().shard.of);

  std::vector<CellText> all;
  for (auto& [number, cell] : cells) all.push_back(std::move(cell));
  fill_slowdown(all);
  std::error_code error;
  fs::create_directories(out, error);
  if (error) throw InputError(out.string() + ": cannot be made: " + error.message());
  write_records(out, all);
  Manifest manifest = begin_manifest({}, {}, command);
  const Manifest& first = shards.front();
  manifest.suite = first.suite;
  manifest.text = first.text;
  manifest.cells = first.cells;
  manifest.seeds = first.seeds;
  manifest.finished = true;
  for (const Manifest& shard : shards) {
    manifest.seconds += shard.seconds;
    manifest.merged.push_back(shard.read_from);
  }
  write_manifest(out, manifest);
  return all;
}

}  // namespace mmuscope
