// The manual page and the shells' completion, read by the programs that they are for.

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "results/catalog.h"
#include "results/commands/commands.h"
#include "results/suite/suite.h"
#include "tests/support/shell.h"

using namespace mmuscope;

namespace {

bool has_program(const std::string& name) {
  return shell("command -v " + name + " >/dev/null").status == 0;
}

/// What bash offers after the words, the last of which is being typed.
std::string bash_offers(const std::string& words) {
  const Ran ran = shell(fmt::format(
      "bash -c 'source <(\"$0\" help --completion bash); complete -p mmuscope >/dev/null || exit 9;"
      " COMP_WORDS=({}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1));"
      " _mmuscope; echo \"${{COMPREPLY[*]}}\"' \"$mmuscope\"",
      words));
  CHECK(ran.status == 0);
  CHECK(ran.err.empty());
  return ran.out;
}

}  // namespace

TEST_CASE("help: every option that a command knows is described") {
  for (const Command& c : commands()) {
    const CommandDescription d = describe_command(c.run);
    CAPTURE(c.name);
    CHECK(d.help.usage.substr(0, c.name.size()) == c.name);
    REQUIRE(!d.options.empty());
    CHECK(d.options.back().name == "help");
    for (const OptionInfo& o : d.options) CHECK(!o.meaning.empty());
  }
  const CommandDescription suite = describe_command(suite_command);
  CHECK(suite.options[0].name == "out");
  CHECK(suite.options[0].takes_value);
  CHECK(suite.options[1].name == "jobs");
  CHECK(!suite.options[1].default_value.empty());
  CHECK(suite.words.front() == "default");
  CHECK(describe_command(trace_command).options[0].letter == 'o');
}

TEST_CASE("help: the manual page holds all tables, and man has nothing to complain of") {
  const std::string page = manual_page();
  const auto tells = [&](const std::string& text) {
    std::string escaped;
    for (const char c : text) {
      if (c == '-') escaped += '\\';
      escaped += c;
    }
    CAPTURE(escaped);
    CHECK(page.find(escaped) != std::string::npos);
  };
  for (const Command& c : commands()) {
    tells(fmt::format(".SS \"{}\"", c.name));
    for (const OptionInfo& o : describe_command(c.run).options) tells(fmt::format("--{}", o.name));
  }
  for (const PagerInfo& p : pager_catalog()) {
    for (const ParamInfo& k : p.params()) tells(fmt::format(".B {}=", k.name));
  }
  for (const WorkloadInfo& w : workload_catalog()) tells(std::string(w.description));
  for (const NamedSuite& s : named_suites()) tells(fmt::format(".B {}\n", s.name));
  if (!has_program("man")) {
    MESSAGE("no man here: apt-get install man-db");
    return;
  }
  const Ran man = shell("\"$mmuscope\" help --man | MANWIDTH=100 man --warnings=all -l - | cat");
  CHECK(man.status == 0);
  CHECK(man.err == "");
  CHECK(man.out.find("--workload TEXT") != std::string::npos);
  CHECK(man.out.find("mmuscope list workloads\n") != std::string::npos);
}

TEST_CASE("help: bash completes commands, options and their values") {
  CHECK(bash_offers("mmuscope sui") == "suite\n");
  CHECK(bash_offers("mmuscope --v") == "--version\n");
  CHECK(bash_offers("mmuscope list wo") == "workloads\n");
  CHECK(bash_offers("mmuscope suite de") == "default\n");
  CHECK(bash_offers("mmuscope run --workload fo") == "fork\n");
  CHECK(bash_offers("mmuscope compare --pager shadow --pager ne") == "nested\n");
  // A SPEC as readline breaks it into words.
  CHECK(bash_offers("mmuscope run --pager nested : pa") == "page=\n");
  CHECK(bash_offers("mmuscope compare --pager native --pager nested : page = 4k,pm") ==
        "4k,pml=\n");
  CHECK(bash_offers("mmuscope run --pager native : p") == "\n");
  CHECK(bash_offers("mmuscope run --workload fork : oper") == "operations=\n");
  CHECK(bash_offers("mmuscope run --set back") == "backing=\n");
  CHECK(bash_offers("mmuscope suite default --re") == "--resume\n");
  CHECK(bash_offers("mmuscope help --completion z") == "zsh\n");
  // Nothing to choose from: bash goes on to files.
  CHECK(bash_offers("mmuscope suite --out x") == "\n");
  CHECK(bash_offers("mmuscope cases x") == "\n");
  const Ran files = shell(
      "bash -c 'source <(\"$0\" help --completion bash); complete -p mmuscope' "
      "\"$mmuscope\"");
  CHECK(files.out == "complete -o bashdefault -o default -F _mmuscope mmuscope\n");
}

TEST_CASE("help: zsh completes commands, options and their values") {
  if (!has_program("zsh")) {
    MESSAGE("no zsh here: apt-get install zsh");
    return;
  }
  const auto completes = [&](const std::string& line, const std::string& to) {
    const Ran ran = shell(fmt::format(
        "f=$(mktemp); \"$mmuscope\" help --completion zsh >$f; zsh -f tests/results/zsh_offers $f "
        "'{}' '{}'; rm -f $f",
        line, to));
    CAPTURE(ran.out);
    CHECK(ran.out.find(to) != std::string::npos);
  };
  completes("mmuscope sui", "mmuscope suite ");
  completes("mmuscope run --workload fo", "--workload fork ");
  completes("mmuscope compare --pager ne", "--pager nested ");
  completes("mmuscope run --pager nested:pa", "--pager nested:page=");
  completes("mmuscope run --workload fork:processes=2,oper", "processes=2,operations=");
  completes("mmuscope suite --res", "--resume ");
  completes("mmuscope list wo", "list workloads ");
}

TEST_CASE("help: of a command, and bad asks") {
  const Ran own = shell("\"$mmuscope\" help run");
  CHECK(own.status == 0);
  CHECK(own.out == shell("\"$mmuscope\" run --help").out);
  CHECK(shell("\"$mmuscope\" help").out == usage());
  CHECK(shell("\"$mmuscope\" help rnu").err.find("did you mean 'run'?") != std::string::npos);
  CHECK(shell("\"$mmuscope\" help --completion fish").status == 2);
  CHECK(shell("\"$mmuscope\" help run --man").status == 2);
  const Ran version = shell("\"$mmuscope\" --version");
  CHECK(version.status == 0);
  CHECK(version.out.substr(0, 9) == "mmuscope ");
}
