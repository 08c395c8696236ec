#include <fmt/format.h>

#include <map>

#include "core/cpu_model.h"
#include "results/catalog.h"
#include "results/commands/commands.h"

namespace mmuscope {
namespace {

/// What a value of the option is chosen from; nothing: files.
Args values_of(const std::string& option) {
  Args values;
  const auto add_names = [&](const auto& catalogue) {
    for (const auto& info : catalogue) values.emplace_back(info.name);
  };
  if (option == "workload") add_names(workload_catalog());
  if (option == "pager") add_names(pager_catalog());
  if (option == "cpu") add_names(cpu_models());
  if (option == "completion") values = {"bash", "zsh"};
  if (option == "set") {
    for (const ParamInfo& p : machine_params()) values.push_back(std::string(p.name) + "=");
  }
  return values;
}

std::string joined(const Args& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : " ") + word;
  return text;
}

/// The keys that may follow `NAME:`, as shell patterns of option and name: `    --pager:nested)
/// keys='page= ...' ;;`.
std::string key_cases() {
  std::string cases;
  const auto add = [&](std::string_view option, std::string_view name,
                       std::span<const ParamInfo> params) {
    std::string keys;
    for (const ParamInfo& p : params) keys += fmt::format("{}= ", p.name);
    if (!keys.empty()) cases += fmt::format("    --{}:{}) keys='{}' ;;\n", option, name, keys);
  };
  for (const PagerInfo& p : pager_catalog()) add("pager", p.name, p.params());
  for (const WorkloadInfo& w : workload_catalog()) add("workload", w.name, w.params);
  return cases;
}

/// Every command with what it takes.
std::vector<std::pair<const Command*, CommandDescription>> described() {
  std::vector<std::pair<const Command*, CommandDescription>> all;
  for (const Command& c : commands()) all.emplace_back(&c, describe_command(c.run));
  return all;
}

/// Text inside zsh's single quotes and _arguments' brackets.
std::string zsh_text(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    if (c == '\'') {
      escaped += "'\\''";
      continue;
    }
    if (c == '[' || c == ']' || c == ':' || c == '\\') escaped += '\\';
    escaped += c;
  }
  return escaped;
}

/// What _arguments is told about one option.
std::string zsh_option(const OptionInfo& o) {
  std::string spec = fmt::format("{}--{}[{}]", o.repeated ? "*" : "", o.name, zsh_text(o.meaning));
  if (o.takes_value) {
    const Args values = values_of(o.name);
    if (o.name == "pager" || o.name == "workload")
      return "'" + spec + ":SPEC: _mmuscope_spec --" + o.name + "'";
    spec += values.empty() ? ":value:_files" : fmt::format(":value:({})", joined(values));
  }
  return "'" + spec + "'";
}

}  // namespace

std::string bash_completion() {
  std::string names, values, by_command;
  std::map<std::string, Args> seen;
  for (const auto& [command, d] : described()) {
    names += fmt::format("{} ", command->name);
    std::string options;
    for (const OptionInfo& o : d.options) {
      options += "--" + o.name + " ";
      if (o.takes_value) seen.emplace(o.name, values_of(o.name));
    }
    by_command += fmt::format("    {}) options='{}' words='{}' ;;\n", command->name, options,
                              joined(d.words));
  }
  for (const auto& [option, choices] : seen) {
    values += fmt::format("    --{}) choices='{}' ;;\n", option, joined(choices));
  }
  return fmt::format(R"(# bash completion for mmuscope; written by `mmuscope help --completion bash`
_mmuscope() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD - 1]}}
  local choices=none options= words= keys= spec= last i=$COMP_CWORD
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W '{}--help --version' -- "$current"))
    return
  fi
  # A SPEC is several words to readline, which breaks them at ':' and '='.
  while [ "$i" -gt 1 ] && [[ ${{COMP_WORDS[i]}} != --* ]]; do
    spec=${{COMP_WORDS[i]}}$spec
    i=$((i - 1))
  done
  case ${{COMP_WORDS[i]}}:${{spec%%:*}} in
{}  esac
  if [[ $spec == *:* && -n $keys ]]; then
    last=${{spec##*[:,]}}
    current=${{current%"$last"}}
    COMPREPLY=($(compgen -P "${{current##*[:=]}}" -W "$keys" -- "$last"))
    compopt -o nospace 2>/dev/null
    return
  fi
  case $previous in
{}  esac
  if [ "$choices" != none ]; then # nothing to choose from: readline completes files
    COMPREPLY=($(compgen -W "$choices" -- "$current"))
    return
  fi
  case ${{COMP_WORDS[1]}} in
{}  esac
  if [ "$COMP_CWORD" -gt 2 ]; then words=; fi
  case $current in -*) words=$options ;; esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o bashdefault -o default -F _mmuscope mmuscope
)",
                     names, key_cases(), values, by_command);
}

std::string zsh_completion() {
  std::string names, cases;
  for (const auto& [command, d] : described()) {
    names += fmt::format("    '{}:{}'\n", command->name, zsh_text(command->summary));
    cases += fmt::format("    {})\n      _arguments \\\n", command->name);
    for (const OptionInfo& o : d.options) cases += "        " + zsh_option(o) + " \\\n";
    if (!d.words.empty()) cases += fmt::format("        '1:word:({})' \\\n", joined(d.words));
    cases += d.takes_words ? "        '*:file:_files' ;;\n" : "        ;;\n";
  }
  return fmt::format(R"(#compdef mmuscope
# zsh completion for mmuscope; written by `mmuscope help --completion zsh`
_mmuscope_spec() {{
  local keys= name
  if compset -P '*[:,]'; then
    name=${{IPREFIX%%:*}}
    case $1:${{name#--*=}} in
{}    esac
    compadd -q -S '' -- ${{=keys}}
  else
    case $1 in
    --pager) compadd -- {} ;;
    --workload) compadd -- {} ;;
    esac
  fi
}}
_mmuscope() {{
  local -a commands=(
{}  )
  if (( CURRENT == 2 )); then
    _describe command commands
    return
  fi
  shift words
  (( CURRENT-- ))
  case $words[1] in
{}  esac
}}
if [ "$funcstack[1]" = _mmuscope ]; then _mmuscope "$@"; else compdef _mmuscope mmuscope; fi
)",
                     key_cases(), joined(values_of("pager")), joined(values_of("workload")), names,
                     cases);
}

}  // namespace mmuscope
