#include "results/scenario.h"

#include <fmt/format.h>

#include "core/error.h"
#include "results/commands/commands.h"

namespace mmuscope {
namespace {

std::string format_help() {
  std::vector<std::string_view> names = scenario_figures();
  return fmt::format(
      "the file: JSON\n"
      "  {{\"name\", \"vcpus\": N, \"cr3\": GPA, of every vCPU at the start,\n"
      "   \"memory\": [[gpa, value, count, step], ...], words: at gpa+8*i stands value+step*i\n"
      "   \"steps\": [{{\"label\", \"ops\": [...], \"expect\": {{figure: n, ...}}}}, ...],\n"
      "   \"final_memory\": [[gpa, value], ...]}}, and if need be\n"
      "  \"memory_bytes\" (64 MiB), \"backing\" (\"4k\"), \"pager\" (\"shadow-unsync\"): whose "
      "figures `expect` holds,\n"
      "  \"controls\": {{cr0_wp cr4_pcide cr4_pge cr4_smep cr4_smap efer_nxe la57 ac}}\n"
      "  ops  [\"r\"|\"x\", vcpu, gva], [\"w\", vcpu, gva, value]: by the user; R X W: by the "
      "supervisor\n"
      "       [\"cr3\"|\"cr0\"|\"cr4\", vcpu, value], [\"invlpg\", vcpu, gva], "
      "[\"invpcid\", vcpu, type, pcid, gva]\n"
      "       [\"dirty_log\", 0|1], [\"get_dirty_log\"], [\"shadow_page_limit\", pages], "
      "[\"peek\", gpa]\n"
      "  an integer may be a string of hexadecimal: \"0x1000\"\n"
      "  an access may end in {{\"fault\": \"pf\"|\"gp\", \"error_code\": n}} or {{\"value\": n}}\n"
      "figures that a step may expect: {}\n",
      fmt::join(names, " "));
}

constexpr CommandHelp kHelp = {
    "scenario FILE... [options]",
    "Runs machine-level scenarios and prints what every step counted; with --check compares with\n"
    "what the file expects instead: exit status 1 if something differs. Under another pager than\n"
    "the file's, faults, values and final_memory are compared and counters are not.\n",
    "  mmuscope scenario tests/scenarios/*.json --check\n"
    "  mmuscope scenario tests/scenarios/cold_walk.json --pager nested:format=npt --csv -\n",
    format_help};

}  // namespace

int scenario_command(const Args& args) {
  CommandLine line(kHelp);
  line.words("file")
      .value("pager", "", "SPEC of the pager; without it the file's own")
      .value("cpu", std::string(kDefaultCpu).c_str(), "CPU model")
      .flag("check", "compares with what the file expects")
      .value("csv", "", "writes scenario,step,label,counter,expected,actual; - is standard output");
  if (!line.parse(args)) return kDone;
  const std::vector<std::string> files = line.texts("file");
  if (files.empty()) throw InputError("no FILE; usage: mmuscope " + std::string(kHelp.usage));
  const std::string cpu{cpu_model(line.text("cpu")).name};
  std::string csv = csv_line(scenario_csv_header()), text;
  bool all_hold = true;
  for (const std::string& file : files) {
    const Scenario scenario = load_scenario(file);
    const ScenarioResult result =
        run_scenario(scenario, line.has("pager") ? line.text("pager") : scenario.pager, cpu);
    for (const CsvRow& row : scenario_csv_rows(scenario, result)) csv += csv_line(row);
    if (line.has("check")) {
      const ScenarioCheck check = check_scenario(scenario, result);
      all_hold = all_hold && check.failures.empty();
      text += check_text(scenario, result, check);
    } else {
      text += scenario_table(scenario, result);
    }
  }
  if (line.has("csv")) write_file(line.text("csv"), csv);
  if (line.text("csv") != "-") fmt::print("{}", text);
  return all_hold ? kDone : kCheckFailed;
}

}  // namespace mmuscope
