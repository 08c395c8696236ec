#pragma once

#include <boost/program_options/options_description.hpp>
#include <boost/program_options/variables_map.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/types.h"

namespace mmuscope {

using Args = std::vector<std::string>;

/// What --help of a command prints around its options.
struct CommandHelp {
  std::string_view usage;           ///< "run --workload SPEC --pager SPEC [options]"
  std::string_view about;           ///< what it does, in lines
  std::string_view examples;        ///< two, in lines
  std::string (*more)() = nullptr;  ///< printed after the options
};

/// An option as --help, the manual page and the shells show it.
struct OptionInfo {
  std::string name;
  char letter = 0;  ///< its short form, 0: none
  bool takes_value = false, repeated = false;
  std::string default_value;  ///< empty: none
  std::string meaning;
};
/// What a command takes.
struct CommandDescription {
  CommandHelp help;
  std::vector<OptionInfo> options;
  bool takes_words = false;
  std::vector<std::string> words;  ///< that the first of its words may be; empty: files
};
/// What the command would tell to --help. Its function must ask CommandLine::parse first.
CommandDescription describe_command(int (*run)(const Args& args));

/// The options of one command and what was given for them. All values are text until asked for.
class CommandLine {
 public:
  explicit CommandLine(const CommandHelp& help) : help_(help), options_("options") {}

  /// An option with a value. An empty default: it has none.
  CommandLine& value(const char* name, const char* default_value, const std::string& meaning);
  /// One that may be given several times.
  CommandLine& repeated(const char* name, const std::string& meaning);
  CommandLine& flag(const char* name, const char* meaning);
  /// Words without an option's name, several of them, are values of `name`. `first`: what the first
  /// of them is chosen from, if it is no file.
  CommandLine& words(const char* name, std::vector<std::string> first = {});

  /// False: --help was given and answered. Throws InputError: an unknown option (with the nearest
  /// one), a value missing, an option given twice. Names are never guessed from a prefix.
  [[nodiscard]] bool parse(const Args& args);

  bool has(const std::string& name) const { return given_.count(name) != 0; }
  /// The value; empty if there is none.
  std::string text(const std::string& name) const;
  /// The same; throws InputError if it was not given.
  std::string required(const std::string& name) const;
  std::vector<std::string> texts(const std::string& name) const;
  /// Throws InputError if it is no integer in [min, max].
  u64 number(const std::string& name, u64 min, u64 max) const;

 private:
  void add(const char* name, OptionInfo info);

  CommandHelp help_;
  boost::program_options::options_description options_, hidden_;
  std::string words_;
  std::vector<std::string> first_words_;
  std::vector<OptionInfo> infos_;
  boost::program_options::variables_map given_;
};

}  // namespace mmuscope
