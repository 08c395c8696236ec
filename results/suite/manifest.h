#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "results/suite/shard.h"
#include "results/suite/suite.h"

namespace mmuscope {

/// How the results in a folder came about: what its manifest.json tells. All that is needed to make
/// them again, and on what machine they were made.
struct Manifest {
  std::string version;  ///< of the program
  std::string digest;   ///< of its bytes; empty in manifests of before there was one
  std::string suite;    ///< its name
  std::string text;     ///< of the suite file, or of the named suite's products
  u64 cells = 0;        ///< of the whole suite
  Shard shard;
  std::vector<u64> seeds;           ///< in order, each once
  std::string command;              ///< as given to a shell
  std::string folder;               ///< in which it was given
  std::string started;              ///< UTC
  double seconds = 0;               ///< of this run alone, without those it took over from
  bool finished = false;            ///< every cell of the shard is in the CSV files
  std::string read_from;            ///< the file's text, of one that was read
  std::vector<std::string> merged;  ///< the manifest.json of each shard that it was merged from
};

/// What is known before the first cell is run: all but `seconds` and `finished`.
Manifest begin_manifest(const Suite& suite, const Shard& shard, const std::string& command);

/// Writes manifest.json, with a description of this machine. Throws InputError if it cannot.
void write_manifest(const std::filesystem::path& folder, const Manifest& manifest);

/// Throws InputError if there is none or it is none.
Manifest read_manifest(const std::filesystem::path& folder);

/// The words as a shell takes them: `a 'b c'`.
std::string shell_command(const std::vector<std::string>& words);

}  // namespace mmuscope
