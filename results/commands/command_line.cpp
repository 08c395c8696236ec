#include "results/commands/command_line.h"

#include <fmt/format.h>

#include <boost/program_options/errors.hpp>
#include <boost/program_options/parsers.hpp>
#include <boost/program_options/positional_options.hpp>
#include <boost/program_options/value_semantic.hpp>
#include <sstream>

#include "core/error.h"
#include "core/params.h"

namespace mmuscope {
namespace po = boost::program_options;
namespace {

/// Where --help of the command that runs is to be described instead of printed, if it is.
thread_local CommandDescription* wanted = nullptr;

using namespace po::command_line_style;
constexpr int kStyle = unix_style & ~allow_guessing;

/// The first word that belongs to no option, in words; key=value is most likely one of --set.
std::string nameless_word(const Args& args, const po::options_description& known) {
  po::options_description all;
  all.add(known);
  all.add_options()("nameless", po::value<std::vector<std::string>>());
  po::positional_options_description nameless;
  nameless.add("nameless", -1);
  const auto parsed =
      po::command_line_parser(args).options(all).positional(nameless).style(kStyle).run();
  for (const po::option& option : parsed.options) {
    if (option.string_key != "nameless") continue;
    const std::string& word = option.value.front();
    const bool is_setting =
        word.find('=') != word.npos && known.find_nothrow("set", false) != nullptr;
    return fmt::format("'{}' stands without an option's name{}", word,
                       is_setting ? fmt::format(" (--set {}?)", word) : "");
  }
  return "a word without an option's name";
}

}  // namespace

CommandDescription describe_command(int (*run)(const Args& args)) {
  CommandDescription description;
  wanted = &description;
  (void)run({"--help"});
  wanted = nullptr;
  return description;
}

void CommandLine::add(const char* name, OptionInfo info) {
  const std::string names = name;
  const std::size_t comma = names.find(',');
  info.name = names.substr(0, comma);
  if (comma != names.npos) info.letter = names[comma + 1];
  infos_.push_back(std::move(info));
}

CommandLine& CommandLine::value(const char* name, const char* default_value,
                                const std::string& meaning) {
  auto* semantic = po::value<std::string>()->value_name(*default_value ? "VALUE" : "TEXT");
  if (*default_value != '\0') semantic->default_value(default_value);
  options_.add_options()(name, semantic, meaning.c_str());
  add(name, {"", 0, true, false, default_value, meaning});
  return *this;
}

CommandLine& CommandLine::repeated(const char* name, const std::string& meaning) {
  options_.add_options()(name,
                         po::value<std::vector<std::string>>()->composing()->value_name("TEXT"),
                         meaning.c_str());
  add(name, {"", 0, true, true, "", meaning});
  return *this;
}

CommandLine& CommandLine::flag(const char* name, const char* meaning) {
  options_.add_options()(name, meaning);
  add(name, {"", 0, false, false, "", meaning});
  return *this;
}

CommandLine& CommandLine::words(const char* name, std::vector<std::string> first) {
  words_ = name;
  first_words_ = std::move(first);
  hidden_.add_options()(name, po::value<std::vector<std::string>>());
  return *this;
}

bool CommandLine::parse(const Args& args) {
  flag("help", "print this");
  po::options_description all;
  all.add(options_).add(hidden_);
  po::positional_options_description positional;
  if (!words_.empty()) positional.add(words_.c_str(), -1);
  try {
    po::store(po::command_line_parser(args).options(all).positional(positional).style(kStyle).run(),
              given_);
    po::notify(given_);
  } catch (const po::too_many_positional_options_error&) {
    throw InputError(fmt::format("{}; usage: mmuscope {}", nameless_word(args, all), help_.usage));
  } catch (const po::unknown_option& error) {
    std::vector<std::string> names;
    for (const auto& option : options_.options()) names.push_back("--" + option->long_name());
    const std::vector<std::string_view> views(names.begin(), names.end());
    throw InputError(unknown_word("option", error.get_option_name(), views));
  } catch (const po::error& error) {
    throw InputError(error.what());
  }
  if (!has("help")) return true;
  if (wanted != nullptr) {
    *wanted = {help_, infos_, !words_.empty(), first_words_};
    return false;
  }
  std::ostringstream described;
  described << options_;
  fmt::print("usage: mmuscope {}\n\n{}\n{}{}\nexamples:\n{}", help_.usage, help_.about,
             described.str(), help_.more ? "\n" + help_.more() : "", help_.examples);
  return false;
}

std::string CommandLine::text(const std::string& name) const {
  return has(name) ? given_[name].as<std::string>() : "";
}

std::string CommandLine::required(const std::string& name) const {
  if (!has(name)) {
    throw InputError("--" + name + " is missing; usage: mmuscope " + std::string(help_.usage));
  }
  return text(name);
}

std::vector<std::string> CommandLine::texts(const std::string& name) const {
  if (!has(name)) return {};
  return given_[name].as<std::vector<std::string>>();
}

u64 CommandLine::number(const std::string& name, u64 min, u64 max) const {
  const std::string lowest = std::to_string(min);
  const ParamInfo info{name,
                       ParamInfo::Kind::Count,
                       lowest,
                       "",
                       "",
                       static_cast<double>(min),
                       static_cast<double>(max),
                       ""};
  Params params("command line", std::span(&info, 1));
  params.set(name, text(name));
  return params.count(name);
}

}  // namespace mmuscope
