#include "core/params.h"

#include <algorithm>
#include <cassert>
#include <cstdlib>
#include <utility>
#include <vector>

#include "core/error.h"

namespace mmuscope {
namespace {

constexpr bool is_digit(char c) { return c >= '0' && c <= '9'; }

/// The power of two that a size suffix stands for; 0 if it is none.
unsigned suffix_shift(char c) {
  switch (c) {
    case 'k':
    case 'K':
      return 10;
    case 'm':
    case 'M':
      return 20;
    case 'g':
    case 'G':
      return 30;
    case 't':
    case 'T':
      return 40;
    default:
      return 0;
  }
}

/// Decimal digits only, then (if allowed) one suffix. False if it is anything else or overflows.
bool parse_integer(std::string_view text, bool suffix, u64& value) {
  unsigned shift = 0;
  if (suffix && !text.empty()) {
    shift = suffix_shift(text.back());
    if (shift != 0) text.remove_suffix(1);
  }
  if (text.empty()) return false;
  value = 0;
  for (const char c : text) {
    if (!is_digit(c) || value > (~u64{0} - static_cast<u64>(c - '0')) / 10) return false;
    value = value * 10 + static_cast<u64>(c - '0');
  }
  if (value > ~u64{0} >> shift) return false;
  value <<= shift;
  return true;
}

/// digits, or digits.digits. The shortest spelling of the same number goes to `canonical`, so that
/// 0.50 and .5 name one experiment.
bool parse_real(std::string_view text, double& value, std::string& canonical) {
  const auto dot = text.find('.');
  std::string_view whole = text.substr(0, dot);
  std::string_view part = dot == text.npos ? std::string_view() : text.substr(dot + 1);
  if ((whole.empty() && part.empty()) || text.size() > 40) return false;
  if (!std::all_of(whole.begin(), whole.end(), is_digit) ||
      !std::all_of(part.begin(), part.end(), is_digit)) {
    return false;
  }
  while (whole.size() > 1 && whole.front() == '0') whole.remove_prefix(1);
  while (!part.empty() && part.back() == '0') part.remove_suffix(1);
  canonical = whole.empty() ? "0" : std::string(whole);
  if (!part.empty()) canonical.append(".").append(part);
  value = std::strtod(canonical.c_str(), nullptr);
  return true;
}

/// Sizes are written with the largest suffix that divides them.
std::string spell_bytes(u64 value) {
  for (const char c : {'t', 'g', 'm', 'k'}) {
    const u64 unit = u64{1} << suffix_shift(c);
    if (value != 0 && value % unit == 0) return std::to_string(value / unit) + c;
  }
  return std::to_string(value);
}

std::string spell(const ParamInfo& info, double bound) {
  if (info.kind == ParamInfo::Kind::Bytes) return spell_bytes(static_cast<u64>(bound));
  if (info.kind == ParamInfo::Kind::Count) return std::to_string(static_cast<u64>(bound));
  std::string text = std::to_string(bound);
  while (text.back() == '0') text.pop_back();
  if (text.back() == '.') text.pop_back();
  return text;
}

bool is_choice(std::string_view choices, std::string_view value) {
  while (true) {
    const auto bar = choices.find('|');
    if (choices.substr(0, bar) == value) return true;
    if (bar == choices.npos) return false;
    choices.remove_prefix(bar + 1);
  }
}

bool in_bounds(const ParamInfo& info, double value) {
  return value >= info.min && (info.max == 0 || value <= info.max);
}

/// The value as it is kept, one spelling for each; false if it is malformed or out of range.
bool normalize(const ParamInfo& info, std::string_view value, std::string& kept) {
  using Kind = ParamInfo::Kind;
  u64 integer = 0;
  double real = 0;
  if (!info.choices.empty() && is_choice(info.choices, value)) {
    kept = value;
    return true;
  }
  switch (info.kind) {
    case Kind::Count:
      if (!parse_integer(value, false, integer)) return false;
      kept = std::to_string(integer);
      return in_bounds(info, static_cast<double>(integer));
    case Kind::Bytes:
      if (!parse_integer(value, true, integer)) return false;
      kept = spell_bytes(integer);
      return in_bounds(info, static_cast<double>(integer));
    case Kind::Real:
      return parse_real(value, real, kept) && in_bounds(info, real);
    case Kind::Switch:
      kept = value;
      return value == "on" || value == "off";
    case Kind::Choice:
      return false;
    case Kind::Text:
      kept = value;
      return true;
  }
  return false;
}

/// Letters to insert, drop or replace, or neighbours to swap, to make one of the other (Damerau's
/// distance, no letter touched twice).
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> before_last, last(b.size() + 1), row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    before_last = std::exchange(last, row);
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({last[j - 1] + (a[i - 1] != b[j - 1]), last[j] + 1, row[j - 1] + 1});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        row[j] = std::min(row[j], before_last[j - 2] + 1);
      }
    }
  }
  return row[b.size()];
}

std::string listing(std::span<const std::string_view> words) {
  std::string text;
  for (const std::string_view w : words) text.append(text.empty() ? "" : ", ").append(w);
  return text;
}

}  // namespace

