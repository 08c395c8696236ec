#include "results/csv.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include "core/error.h"

namespace mmuscope {
namespace {

struct CloseFile {
  void operator()(std::FILE* f) const { std::fclose(f); }
};
using File = std::unique_ptr<std::FILE, CloseFile>;

[[noreturn]] void fail(const std::string& what, const std::string& path) {
  throw InputError(path + ": " + what + ": " + std::strerror(errno));
}

/// One field from `pos`, which is left behind it. `line` counts line feeds for messages.
std::string parse_field(std::string_view text, std::size_t& pos, unsigned& line,
                        const std::string& file) {
  std::string field;
  const auto bad = [&](unsigned where, const char* what) {
    throw InputError(file + ":" + std::to_string(where) + ": " + what);
  };
  if (pos < text.size() && text[pos] == '"') {
    const unsigned first_line = line;
    for (++pos;; ++pos) {
      if (pos == text.size()) bad(first_line, "a quoted field does not end");
      if (text[pos] == '"') {
        if (pos + 1 == text.size() || text[pos + 1] != '"') break;
        ++pos;
      } else if (text[pos] == '\n') {
        ++line;
      }
      field += text[pos];
    }
    ++pos;
    if (pos < text.size() && text[pos] != ',' && text[pos] != '\n' && text[pos] != '\r') {
      bad(line, "text after a quoted field: a comma or the end of the line is expected");
    }
    return field;
  }
  for (; pos < text.size() && text[pos] != ',' && text[pos] != '\n' && text[pos] != '\r'; ++pos) {
    if (text[pos] == '"') bad(line, "a quote inside a field that does not begin with one");
    field += text[pos];
  }
  return field;
}

}  // namespace

std::string csv_line(const CsvRow& row) {
  std::string line;
  for (const std::string& field : row) {
    if (&field != &row.front()) line += ',';
    if (field.find_first_of(",\"\r\n") == field.npos) {
      line += field;
      continue;
    }
    line += '"';
    for (const char c : field) line.append(c == '"' ? 2 : 1, c);
    line += '"';
  }
  return line += '\n';
}

std::vector<CsvRow> parse_csv(std::string_view text, const std::string& file) {
  std::vector<CsvRow> rows;
  unsigned line = 1;
  for (std::size_t pos = 0; pos < text.size(); ++line) {
    CsvRow& row = rows.emplace_back();
    row.push_back(parse_field(text, pos, line, file));
    while (pos < text.size() && text[pos] == ',') {
      ++pos;
      row.push_back(parse_field(text, pos, line, file));
    }
    if (pos < text.size() && text[pos] == '\r') ++pos;
    if (pos < text.size() && text[pos] == '\n') ++pos;
  }
  return rows;
}

std::string read_file(const std::filesystem::path& path, std::size_t max_bytes) {
  const File file(std::fopen(path.c_str(), "rb"));
  if (!file) fail("cannot be read", path.string());
  std::string text;
  char block[1 << 16];
  while (const std::size_t got = std::fread(block, 1, sizeof block, file.get())) {
    text.append(block, got);
    if (text.size() > max_bytes) {
      throw InputError(path.string() + ": is larger than " + std::to_string(max_bytes) + " bytes");
    }
  }
  if (std::ferror(file.get())) fail("cannot be read", path.string());
  return text;
}

void write_file(const std::string& path, std::string_view text) {
  if (path == "-") {
    if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout)) {
      fail("cannot be written", "standard output");
    }
    return;
  }
  if (path.empty()) throw InputError("the name of the file to write is empty");
  const std::string beside = path + ".new";
  File file(std::fopen(beside.c_str(), "wb"));
  if (!file) fail("cannot be written", path);
  const bool written = std::fwrite(text.data(), 1, text.size(), file.get()) == text.size() &&
                       std::fclose(file.release()) == 0;
  if (!written || std::rename(beside.c_str(), path.c_str()) != 0) {
    const int why = errno;
    std::remove(beside.c_str());
    errno = why;
    fail("cannot be written", path);
  }
}

}  // namespace mmuscope
