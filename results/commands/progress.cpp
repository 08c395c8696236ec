#include "results/commands/progress.h"

#include <fmt/format.h>

#include <span>

namespace mmuscope {
namespace {

/// "key=value,..." of the keys that have not their default.
std::string changed(const Params& params, std::span<const ParamInfo> infos) {
  const Params plain("", infos);
  std::vector<std::string> keys;
  for (const ParamInfo& info : infos) {
    const std::string& value = params.text(info.name);
    if (value != plain.text(info.name)) keys.push_back(fmt::format("{}={}", info.name, value));
  }
  return fmt::format("{}", fmt::join(keys, ","));
}

/// A cell in few words: what it would be asked for by, defaults left out.
std::string title(const Experiment& e) {
  std::string text;
  const auto add = [&](std::string_view name, std::string_view mark, const std::string& value) {
    if (!text.empty()) text += ' ';
    text += fmt::format("{}{}{}", name, value.empty() ? "" : mark, value);
  };
  add(e.workload->name, ":", changed(e.workload_params, e.workload->params));
  add(e.pager->name, ":", changed(e.pager_params, e.pager->params()));
  if (e.cpu != kDefaultCpu) add(e.cpu, "", "");
  if (const std::string set = changed(e.machine, machine_params()); !set.empty()) add(set, "", "");
  if (e.vcpus != 1) add("vcpus", "=", fmt::format("{}", e.vcpus));
  if (e.vms != 1) add("vms", "=", fmt::format("{}", e.vms));
  if (e.seed != 1) add("seed", "=", fmt::format("{}", e.seed));
  return text;
}

std::string duration(double seconds) {
  const auto whole = static_cast<u64>(seconds + 0.5);
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  return fmt::format("{} h {:02} min", whole / 3600, whole / 60 % 60);
}

}  // namespace

void Progress::operator()(const SuiteProgress& p) {
  if (!terminal_ && log_ == Log::Nothing) return;
  if (p.experiment == nullptr) {
    fmt::print(stderr, "{} of {} experiments taken over\n", p.done, p.all);
    return;
  }
  const std::string pace = pace_of(p);
  if (!terminal_) {
    fmt::print(stderr, "{}/{} cells, {}  {}{}\n", p.done, p.all, pace, title(*p.experiment),
               p.status == "ok" ? "" : fmt::format(": {}", p.status));
    return;
  }
  clear();
  if (p.status != "ok") fmt::print(stderr, "{}: {}\n", title(*p.experiment), p.status);
  fmt::print(stderr, "{}/{} cells, {}  {:.40}", p.done, p.all, pace, title(*p.experiment));
  std::fflush(stderr);
}

void Progress::clear() {
  if (terminal_) fmt::print(stderr, "\r\x1b[K");
}

/// Speed so far, and the time left if the cells that are left take as long as those done.
std::string Progress::pace_of(const SuiteProgress& p) const {
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  const auto done = static_cast<double>(p.done - p.taken_over);
  return fmt::format("{:.1f} million accesses/s, {} left",
                     static_cast<double>(p.accesses) / 1e6 / seconds,
                     duration(seconds / done * static_cast<double>(p.all - p.done)));
}

}  // namespace mmuscope
