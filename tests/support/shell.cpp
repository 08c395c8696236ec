#include "tests/support/shell.h"

#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "results/csv.h"
#include "tests/support/paths.h"

namespace mmuscope {

Ran shell(const std::string& script) {
  namespace fs = std::filesystem;
  const std::string base =
      (fs::temp_directory_path() / fmt::format("mmuscope_command_{}", getpid())).string();
  const std::string command =
      fmt::format("(mmuscope='{}/mmuscope'; cd '{}' && {}\n) >'{}.out' 2>'{}.err' </dev/null",
                  build_dir(), source_dir(), script, base, base);
  const int raw = std::system(command.c_str());
  Ran ran;
  ran.status = WIFEXITED(raw) ? WEXITSTATUS(raw) : 128 + WTERMSIG(raw);
  ran.out = read_file(base + ".out", 1 << 26);
  ran.err = read_file(base + ".err", 1 << 26);
  fs::remove(base + ".out");
  fs::remove(base + ".err");
  return ran;
}

}  // namespace mmuscope
