#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace mmuscope {

using CsvRow = std::vector<std::string>;

/// Fields joined by commas, quoted where RFC 4180 asks for it, with a line feed at the end.
std::string csv_line(const CsvRow& row);

/// The rows of a CSV text. Throws InputError that names `file` and the line where a quote does not
/// end or stands inside an unquoted field.
std::vector<CsvRow> parse_csv(std::string_view text, const std::string& file);

/// The whole of a file. Throws InputError if it cannot be read or is larger than max_bytes.
std::string read_file(const std::filesystem::path& path, std::size_t max_bytes);

/// Writes beside the file, then renames: the file is the old one or the new one, never a part.
/// "-" is standard output. Throws InputError if it cannot be written.
void write_file(const std::string& path, std::string_view text);

}  // namespace mmuscope
