#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/params.h"
#include "results/experiment.h"
#include "results/scenario.h"

namespace mmuscope {

namespace {

using Json = nlohmann::json;

constexpr u64 kMaxFileBytes = u64{16} << 20;
constexpr u64 kMaxMemoryBytes = u64{1} << 40;
/// Of `memory`, so that a short file does not fill the host's memory.
constexpr u64 kMaxInitialBytes = u64{1} << 30;

/// Where in the file we are, for messages; throws them.
class Place {
 public:
  explicit Place(std::string text) : text_(std::move(text)) {}
  Place in(const std::string& what) const { return Place(text_ + ": " + what); }
  [[noreturn]] void fail(const std::string& what) const { throw InputError(text_ + ": " + what); }
  void require(bool holds, const std::string& what) const {
    if (!holds) fail(what);
  }

 private:
  std::string text_;
};

std::string joined(const std::vector<std::string_view>& words) {
  return fmt::format("{}", fmt::join(words, ", "));
}

/// A value as it may stand in a message: short and on one line.
std::string shown(const Json& j) {
  if (j.is_structured()) return j.is_array() ? "a list" : "an object";
  return j.dump(-1, ' ', true, Json::error_handler_t::replace).substr(0, 60);
}

/// A string of hexadecimal, which JSON has no numbers for and people want for addresses.
std::optional<u64> hexadecimal(const Json& j) {
  if (!j.is_string()) return std::nullopt;
  const std::string& text = j.get_ref<const std::string&>();
  u64 value = 0;
  if (text.size() < 3 || text.size() > 18 || text.compare(0, 2, "0x") != 0) return std::nullopt;
  const char* end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data() + 2, end, value, 16);
  if (error != std::errc() || at != end) return std::nullopt;
  return value;
}

u64 integer(const Place& at, const Json& j) {
  if (const auto value = hexadecimal(j)) return *value;
  at.require(j.is_number_unsigned(), "expected an unsigned 64-bit integer, not " + shown(j));
  return j.get<u64>();
}
u64 integer_up_to(const Place& at, const Json& j, u64 max) {
  const u64 value = integer(at, j);
  at.require(value <= max, fmt::format("{} is out of range 0..{}", value, max));
  return value;
}
std::string string_of(const Place& at, const Json& j) {
  at.require(j.is_string(), "expected a string");
  return j.get<std::string>();
}
const Json& array_of(const Place& at, const Json& j) {
  at.require(j.is_array(), "expected a list");
  return j;
}
const Json& object_of(const Place& at, const Json& j) {
  at.require(j.is_object(), "expected an object");
  return j;
}
void known_fields(const Place& at, const Json& object, const std::vector<std::string_view>& valid) {
  for (const auto& [key, value] : object_of(at, object).items()) {
    if (std::find(valid.begin(), valid.end(), key) != valid.end()) continue;
    const std::string_view near = nearest_match(key, valid);
    at.fail(fmt::format("unknown field {}{}; valid: {}", shown(key),
                        near.empty() ? "" : fmt::format(", did you mean \"{}\"?", near),
                        joined(valid)));
  }
}
const Json& field(const Place& at, const Json& object, const char* name) {
  const auto it = object.find(name);
  at.require(it != object.end(), fmt::format("the field \"{}\" is missing", name));
  return *it;
}

// --- ops -----------------------------------------------------------------------------------------

struct OpForm {
  std::string_view name;
  ScenarioOp::Kind kind;
  std::string_view operands;  ///< v vCPU, a gva, g gpa, n value, t INVPCID type, p PCID, s 0 or 1
  Access access = {};
};
constexpr std::array kForms = {
    OpForm{"r", ScenarioOp::Kind::Access, "va", {AccessKind::Read, Privilege::User}},
    OpForm{"w", ScenarioOp::Kind::Access, "van", {AccessKind::Write, Privilege::User}},
    OpForm{"x", ScenarioOp::Kind::Access, "va", {AccessKind::Fetch, Privilege::User}},
    OpForm{"R", ScenarioOp::Kind::Access, "va", {AccessKind::Read, Privilege::Supervisor}},
    OpForm{"W", ScenarioOp::Kind::Access, "van", {AccessKind::Write, Privilege::Supervisor}},
    OpForm{"X", ScenarioOp::Kind::Access, "va", {AccessKind::Fetch, Privilege::Supervisor}},
    OpForm{"cr3", ScenarioOp::Kind::Cr3, "vn"},
    OpForm{"invlpg", ScenarioOp::Kind::Invlpg, "va"},
    OpForm{"invpcid", ScenarioOp::Kind::Invpcid, "vtpa"},
    OpForm{"cr0", ScenarioOp::Kind::Cr0, "vn"},
    OpForm{"cr4", ScenarioOp::Kind::Cr4, "vn"},
    OpForm{"peek", ScenarioOp::Kind::Peek, "g"},
    OpForm{"dirty_log", ScenarioOp::Kind::DirtyLog, "s"},
    OpForm{"get_dirty_log", ScenarioOp::Kind::GetDirtyLog, ""},
    OpForm{"shadow_page_limit", ScenarioOp::Kind::ShadowPageLimit, "n"},
};

const OpForm& form_of(const Place& at, const std::string& name) {
  std::vector<std::string_view> names;
  for (const OpForm& form : kForms) {
    if (form.name == name) return form;
    names.push_back(form.name);
  }
  at.fail(fmt::format("unknown op {}; valid: {}", shown(name), joined(names)));
}

std::string operand_names(const OpForm& form) {
  std::string text;
  for (const char c : form.operands) {
    switch (c) {
      case 'v':
        text += ", vcpu";
        break;
      case 'a':
        text += ", gva";
        break;
      case 'g':
        text += ", gpa";
        break;
      case 't':
        text += ", type";
        break;
      case 'p':
        text += ", pcid";
        break;
      case 's':
        text += ", 0 or 1";
        break;
      default:
        text += ", value";
    }
  }
  return text;
}

Announcement read_announcement(const Place& at, const Json& j, const OpForm& form) {
  at.require(form.kind == ScenarioOp::Kind::Access, "only an access may announce how it ends");
  known_fields(at, j, {"fault", "error_code", "value"});
  Announcement due;
  if (const auto it = j.find("fault"); it != j.end()) {
    const std::string kind = string_of(at.in("\"fault\""), *it);
    at.require(kind == "pf" || kind == "gp", "\"fault\" is \"pf\" or \"gp\", not " + shown(kind));
    due.fault = kind == "pf" ? GuestFault::Kind::PageFault : GuestFault::Kind::GeneralProtection;
  }
  if (const auto it = j.find("error_code"); it != j.end()) {
    at.require(due.fault.has_value(), "\"error_code\" needs a \"fault\"");
    due.error_code = static_cast<u32>(integer_up_to(at.in("\"error_code\""), *it, ~u32{0}));
  }
  if (const auto it = j.find("value"); it != j.end()) {
    at.require(form.access.kind == AccessKind::Read && !due.fault,
               "\"value\" is for a read that is done");
    due.value = integer(at.in("\"value\""), *it);
  }
  return due;
}

void read_operand(const Place& at, char operand, const Json& j, const Scenario& s, ScenarioOp& op) {
  switch (operand) {
    case 'v':
      op.vcpu = static_cast<unsigned>(integer_up_to(at.in("vcpu"), j, s.vcpus - 1));
      break;
    case 'a':
      op.address = integer(at.in("gva"), j);
      break;
    case 'g':
      op.address = integer_up_to(at.in("gpa"), j, s.memory_bytes - 8);
      break;
    case 't':
      op.type = static_cast<InvpcidType>(integer_up_to(at.in("type"), j, 3));
      break;
    case 'p':
      op.pcid = static_cast<u32>(integer_up_to(at.in("pcid"), j, 4095));
      break;
    case 's':
      op.value = integer_up_to(at, j, 1);
      break;
    default:
      op.value = integer(at.in("value"), j);
  }
}

ScenarioOp read_op(const Place& at, const Json& j, const Scenario& s) {
  at.require(j.is_array() && !j.empty() && j[0].is_string(),
             "expected a list that begins with the op's name");
  const OpForm& form = form_of(at, j[0].get<std::string>());
  const std::size_t operands = form.operands.size();
  const bool announces = j.size() == operands + 2 && j.back().is_object();
  at.require(j.size() == operands + 1 || announces,
             fmt::format("expected [\"{}\"{}]", form.name, operand_names(form)));
  ScenarioOp op;
  op.kind = form.kind;
  op.access = form.access;
  for (std::size_t i = 0; i < operands; ++i) read_operand(at, form.operands[i], j[i + 1], s, op);
  if (announces) op.announced = read_announcement(at, j.back(), form);
  const bool data = op.kind == ScenarioOp::Kind::Access && !op.access.is_fetch();
  at.require(!data || Gva(op.address).page_offset() + 8 <= kPageBytes,
             fmt::format("an 8-byte access at {} crosses a page", op.address));
  return op;
}

ScenarioStep read_step(const Place& outer, std::size_t number, const Json& j, const Scenario& s) {
  Place at = outer.in(fmt::format("step {}", number));
  known_fields(at, j, {"label", "ops", "expect"});
  ScenarioStep step;
  if (const auto it = j.find("label"); it != j.end()) {
    step.label = string_of(at.in("\"label\""), *it);
    at = outer.in(fmt::format("step {} ({})", number, step.label));
  }
  std::size_t op = 0;
  for (const Json& one : array_of(at.in("\"ops\""), field(at, j, "ops"))) {
    step.ops.push_back(read_op(at.in(fmt::format("op {}", ++op)), one, s));
  }
  if (const auto it = j.find("expect"); it != j.end()) {
    known_fields(at.in("\"expect\""), *it, scenario_figures());
    for (const auto& [name, value] : it->items()) {
      step.expect.emplace_back(name, integer(at.in("\"expect\": \"" + name + "\""), value));
    }
  }
  return step;
}

// --- the whole -----------------------------------------------------------------------------------

bool read_switch(const Place& at, const Json& j) {
  if (j.is_boolean()) return j.get<bool>();
  at.require(j.is_number_unsigned() && j.get<u64>() <= 1, "expected 0, 1, true or false");
  return j.get<u64>() == 1;
}

Controls read_controls(const Place& at, const Json& j) {
  Controls c;
  known_fields(
      at, j, {"cr0_wp", "cr4_pcide", "cr4_pge", "cr4_smep", "cr4_smap", "efer_nxe", "la57", "ac"});
  const auto take = [&](const char* name, bool& to) {
    if (const auto it = j.find(name); it != j.end()) to = read_switch(at.in(name), *it);
  };
  bool la57 = false;
  take("cr0_wp", c.wp);
  take("cr4_pcide", c.pcide);
  take("cr4_pge", c.pge);
  take("cr4_smep", c.smep);
  take("cr4_smap", c.smap);
  take("efer_nxe", c.nxe);
  take("la57", la57);
  take("ac", c.ac);
  c.levels = la57 ? 5 : 4;
  return c;
}

PageSize read_backing(const Place& at, const Json& j) {
  const std::string size = string_of(at, j);
  if (size == "4k") return PageSize::k4K;
  if (size == "2m") return PageSize::k2M;
  if (size == "1g") return PageSize::k1G;
  at.fail(shown(size) + " is none of \"4k\", \"2m\", \"1g\"");
}

void read_machine(const Place& at, const Json& j, Scenario& s) {
  const auto take = [&](const char* name, auto&& read) {
    if (const auto it = j.find(name); it != j.end()) {
      read(at.in(fmt::format("\"{}\"", name)), *it);
    }
  };
  take("name", [&](const Place& p, const Json& v) { s.name = string_of(p, v); });
  take("source", [&](const Place& p, const Json& v) { s.source = string_of(p, v); });
  take("pager", [&](const Place& p, const Json& v) {
    s.pager = string_of(p, v);
    p.require(!s.pager.empty() && s.pager[0] != ':', "expected the name of a pager");
  });
  take("backing", [&](const Place& p, const Json& v) { s.backing = read_backing(p, v); });
  take("controls", [&](const Place& p, const Json& v) { s.controls = read_controls(p, v); });
  take("vcpus", [&](const Place& p, const Json& v) {
    s.vcpus = static_cast<unsigned>(integer_up_to(p, v, kMaxVcpus));
    p.require(s.vcpus >= 1, "at least one vCPU is needed");
  });
  take("memory_bytes", [&](const Place& p, const Json& v) {
    s.memory_bytes = integer_up_to(p, v, kMaxMemoryBytes);
    p.require(s.memory_bytes >= kPageBytes && s.memory_bytes % kPageBytes == 0,
              "expected a multiple of 4096");
  });
  s.cr3 = integer(at.in("\"cr3\""), field(at, j, "cr3"));
  at.in("\"cr3\"").require(
      (s.cr3 & x86::kAddressMask) + kPageBytes <= s.memory_bytes && s.cr3 >> 52 == 0,
      fmt::format("{} is beyond the memory of {} bytes", s.cr3, s.memory_bytes));
}

void read_words(const Place& outer, const Json& j, Scenario& s) {
  u64 pages = 0;
  std::size_t number = 0;
  for (const Json& one : array_of(outer, j)) {
    const Place at = outer.in(fmt::format("entry {}", ++number));
    at.require(one.is_array() && one.size() == 4, "expected [gpa, value, count, step]");
    // A step may be negative: recordings lay values out downwards, too.
    const u64 step = one[3].is_number_integer() ? one[3].get<u64>() : integer(at, one[3]);
    Scenario::Words w{integer(at, one[0]), integer(at, one[1]), integer(at, one[2]), step};
    at.require(w.gpa < s.memory_bytes && w.count <= (s.memory_bytes - w.gpa) / 8,
               fmt::format("{} words at {} go beyond the memory of {} bytes", w.count, w.gpa,
                           s.memory_bytes));
    at.require(w.gpa % 8 == 0, fmt::format("{} is not a multiple of 8", w.gpa));
    pages += w.count * 8 / kPageBytes + 2;
    at.require(pages <= kMaxInitialBytes / kPageBytes, "the entries fill more than 1 GiB");
    s.memory.push_back(w);
  }
}

void read_final_memory(const Place& outer, const Json& j, Scenario& s) {
  std::size_t number = 0;
  for (const Json& one : array_of(outer, j)) {
    const Place at = outer.in(fmt::format("entry {}", ++number));
    at.require(one.is_array() && one.size() == 2, "expected [gpa, value]");
    const u64 gpa = integer_up_to(at, one[0], s.memory_bytes - 8);
    at.require(gpa % 8 == 0, fmt::format("{} is not a multiple of 8", gpa));
    s.final_memory.emplace_back(gpa, integer(at, one[1]));
  }
}

Json parse_json(const Place& at, std::string_view text) {
  try {
    return Json::parse(text);
  } catch (const Json::exception& e) {
    // The library's own message says line and column, or which number is none; what it puts before
    // in brackets is its own business.
    const std::string what = e.what();
    const std::size_t line = what.find("at line");
    const std::size_t begin = line != std::string::npos ? line : what.find("] ") + 2;
    at.fail("not JSON: " + what.substr(begin));
  }
}

}  // namespace

