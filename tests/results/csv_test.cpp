#include "results/csv.h"

#include <doctest/doctest.h>

#include <filesystem>

#include "core/error.h"
#include "core/random.h"

using namespace mmuscope;

TEST_CASE("csv: fields are quoted where RFC 4180 asks for it, and only there") {
  CHECK(csv_line({"a", "1", ""}) == "a,1,\n");
  CHECK(csv_line({"a,b", "say \"no\"", "two\nlines", "cr\r", " spaces "}) ==
        "\"a,b\",\"say \"\"no\"\"\",\"two\nlines\",\"cr\r\", spaces \n");
}

TEST_CASE("csv: reading") {
  using Rows = std::vector<CsvRow>;
  CHECK(parse_csv("", "f").empty());
  CHECK(parse_csv("a,b\n1,\"x,\"\"y\"\"\"\n", "f") == Rows{{"a", "b"}, {"1", "x,\"y\""}});
  CHECK(parse_csv("a,\r\n,b", "f") == Rows{{"a", ""}, {"", "b"}});
  CHECK(parse_csv("\n\"\"\n", "f") == Rows{{""}, {""}});
  CHECK_THROWS_WITH_AS(parse_csv("a\n\"b\nc", "f.csv"), "f.csv:2: a quoted field does not end",
                       InputError);
  CHECK_THROWS_WITH_AS(parse_csv("a\nb\"c\n", "f.csv"),
                       "f.csv:2: a quote inside a field that does not begin with one", InputError);
  CHECK_THROWS_WITH_AS(
      parse_csv("\"a\nb\"c\n", "f.csv"),
      "f.csv:2: text after a quoted field: a comma or the end of the line is expected", InputError);
}

TEST_CASE("csv: whatever is written is read back") {
  Random random(1);
  constexpr std::string_view kLetters = "ab,\"\n\r 1";
  for (int round = 0; round < 2000; ++round) {
    std::vector<CsvRow> rows(1 + random.below(4));
    std::string text;
    for (CsvRow& row : rows) {
      row.resize(1 + random.below(4));
      for (std::string& field : row) {
        for (u64 n = random.below(6); n > 0; --n) field += kLetters[random.below(kLetters.size())];
      }
      text += csv_line(row);
    }
    CAPTURE(text);
    REQUIRE(parse_csv(text, "f") == rows);
  }
}

TEST_CASE("csv: a file is replaced whole or not at all") {
  namespace fs = std::filesystem;
  const fs::path folder = fs::temp_directory_path() / "mmuscope_csv_test";
  fs::remove_all(folder);
  fs::create_directories(folder);
  const std::string path = (folder / "a.csv").string();
  write_file(path, "one\n");
  write_file(path, "two\n");
  CHECK(read_file(path, 100) == "two\n");
  CHECK_THROWS_AS(read_file(path, 3), InputError);
  CHECK_THROWS_AS(read_file(folder, 100), InputError);
  CHECK_THROWS_AS(read_file(folder / "none", 100), InputError);
  CHECK_THROWS_AS(write_file((folder / "none" / "a.csv").string(), "x"), InputError);
  // A folder of that name cannot be replaced, and nothing is left beside it.
  fs::create_directories(folder / "b.csv" / "inside");
  CHECK_THROWS_AS(write_file((folder / "b.csv").string(), "x"), InputError);
  CHECK(std::distance(fs::directory_iterator(folder), fs::directory_iterator()) == 2);
  fs::remove_all(folder);
}
