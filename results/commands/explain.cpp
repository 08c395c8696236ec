#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>

#include "core/error.h"
#include "core/params.h"
#include "results/catalog.h"
#include "results/commands/commands.h"
#include "results/experiment.h"
#include "results/narration.h"

namespace mmuscope {
namespace {

constexpr CommandHelp kHelp = {
    "explain --pager SPEC (--gva ADDR --access r|w|x | --scenario FILE --op N) [options]",
    "Tells what one access makes the machine do: each table entry read, in which dimension, what "
    "a\n"
    "cache answered, what faulted, what the hypervisor did. The events told add up to the "
    "counters.\n"
    "With --gva: a user's access in a small guest that maps the page and the one beside it.\n"
    "With --scenario: one op of the file, counted from 1 through all its steps, after those "
    "before\n"
    "it (the machine is the scenario's; of --set, keys that a scenario has too are ignored).\n",
    "  mmuscope explain --pager nested --gva 0x4000000000 --access r --set walk-caches=off\n"
    "  mmuscope explain --pager shadow --scenario tests/truth/kvm/demand_touch.json --op 3 "
    "--json\n"};

u64 address_of(const std::string& text) {
  std::size_t used = 0;
  try {
    const u64 value = std::stoull(text, &used, 0);
    if (used == text.size() && text[0] != '-') return value;
  } catch (const std::exception&) {
  }
  throw InputError("--gva " + text + " is not valid; valid: an address, as 0x4000000000 or 4096");
}

/// The place of a word among the valid ones.
template <std::size_t kCount>
unsigned choice(const CommandLine& line, const char* option,
                const std::string_view (&valid)[kCount]) {
  const std::string word = line.required(option);
  const auto* at = std::find(std::begin(valid), std::end(valid), word);
  if (at == std::end(valid)) {
    throw InputError(unknown_word(std::string("--") + option, word, std::span(valid)));
  }
  return static_cast<unsigned>(at - std::begin(valid));
}

constexpr std::string_view kAccesses[] = {"r", "w", "x"};
constexpr std::string_view kSizes[] = {"4k", "2m", "1g"};

Narration narrated(const CommandLine& line, const MachineConfig& machine) {
  const std::string pager = line.required("pager");
  if (line.has("scenario")) {
    if (line.has("gva") || line.has("access")) {
      throw InputError("--scenario has its own accesses: give --op, not --gva and --access");
    }
    (void)line.required("op");
    return narrate_scenario(load_scenario(line.text("scenario")),
                            line.number("op", 1, u64{1} << 32), pager, machine);
  }
  if (line.has("op")) throw InputError("--op is of a --scenario");
  LoneAccess access;
  access.va = Gva(address_of(line.required("gva")));
  access.access = {static_cast<AccessKind>(choice(line, "access", kAccesses)), Privilege::User};
  access.guest_page = static_cast<PageSize>(choice(line, "guest-page", kSizes));
  access.before = static_cast<Before>(choice(line, "before", kBeforeNames));
  return narrate_access(access, pager, machine);
}

}  // namespace

int explain_command(const Args& args) {
  CommandLine line(kHelp);
  line.value("pager", "", "SPEC of the pager")
      .value("gva", "", "guest-virtual address of the access")
      .value("access", "", "r, w or x")
      .value("guest-page", "4k", "page of the guest's that maps it: 4k, 2m, 1g")
      .value("before", "cold",
             "what the guest did before: nothing; cold: the same access, then all caches were "
             "flushed; flushed: the same, then a MOV to CR3; near: as cold, then the page beside; "
             "again: the same access a moment ago; read: as cold, but a load")
      .value("scenario", "", "file of the scenario")
      .value("op", "", "number of its op, from 1")
      .value("cpu", std::string(kDefaultCpu).c_str(), "CPU model")
      .repeated("set", "key=value of the machine")
      .flag("json", "one JSON object, for tools");
  if (!line.parse(args)) return kDone;
  const MachineConfig machine = parse_machine(line.text("cpu"), line.texts("set"));
  const Narration n = narrated(line, machine);
  if (line.has("json")) {
    fmt::print("{}\n", narration_json(n));
  } else {
    fmt::print("{}", narration_text(n, isatty(STDOUT_FILENO) != 0));
  }
  return kDone;
}

}  // namespace mmuscope