Scenario parse_scenario(std::string_view text, const std::string& file) {
  const Place at(file);
  const Json j = parse_json(at, text);
  known_fields(at, j,
               {"name", "source", "vcpus", "cr3", "memory", "steps", "final_memory", "memory_bytes",
                "backing", "pager", "controls"});
  Scenario s;
  s.file = file;
  s.name = std::filesystem::path(file).stem().string();
  read_machine(at, j, s);
  if (const auto it = j.find("memory"); it != j.end()) read_words(at.in("\"memory\""), *it, s);
  std::size_t number = 0;
  for (const Json& step : array_of(at.in("\"steps\""), field(at, j, "steps"))) {
    s.steps.push_back(read_step(at, ++number, step, s));
  }
  if (const auto it = j.find("final_memory"); it != j.end()) {
    read_final_memory(at.in("\"final_memory\""), *it, s);
  }
  return s;
}

// --- writing -------------------------------------------------------------------------------------

namespace {

using OrderedJson = nlohmann::ordered_json;

OrderedJson op_json(const ScenarioOp& op) {
  const OpForm& form = *std::find_if(kForms.begin(), kForms.end(), [&](const OpForm& f) {
    return f.kind == op.kind && (op.kind != ScenarioOp::Kind::Access || f.access == op.access);
  });
  OrderedJson j = OrderedJson::array({form.name});
  for (const char operand : form.operands) {
    if (operand == 'v') j.push_back(op.vcpu);
    if (operand == 'a' || operand == 'g') j.push_back(op.address);
    if (operand == 'n' || operand == 's') j.push_back(op.value);
    if (operand == 't') j.push_back(static_cast<unsigned>(op.type));
    if (operand == 'p') j.push_back(op.pcid);
  }
  OrderedJson due;
  if (op.announced.fault) {
    due["fault"] = *op.announced.fault == GuestFault::Kind::PageFault ? "pf" : "gp";
  }
  if (op.announced.error_code) due["error_code"] = *op.announced.error_code;
  if (op.announced.value) due["value"] = *op.announced.value;
  if (!due.empty()) j.push_back(due);
  return j;
}

OrderedJson step_json(const ScenarioStep& step) {
  OrderedJson j{{"label", step.label}, {"ops", OrderedJson::array()}};
  for (const ScenarioOp& op : step.ops) j["ops"].push_back(op_json(op));
  OrderedJson expect = OrderedJson::object();
  for (const auto& [name, value] : step.expect) expect[name] = value;
  if (!expect.empty()) j["expect"] = expect;
  return j;
}

OrderedJson controls_json(const Controls& c) {
  OrderedJson j = OrderedJson::object();
  const Controls usual;
  const auto put = [&](const char* name, bool is, bool by_default) {
    if (is != by_default) j[name] = is;
  };
  put("cr0_wp", c.wp, usual.wp);
  put("cr4_pcide", c.pcide, usual.pcide);
  put("cr4_pge", c.pge, usual.pge);
  put("cr4_smep", c.smep, usual.smep);
  put("cr4_smap", c.smap, usual.smap);
  put("efer_nxe", c.nxe, usual.nxe);
  put("la57", c.levels == 5, usual.levels == 5);
  put("ac", c.ac, usual.ac);
  return j;
}

}  // namespace

