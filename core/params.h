#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>

#include "core/types.h"

namespace mmuscope {

/// One key of a pager, a workload or the machine: what `list` prints and what parsing checks.
struct ParamInfo {
  enum class Kind : u8 {
    Count,   ///< an integer in [min, max]
    Bytes,   ///< the same, with an optional suffix k, m, g, t (powers of 1024)
    Real,    ///< a decimal fraction in [min, max]
    Switch,  ///< on | off
    Choice,  ///< one of `choices`
    Text,    ///< a path or a name
  };
  std::string_view name;
  Kind kind = Kind::Count;
  std::string_view default_value;  ///< as it would be written
  std::string_view unit;           ///< "pages", "bytes", ...; empty if there is none
  std::string_view meaning;
  double min = 0, max = 0;  ///< of Count, Bytes and Real; max 0: no upper bound
  /// Of Choice: "a|b|c". Of other kinds: words that are valid besides; text() tells.
  std::string_view choices;
};

/// The values of a set of keys: every key has one, its default unless it was given. Getters assert
/// that the key exists and has the kind they return; what a user gave was checked when it was set.
class Params {
 public:
  /// `what` names the owner in messages, e.g. "workload fork".
  Params(std::string what, std::span<const ParamInfo> infos);

  /// Sets one key. Throws InputError: unknown (lists the valid keys and the nearest), malformed or
  /// out of range (says what is valid).
  void set(std::string_view key, std::string_view value);
  /// Sets "key=value,key=value"; empty sets nothing.
  void set_list(std::string_view list);

  u64 count(std::string_view key) const;  ///< Count and Bytes
  double real(std::string_view key) const;
  bool on(std::string_view key) const;
  const std::string& text(std::string_view key) const;  ///< any kind, as it is kept
  /// "key=value,..." in the order of the infos, all keys: the identity of an experiment.
  std::string canonical() const;

 private:
  std::string what_;
  std::span<const ParamInfo> infos_;
  std::map<std::string, std::string, std::less<>> values_;
};

/// "NAME" or "NAME:key=value,key=value".
struct Spec {
  std::string name;
  std::string list;
};
/// Throws InputError if the name is empty.
Spec parse_spec(std::string_view text);

/// What a value of this key may be, in words: "off|1d", "an integer from 1 to 64".
std::string valid_values(const ParamInfo& info);
/// One line for an InputError: "unknown WHAT 'WORD'; did you mean 'NEAR'? valid: ...".
std::string unknown_word(std::string_view what, std::string_view word,
                         std::span<const std::string_view> valid);
/// The candidate with the smallest edit distance to `word`; empty if none is close.
std::string_view nearest_match(std::string_view word, std::span<const std::string_view> candidates);

}  // namespace mmuscope