std::string valid_values(const ParamInfo& info) {
  using Kind = ParamInfo::Kind;
  std::string text;
  switch (info.kind) {
    case Kind::Switch:
      return "on|off" + (info.choices.empty() ? "" : "|" + std::string(info.choices));
    case Kind::Choice:
      return std::string(info.choices);
    case Kind::Text:
      return "text without a comma";
    case Kind::Count:
      text = "an integer";
      break;
    case Kind::Bytes:
      text = "an integer with an optional k, m, g or t";
      break;
    case Kind::Real:
      text = "a decimal fraction";
      break;
  }
  text.append(" from ").append(spell(info, info.min));
  if (info.max != 0) text.append(" to ").append(spell(info, info.max));
  if (!info.choices.empty()) text.append(", or ").append(info.choices);
  return text;
}

std::string unknown_word(std::string_view what, std::string_view word,
                         std::span<const std::string_view> valid) {
  std::string text = "unknown ";
  text.append(what).append(" '").append(word).append("'");
  const std::string_view near = nearest_match(word, valid);
  if (!near.empty()) text.append("; did you mean '").append(near).append("'?");
  text.append(text.back() == '?' ? " valid: " : "; valid: ");
  return text.append(valid.empty() ? "none" : listing(valid));
}

Params::Params(std::string what, std::span<const ParamInfo> infos)
    : what_(std::move(what)), infos_(infos) {
  for (const ParamInfo& info : infos_) {
    std::string& kept = values_[std::string(info.name)];
    [[maybe_unused]] const bool valid = normalize(info, info.default_value, kept);
    assert(valid && "a parameter's default must be valid");
  }
}

void Params::set(std::string_view key, std::string_view value) {
  const auto info =
      std::find_if(infos_.begin(), infos_.end(), [&](const ParamInfo& i) { return i.name == key; });
  if (info == infos_.end()) {
    std::vector<std::string_view> names;
    for (const ParamInfo& i : infos_) names.push_back(i.name);
    throw InputError(what_ + ": " + unknown_word("key", key, names));
  }
  std::string kept;
  if (!normalize(*info, value, kept)) {
    throw InputError(what_ + ": " + std::string(key) + "=" + std::string(value) +
                     " is not valid; valid: " + valid_values(*info));
  }
  values_.find(key)->second = std::move(kept);
}

void Params::set_list(std::string_view list) {
  std::vector<std::string_view> seen;
  for (bool more = !list.empty(); more;) {
    const auto comma = list.find(',');
    const std::string_view item = list.substr(0, comma);
    more = comma != list.npos;
    if (more) list.remove_prefix(comma + 1);
    const auto equals = item.find('=');
    if (equals == item.npos || equals == 0) {
      throw InputError(what_ + ": '" + std::string(item) + "' is not key=value");
    }
    const std::string_view key = item.substr(0, equals);
    if (std::find(seen.begin(), seen.end(), key) != seen.end()) {
      throw InputError(what_ + ": key '" + std::string(key) + "' is given twice");
    }
    seen.push_back(key);
    set(key, item.substr(equals + 1));
  }
}

u64 Params::count(std::string_view key) const {
  const auto found = values_.find(key);
  assert(found != values_.end());
  u64 value = 0;
  [[maybe_unused]] const bool valid = parse_integer(found->second, true, value);
  assert(valid && "the key is no Count and no Bytes");
  return value;
}

double Params::real(std::string_view key) const {
  const auto found = values_.find(key);
  assert(found != values_.end());
  double value = 0;
  std::string spelling;
  [[maybe_unused]] const bool valid = parse_real(found->second, value, spelling);
  assert(valid && "the key is no Real");
  return value;
}

bool Params::on(std::string_view key) const {
  const std::string& value = text(key);
  assert((value == "on" || value == "off") && "the key is no Switch");
  return value == "on";
}

const std::string& Params::text(std::string_view key) const {
  const auto found = values_.find(key);
  assert(found != values_.end());
  return found->second;
}

std::string Params::canonical() const {
  std::string list;
  for (const ParamInfo& info : infos_) {
    list.append(list.empty() ? "" : ",").append(info.name).append("=").append(text(info.name));
  }
  return list;
}

Spec parse_spec(std::string_view text) {
  const auto colon = text.find(':');
  Spec spec{std::string(text.substr(0, colon)),
            colon == text.npos ? "" : std::string(text.substr(colon + 1))};
  if (spec.name.empty()) {
    throw InputError("'" + std::string(text) + "' has no name: write NAME or NAME:key=value,...");
  }
  return spec;
}

std::string_view nearest_match(std::string_view word,
                               std::span<const std::string_view> candidates) {
  std::string_view best;
  // A third of the letters may be wrong: more is another word, not a slip.
  std::size_t best_distance = std::max<std::size_t>(1, word.size() / 3) + 1;
  for (const std::string_view candidate : candidates) {
    const std::size_t distance = edit_distance(word, candidate);
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

}  // namespace mmuscope