std::string scenario_json(const Scenario& s) {
  const Scenario usual;
  OrderedJson j{{"name", s.name}, {"source", s.source}, {"vcpus", s.vcpus}, {"cr3", s.cr3}};
  if (s.memory_bytes != usual.memory_bytes) j["memory_bytes"] = s.memory_bytes;
  constexpr std::array kBackings = {"4k", "2m", "1g"};
  if (s.backing != usual.backing) j["backing"] = kBackings[static_cast<unsigned>(s.backing)];
  if (s.pager != usual.pager) j["pager"] = s.pager;
  if (const OrderedJson c = controls_json(s.controls); !c.empty()) j["controls"] = c;
  j["memory"] = OrderedJson::array();
  for (const Scenario::Words& w : s.memory) {
    j["memory"].push_back({w.gpa, w.value, w.count, static_cast<std::int64_t>(w.step)});
  }
  std::vector<std::string> steps;
  for (const ScenarioStep& step : s.steps) steps.push_back(step_json(step).dump());
  std::string text = "{\n";
  for (const auto& [key, value] : j.items()) {
    text += fmt::format(" {}: {},\n", Json(key).dump(), value.dump());
  }
  text += fmt::format(" \"steps\": [\n  {}\n ]", fmt::join(steps, ",\n  "));
  if (!s.final_memory.empty()) {
    OrderedJson words = OrderedJson::array();
    for (const auto& [gpa, value] : s.final_memory) words.push_back({gpa, value});
    text += ",\n \"final_memory\": " + words.dump();
  }
  return text + "\n}\n";
}

Scenario load_scenario(const std::filesystem::path& file) {
  return parse_scenario(read_file(file, kMaxFileBytes), file.string());
}

}  // namespace mmuscope
