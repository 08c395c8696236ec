// Does any scenario file crash the program?

#include "results/scenario.h"

#include <cstddef>
#include <cstdint>

#include "core/error.h"
#include "results/catalog.h"

namespace {

using namespace mmuscope;

void run_under(const PagerInfo& pager, const Scenario& scenario) {
  MachineConfig config;
  config.virtualized = pager.virtualized;
  const Params params("pager " + std::string(pager.name), pager.params());
  const ScenarioResult result = run_scenario(
      scenario, config, [&](Machine& machine) { return pager.make(machine, params); },
      std::string(pager.name));
  (void)check_scenario(scenario, result);
  (void)scenario_table(scenario, result);
  (void)scenario_csv_rows(scenario, result);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    Scenario scenario = parse_scenario({reinterpret_cast<const char*>(data), size}, "fuzzed");
    // What is bounded but large says nothing more and takes long.
    if (scenario.memory_bytes > u64{64} << 20) return 0;
    for (const PagerInfo& pager : pager_catalog()) run_under(pager, scenario);
  } catch (const InputError&) {
  }
  return 0;
}
