#include <doctest/doctest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "core/error.h"
#include "results/cases.h"
#include "tests/support/paths.h"

using namespace mmuscope;

namespace {

const std::filesystem::path kRecorded = std::filesystem::path(source_dir()) / "tests/truth/mmu";

/// A supervisor read through four levels to physical 0x5678; A is set in all of them.
const std::string kCase =
    R"({"id":7,"stage2":"none","ctl":{"wp":1,"smep":0,"smap":0,"nxe":1,"ac":0},"cr3":"0x1000",)"
    R"("access":{"kind":"read","user":0,"va":"0x678"},"mem":[["0x1000","0x2003"],["0x2000","0x3003"],)"
    R"(["0x3000","0x4003"],["0x4000","0x5003"]],"expected":{"result":"ok","pa":"0x5678"},)"
    R"("post":[["0x1000","0x2023"],["0x2000","0x3023"],["0x3000","0x4023"],["0x4000","0x5023"]]})";

std::string replaced(std::string text, const std::string& what, const std::string& with) {
  const auto at = text.find(what);
  REQUIRE(at != std::string::npos);
  return text.replace(at, what.size(), with);
}

/// A file of these lines, gone with the object.
struct ScratchFile {
  explicit ScratchFile(const std::string& text) { std::ofstream(path) << text; }
  ~ScratchFile() { std::filesystem::remove(path); }
  // The name is the process's own: ctest runs the cases of this file side by side.
  std::filesystem::path path =
      std::filesystem::path(build_dir()) / ("mmu_test." + std::to_string(getpid()) + ".jsonl");
};

/// The message with which the text is refused as a case file; empty if it is not.
std::string refusal(const std::string& text) {
  const ScratchFile file(text);
  try {
    run_cases(file.path, nullptr);
  } catch (const InputError& e) {
    return e.what();
  }
  return {};
}

void check_recorded(const std::string& name, u64 cases) {
  std::ostringstream failures;
  const CasesResult r = run_cases(kRecorded / name, &failures);
  CHECK(r.cases == cases);
  CHECK(r.failed() == 0);
  CHECK(failures.str().substr(0, 2000) == "");
}

}  // namespace

TEST_CASE("the walks do what Bochs and QEMU recorded: one stage") {
  check_recorded("stage1.jsonl.gz", 7536);
}
TEST_CASE("the walks do what Bochs recorded: EPT") { check_recorded("nested_ept.jsonl.gz", 3846); }
TEST_CASE("the walks do what Bochs and QEMU recorded: NPT") {
  check_recorded("nested_npt.jsonl.gz", 1995);
}

TEST_CASE("an edited expectation fails") {
  const std::string wrong_address = replaced(kCase, "0x5678", "0x5670");
  const std::string wrong_result =
      replaced(kCase, R"({"result":"ok","pa":"0x5678"})", R"({"result":"pf","error_code":"0x0"})");
  const std::string wrong_flag = replaced(kCase, "0x4023", "0x4003");
  const ScratchFile file(kCase + '\n' + wrong_address + '\n' + wrong_result + '\n' + wrong_flag);
  std::ostringstream failures;
  const CasesResult r = run_cases(file.path, &failures);
  CHECK(cases_line("f", r) == "f: 4 cases, 1 passed, 3 failed");
  const std::string at = file.path.string();
  CHECK(failures.str() ==
        at + ":2: case 7: expected {\"pa\":\"0x5670\",\"result\":\"ok\"}, got ok pa=0x5678\n" +  //
            at +
            ":3: case 7: expected {\"error_code\":\"0x0\",\"result\":\"pf\"}, got ok pa=0x5678\n" +
            at + ":4: case 7: entry at 0x3000: expected 0x4003, got 0x4023\n");
}

TEST_CASE("an edited entry fails") {
  const ScratchFile file(replaced(kCase, "\"0x5003\"", "\"0x5002\""));
  CHECK(run_cases(file.path, nullptr).failed() == 1);
}

TEST_CASE("a case file that is none is refused with its line") {
  const std::string at = ScratchFile("").path.string();
  CHECK(refusal("") == at + ": holds no case");
  CHECK(refusal(kCase + "\nnonsense\n") == at + ":2: is not a JSON object on one line");
  CHECK(refusal("[1]\n") == at + ":1: an object with \"id\" is expected");
  CHECK(refusal(replaced(kCase, "cr3", "cr4")) == at + ":1: \"cr3\" is missing");
  CHECK(refusal(replaced(kCase, "none", "two")) ==
        at + ":1: \"stage2\" must be one of none, ept, npt");
  CHECK(refusal(replaced(kCase, "\"wp\":1", "\"wp\":2")) == at + ":1: \"wp\" must be 0 or 1");
  CHECK(refusal(replaced(kCase, "0x678", "0x67g")) ==
        at + ":1: va: \"0x67g\" is not a string like \"0x1f\" of at most 64 bits");
  CHECK(refusal(replaced(kCase, "\"0x1000\",\"0x2003\"", "\"0x1001\",\"0x2003\"")) ==
        at + ":1: \"mem\": address 0x1001 is no multiple of 8");
  CHECK(refusal(std::string(2 << 20, ' ')).find(":1: is longer than 1048574 bytes") !=
        std::string::npos);
  CHECK_THROWS_AS(run_cases("no/such/file.jsonl", nullptr), InputError);
  CHECK_THROWS_AS(run_cases(kRecorded, nullptr), InputError);
}

TEST_CASE("a truncated gzip file is refused") {
  std::ifstream whole(kRecorded / "nested_npt.jsonl.gz", std::ios::binary);
  std::string bytes(100'000, '\0');
  whole.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  REQUIRE(whole);
  CHECK(refusal(bytes).find("cannot be read") != std::string::npos);
}
