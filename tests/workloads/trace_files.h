#pragma once

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>

#include "tests/workloads/test_folder.h"
#include "workloads/trace/text.h"

namespace mmuscope {

inline std::string file_bytes(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

/// What `trace dump` prints of it.
inline std::string dump(const TestFolder& folder, const std::filesystem::path& trace) {
  std::FILE* const out = std::fopen((folder / "dump").c_str(), "wb");
  trace_dump(trace, out);
  std::fclose(out);
  return file_bytes(folder / "dump");
}
/// The same from the first record on.
inline std::string dump_records(const TestFolder& folder, const std::filesystem::path& trace) {
  const std::string text = dump(folder, trace);
  return text.substr(text.find("0 - "));
}

inline bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

}  // namespace mmuscope
