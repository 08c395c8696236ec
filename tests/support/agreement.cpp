#include "tests/support/agreement.h"

#include <exception>
#include <functional>
#include <optional>

#include "core/error.h"
#include "tests/support/oracle.h"
#include "tests/support/random_script.h"
#include "tests/support/setups.h"

namespace mmuscope {
namespace {

/// A guest under one setup: what it must have in common with the same guest under another.
struct End {
  u64 checked = 0, uncertain = 0, seen = 0, memory = 0;
};

/// Runs a guest under every setup and adds up; `same` if all setups owe it the same.
void check_guest(const std::vector<Setup>& setups, const std::string& guest, bool same,
                 const std::function<End(const Setup&)>& run, Agreement& sum) {
  std::optional<End> first;
  for (const Setup& setup : setups) {
    const std::string where = guest + " under " + setup.name() + ": ";
    End end;
    try {
      end = run(setup);
    } catch (const InputError&) {
      throw;
    } catch (const std::exception& error) {
      sum.disagreement = where + error.what();
      return;
    }
    ++sum.runs;
    sum.checked += end.checked;
    sum.uncertain += end.uncertain;
    if (!same) continue;
    if (!first) first = end;
    if (end.checked != first->checked || end.seen != first->seen || end.memory != first->memory) {
      sum.disagreement =
          where + "another outcome, permitted by itself, than under " + setups.front().name();
      return;
    }
  }
}

End run_workload(const Setup& setup, const std::string& text, unsigned vcpus,
                 MachineConfig config) {
  const Spec spec = parse_spec(text);
  const WorkloadInfo& info = find_workload(spec.name);
  Params params("workload " + spec.name, info.params);
  params.set_list(spec.list);
  const std::unique_ptr<Workload> workload = info.make(params, 1);
  config.memory_bytes = workload->memory_bytes() + config.swap_bytes;
  config.vcpus = vcpus;
  const auto machine = make_machine(setup, config);
  Oracle oracle(*machine);
  workload->run(*machine, nullptr);
  oracle.check_memory();
  return {oracle.checked(), oracle.uncertain(), oracle.digest(), oracle.memory_digest()};
}

}  // namespace

Agreement check_scripts(std::span<const PagerInfo> pagers, u64 first_seed, u64 last_seed,
                        unsigned length) {
  Agreement sum;
  const std::vector<Setup> setups = all_setups(pagers);
  for (u64 seed = first_seed; seed <= last_seed && sum.holds(); ++seed) {
    const RandomScript script = random_script(seed, length);
    sum.careful += script.careful;
    const auto run = [&](const Setup& setup) {
      const ScriptEnd end = run_script(setup, script.start, script.script);
      if (script.careful && end.uncertain != 0) {
        throw Disagreement("a guest that does every flush was left a choice: the script is wrong");
      }
      return End{end.checked, end.uncertain, end.seen, end.memory};
    };
    check_guest(setups, "the script of seed " + std::to_string(seed), script.careful, run, sum);
  }
  return sum;
}

Agreement check_workload(std::span<const PagerInfo> pagers, const std::string& workload,
                         unsigned vcpus, const MachineConfig& config) {
  Agreement sum;
  const auto run = [&](const Setup& setup) { return run_workload(setup, workload, vcpus, config); };
  check_guest(all_setups(pagers), workload + " on " + std::to_string(vcpus) + " vCPUs", true, run,
              sum);
  return sum;
}

std::string script_text(u64 seed, unsigned length) {
  return text_of(random_script(seed, length).script);
}

}  // namespace mmuscope
