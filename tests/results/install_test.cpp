// What others get: an installed prefix that a project of theirs is built against, with a pager of
// its own.

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>

#include "tests/support/paths.h"
#include "tests/support/shell.h"

using namespace mmuscope;
namespace fs = std::filesystem;

TEST_CASE("slow: install: a project with its own pager against an installed prefix") {
  const fs::path folder = fs::temp_directory_path() / fmt::format("mmuscope_install_{}", getpid());
  fs::remove_all(folder);
  const std::string prefix = (folder / "prefix").string();
  const auto works = [&](const std::string& script) {
    const Ran ran = shell(script);
    CAPTURE(script);
    INFO(ran.out);
    INFO(ran.err);
    REQUIRE(ran.status == 0);
    return ran.out;
  };
  works(fmt::format("cmake --install '{}' --prefix '{}'", build_dir(), prefix));
  for (const char* file :
       {"bin/mmuscope", "share/man/man1/mmuscope.1", "share/bash-completion/completions/mmuscope",
        "share/zsh/vendor-completions/_mmuscope", "share/mmuscope/results/slurm/submit",
        "share/mmuscope/results/labs/glossary.md",
        "share/mmuscope/results/labs/own-pager/start/own_pager.cpp",
        "share/mmuscope/workloads/trace/recorded/shell-pipeline.mmt"}) {
    CAPTURE(file);
    CHECK(fs::exists(folder / "prefix" / file));
  }
  CHECK(!fs::exists(folder / "prefix/include/mmuscope/results/labs/own-pager"));
  works(
      fmt::format("cmake -S tests/external -B '{0}/own' -DCMAKE_BUILD_TYPE=Release "
                  "-DCMAKE_PREFIX_PATH='{1}' && cmake --build '{0}/own'",
                  folder.string(), prefix));
  const std::string out = works(fmt::format("'{}/own/own_pager'", folder.string()));
  MESSAGE(out);
  CHECK(out.find("scripts: 300 runs, ") != std::string::npos);
  CHECK(out.find("accesses checked: agrees\nworkload: ") != std::string::npos);
  CHECK(out.find("forgetful: ") != std::string::npos);
  CHECK(out.find("under forgetful: ") != std::string::npos);
  CHECK(out.find("table_refs") != std::string::npos);
  fs::remove_all(folder);
}
