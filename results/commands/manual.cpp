#include <fmt/format.h>

#include "results/catalog.h"
#include "results/commands/commands.h"
#include "results/suite/suite.h"
#include "results/version.h"

namespace mmuscope {
namespace {

/// Text in which roff sees no macro and no escape.
std::string plain(std::string_view text) {
  std::string escaped;
  bool line_begins = true;
  for (const char c : text) {
    if (line_begins && (c == '.' || c == '\'')) escaped += "\\&";
    line_begins = c == '\n';
    if (c == '\\') {
      escaped += "\\e";
    } else if (c == '-') {
      escaped += "\\-";
    } else {
      escaped += c;
    }
  }
  return escaped;
}

std::string section(std::string_view title) { return fmt::format(".SH {}\n", plain(title)); }
std::string subsection(std::string_view title) { return fmt::format(".SS \"{}\"\n", plain(title)); }
/// A term and, indented below it, what it means.
std::string item(std::string_view term, std::string_view meaning) {
  return fmt::format(".TP\n.B {}\n{}\n", plain(term), plain(meaning));
}
/// Lines as they are.
std::string verbatim(std::string_view lines) { return fmt::format(".nf\n{}.fi\n", plain(lines)); }

std::string option_term(const OptionInfo& o) {
  std::string term = o.letter != 0 ? fmt::format("-{}, --{}", o.letter, o.name) : "--" + o.name;
  if (o.takes_value) term += o.default_value.empty() ? " TEXT" : " VALUE";
  return term;
}

std::string command_text(const Command& command) {
  const CommandDescription d = describe_command(command.run);
  std::string text = subsection(command.name);
  text += verbatim(fmt::format("mmuscope {}\n", d.help.usage)) + ".PP\n" + plain(d.help.about);
  for (const OptionInfo& o : d.options) {
    std::string meaning = o.meaning;
    if (o.repeated) meaning += " (may be repeated)";
    if (!o.default_value.empty()) meaning += fmt::format(" (default: {})", o.default_value);
    text += item(option_term(o), meaning);
  }
  return text + ".PP\nExamples:\n" + verbatim(d.help.examples);
}

std::string keys(std::span<const ParamInfo> params) {
  std::string text;
  for (const ParamInfo& p : params) {
    text += item(fmt::format("{}={}", p.name, p.default_value),
                 fmt::format("{}{}{} ({})", p.meaning, p.unit.empty() ? "" : ", in ", p.unit,
                             valid_values(p)));
  }
  return text;
}

}  // namespace

std::string manual_page() {
  std::string text = fmt::format(".TH MMUSCOPE 1 \"\" \"mmuscope {}\"\n", version());
  text += section("NAME") + "mmuscope \\- shadow and nested paging, emulated and counted\n";
  text += section("SYNOPSIS") + ".B mmuscope\n.I COMMAND\n[options]\n";
  text += section("DESCRIPTION") + verbatim(usage());
  text += section("COMMANDS");
  for (const Command& command : commands()) text += command_text(command);
  text += section("PAGERS");
  for (const PagerInfo& p : pager_catalog()) {
    text += subsection(p.name) + plain(p.description) + "\n" + keys(p.params());
  }
  text += section("WORKLOADS");
  for (const WorkloadInfo& w : workload_catalog()) {
    text += subsection(w.name) + plain(w.description) + "\n" + keys(w.params);
  }
  text += section("KEYS OF --set") + keys(machine_params());
  text += section("SUITES");
  for (const NamedSuite& s : named_suites()) text += item(s.name, s.description);
  return text;
}

}  // namespace mmuscope
