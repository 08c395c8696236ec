#include "tests/support/setups.h"

namespace mmuscope {

std::string Setup::name() const { return pager + (backing == PageSize::k2M ? " on 2M" : ""); }

std::vector<Setup> all_setups(std::span<const PagerInfo> pagers) {
  std::vector<Setup> setups;
  for (const PagerInfo& info : pagers) {
    std::vector<std::string> specs{std::string(info.name)};
    for (const ParamInfo& param : info.params()) {
      if (param.name == "format") specs = {specs[0] + ":format=ept", specs[0] + ":format=npt"};
    }
    for (const std::string& spec : specs) {
      setups.push_back({spec, PageSize::k4K, pagers});
      if (info.virtualized) setups.push_back({spec, PageSize::k2M, pagers});
    }
  }
  return setups;
}

Machine::MakePager pager_maker(const std::string& text, bool& virtualized,
                               std::span<const PagerInfo> pagers) {
  const Spec spec = parse_spec(text);
  const PagerInfo& info = find_pager(spec.name, pagers);
  Params params("pager " + spec.name, info.params());
  params.set_list(spec.list);
  virtualized = info.virtualized;
  return [&info, params](Machine& machine) { return info.make(machine, params); };
}

std::unique_ptr<Machine> make_machine(const Setup& setup, MachineConfig config) {
  config.backing = setup.backing;
  config.walk_caches = setup.walk_caches;
  config.walk_cache_kind = setup.walk_cache_kind;
  const Machine::MakePager make = pager_maker(setup.pager, config.virtualized, setup.pagers);
  return std::make_unique<Machine>(config, make);
}

}  // namespace mmuscope
