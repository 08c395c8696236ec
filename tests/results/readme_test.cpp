// Every console block of a README, run again: what stands there is what the command prints.
// With MMUSCOPE_UPDATE=1 in the environment the blocks are rewritten instead.

#include <doctest/doctest.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "tests/support/paths.h"
#include "tests/support/shell.h"

using mmuscope::Ran;
using mmuscope::shell;

namespace {

constexpr const char* kReadmes[] = {"README.md", "shadow/README.md", "nested/README.md",
                                    "workloads/README.md", "results/README.md"};
// Blocks that take long are marked so, and are a slow test's.
const std::string kFence = "```console\n$ build/mmuscope",
                  kSlowFence = "```console slow\n$ build/mmuscope";

std::string read_file(const std::string& path) {
  std::ifstream in(path);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

/// Standard output of `build/mmuscope ARGUMENTS`, run in the project's root.
std::string run_program(const std::string& arguments) {
  const std::string command = "cd '" + mmuscope::source_dir() + "' && '" + mmuscope::build_dir() +
                              "/mmuscope' " + arguments;
  FILE* pipe = popen(command.c_str(), "r");
  REQUIRE(pipe != nullptr);
  std::string output;
  char buffer[4096];
  while (const size_t n = fread(buffer, 1, sizeof buffer, pipe)) output.append(buffer, n);
  CHECK(pclose(pipe) == 0);
  return output;
}

/// The README with every console block's output as the command prints it now; counts the blocks.
std::string with_fresh_output(const std::string& text, const std::string& begin, int& blocks) {
  std::string fresh;
  size_t at = 0;
  for (size_t fence; (fence = text.find(begin, at)) != std::string::npos; ++blocks) {
    const size_t arguments = fence + begin.size();
    const size_t output = text.find('\n', arguments) + 1;
    const size_t end = text.find("```", output);
    REQUIRE(end != std::string::npos);
    fresh +=
        text.substr(at, output - at) + run_program(text.substr(arguments, output - 1 - arguments));
    at = end;
  }
  return fresh + text.substr(at);
}

void check_blocks(const std::string& fence) {
  int blocks = 0;
  for (const std::string name : kReadmes) {
    CAPTURE(name);
    const std::string path = mmuscope::source_dir() + "/" + name;
    const std::string text = read_file(path);
    REQUIRE(!text.empty());
    const std::string fresh = with_fresh_output(text, fence, blocks);
    if (std::getenv("MMUSCOPE_UPDATE") != nullptr) {
      std::ofstream(path) << fresh;
    } else {
      CHECK(fresh == text);
    }
  }
  CHECK(blocks > 0);
}

}  // namespace

TEST_CASE("readme: every console block is what its command prints") { check_blocks(kFence); }

TEST_CASE("readme: changing one thing, and what it moves") {
  const std::string text = read_file(mmuscope::source_dir() + "/README.md");
  const std::string begin = "```sh\ncat > my.suite";
  const std::size_t at = text.find(begin) + 6;
  REQUIRE(at > begin.size());
  std::string block = text.substr(at, text.find("```", at) - at);
  for (std::size_t b; (b = block.find("build/mmuscope")) != std::string::npos;) {
    block.replace(b, 14, "\"$mmuscope\"");
  }
  if (shell("python3 --version").status != 0) {
    MESSAGE("skipped, no python3 here");
    return;
  }
  const Ran ran = shell("cd \"$(mktemp -d)\" && {\n" + block + "}; s=$?; rm -rf \"$PWD\"; exit $s");
  CAPTURE(ran.err);
  CHECK(ran.status == 0);
  CAPTURE(ran.out);
  CHECK(ran.out.find("\nfork backing=2m  ") != std::string::npos);
  CHECK(ran.out.find("mine/report.html\n") != std::string::npos);
  CHECK(ran.out.find("\nexits_ept_violation ") != std::string::npos);
  CHECK(ran.out.find("\nguest_page_faults ") == std::string::npos);
}

TEST_CASE("slow: readme: so is every one that takes long") { check_blocks(kSlowFence); }
