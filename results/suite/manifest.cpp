#include "results/suite/manifest.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <ctime>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "core/error.h"
#include "results/csv.h"
#include "results/version.h"

namespace mmuscope {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kFile = "manifest.json";
constexpr std::size_t kMaxFile = 1 << 26;

std::string cpu_name() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

Json this_machine() {
  utsname names{};
  uname(&names);
  const auto memory =
      static_cast<u64>(sysconf(_SC_PHYS_PAGES)) * static_cast<u64>(sysconf(_SC_PAGESIZE));
  return {{"host", names.nodename},
          {"cpu", cpu_name()},
          {"cpus", std::thread::hardware_concurrency()},
          {"memory_bytes", memory},
          {"system", fmt::format("{} {} {}", names.sysname, names.release, names.machine)}};
}

Json to_json(const Manifest& m) {
  Json json = {{"program", "mmuscope"}, {"version", m.version}, {"digest", m.digest},
               {"suite", m.suite},      {"cells", m.cells},     {"shard", m.shard.text()},
               {"seeds", m.seeds},      {"command", m.command}, {"in", m.folder},
               {"started", m.started},  {"seconds", m.seconds}, {"finished", m.finished},
               {"suite_file", m.text}};
  for (const std::string& part : m.merged) {
    Json& shard = json["merged"].emplace_back(Json::parse(part));
    for (const char* common : {"suite_file", "seeds"}) shard.erase(common);
  }
  return json;
}

Manifest from_json(const Json& json) {
  Manifest m;
  m.read_from = json.dump();
  json.at("version").get_to(m.version);
  m.digest = json.value("digest", "");
  json.at("suite").get_to(m.suite);
  json.at("cells").get_to(m.cells);
  m.shard = parse_shard(json.at("shard").get<std::string>());
  json.at("seeds").get_to(m.seeds);
  json.at("command").get_to(m.command);
  json.at("in").get_to(m.folder);
  json.at("started").get_to(m.started);
  json.at("seconds").get_to(m.seconds);
  json.at("finished").get_to(m.finished);
  json.at("suite_file").get_to(m.text);
  return m;
}

}  // namespace

Manifest begin_manifest(const Suite& suite, const Shard& shard, const std::string& command) {
  Manifest m;
  m.version = version();
  m.digest = program_digest();
  m.suite = suite.name;
  m.text = suite.text;
  m.cells = suite.cells.size();
  m.shard = shard;
  std::set<u64> seeds;
  for (const Experiment& e : suite.cells) seeds.insert(e.seed);
  m.seeds.assign(seeds.begin(), seeds.end());
  m.command = command;
  m.folder = std::filesystem::current_path().string();
  m.started = fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)));
  return m;
}

void write_manifest(const std::filesystem::path& folder, const Manifest& manifest) {
  Json json = to_json(manifest);
  json["built"] = build_description();
  json["machine"] = this_machine();
  // A path or a suite file need not be UTF-8; what is not is replaced rather than refused.
  write_file((folder / kFile).string(),
             json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

Manifest read_manifest(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / kFile;
  if (!std::filesystem::exists(path)) {
    throw InputError(folder.string() + ": holds no results of a suite: no " + kFile);
  }
  try {
    return from_json(Json::parse(read_file(path, kMaxFile)));
  } catch (const nlohmann::json::exception& error) {
    throw InputError(path.string() + ": is no manifest: " + error.what());
  } catch (const InputError& error) {
    throw InputError(path.string() + ": is no manifest: " + error.what());
  }
}

std::string shell_command(const std::vector<std::string>& words) {
  constexpr const char* kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=:,./@%";
  std::string text;
  for (const std::string& word : words) {
    if (!text.empty()) text += ' ';
    if (!word.empty() && word.find_first_not_of(kPlain) == word.npos) {
      text += word;
      continue;
    }
    text += '\'';
    for (const char c : word) text.append(c == '\'' ? "'\\''" : std::string(1, c));
    text += '\'';
  }
  return text;
}

}  // namespace mmuscope
