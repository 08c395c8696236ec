#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "results/columns.h"

namespace mmuscope {

/// Puts the shards of one suite together: writes the files into `out` that the whole suite would
/// have written, byte for byte, and a manifest that holds those of the shards. Returns the cells in
/// order. Throws InputError that names the folder if one holds no finished results of this version,
/// if they are of different suites, if two disagree about a cell, or if cells are in none of them
/// (with the shards that have them).
std::vector<CellText> merge_shards(const std::vector<std::filesystem::path>& folders,
                                   const std::filesystem::path& out, const std::string& command);

}  // namespace mmuscope
