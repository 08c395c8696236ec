#include <fmt/format.h>
#include <sys/wait.h>

#include <cstdio>

#include "core/error.h"
#include "results/csv.h"
#include "results/labs/grade.h"

namespace mmuscope {
namespace {

namespace fs = std::filesystem;

struct Ran {
  int status = -1;
  std::string out;  ///< standard output and error together
};

std::string quoted(const std::string& text) {
  std::string q = "'";
  for (const char c : text) q += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return q + "'";
}

Ran run_command(const std::string& command) {
  Ran ran;
  FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  if (pipe == nullptr) throw InputError("no shell can be started");
  char buffer[4096];
  while (const std::size_t n = fread(buffer, 1, sizeof buffer, pipe)) ran.out.append(buffer, n);
  const int status = pclose(pipe);
  ran.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return ran;
}

/// Where find_package(mmuscope) is to look.
std::string package_prefix(const std::string& asked) {
  if (!asked.empty()) {
    if (!fs::is_directory(asked)) throw InputError("--prefix " + asked + ": no folder");
    return fs::absolute(asked).string();
  }
  std::error_code ignored;
  const fs::path bin = fs::read_symlink("/proc/self/exe", ignored).parent_path();
  // In the build tree the package stands beside the program.
  return (fs::exists(bin / "mmuscopeConfig.cmake", ignored) ? bin : bin.parent_path()).string();
}

/// The compiler's first complaint, and a few lines after it.
std::string first_error(const std::string& said) {
  std::size_t at = said.find("error");
  if (at == said.npos) at = said.size() > 600 ? said.size() - 600 : 0;
  at = said.rfind('\n', at) + 1;  // npos + 1 is 0
  std::string lines;
  for (unsigned i = 0; i < 8 && at < said.size(); ++i) {
    const std::size_t end = std::min(said.find('\n', at), said.size());
    lines += (lines.empty() ? "" : "\n    ") + said.substr(at, end - at);
    at = end + 1;
  }
  return lines;
}

}  // namespace

PagerVerdict try_pager(const Lab& lab, const fs::path& dir, const std::string& prefix) {
  const std::string build = quoted((fs::absolute(dir) / "build" / "check").string());
  PagerVerdict verdict;
  // A package found for another prefix, earlier, is forgotten.
  Ran ran = run_command(
      fmt::format("cmake -U mmuscope_DIR -S {} -B {} -DCMAKE_BUILD_TYPE=Release -DOWN_PAGER={} "
                  "-DCMAKE_PREFIX_PATH={}",
                  quoted(fs::absolute(lab.folder / "driver").string()), build,
                  quoted(fs::absolute(dir).string()), quoted(package_prefix(prefix))));
  if (ran.status == 127) {
    throw InputError("cmake is not here: this lab needs cmake and a C++20 compiler");
  }
  if (ran.status != 0) {
    const fs::path log = dir / "build" / "cmake.log";
    fs::create_directories(log.parent_path());
    write_file(log.string(), ran.out);
    throw InputError(
        fmt::format("the lab cannot be configured: is the package mmuscope (mmuscope-dev) in {}? "
                    "valid: --prefix DIR that it was installed to; what CMake said is in {}",
                    package_prefix(prefix), log.string()));
  }
  ran = run_command("cmake --build " + build + " --parallel 2");
  if (ran.status != 0) {
    verdict.unbuilt = first_error(ran.out);
    return verdict;
  }
  ran = run_command(build + "/own_pager_check");
  const std::size_t begin = ran.out.rfind("\n{\"parts\"");
  const nlohmann::json j = nlohmann::json::parse(
      begin == ran.out.npos ? std::string_view() : std::string_view(ran.out).substr(begin), nullptr,
      false);
  if (j.is_discarded()) {
    verdict.parts.emplace_back(
        "scripts", fmt::format("it ended with status {}: {}", ran.status, first_error(ran.out)));
    return verdict;
  }
  for (const auto& part : j.at("parts")) {
    verdict.parts.emplace_back(part.at(0).get<std::string>(), part.at(1).get<std::string>());
  }
  verdict.table = j.at("table").get<std::string>();
  return verdict;
}

}  // namespace mmuscope
