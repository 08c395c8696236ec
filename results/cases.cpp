#include "results/cases.h"

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <charconv>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>
#include <utility>
#include <vector>

#include "core/error.h"
#include "nested/nested_walk.h"

namespace mmuscope {

namespace {

using Json = nlohmann::json;

// --- one case ------------------------------------------------------------------------------------

/// Thrown while a line is read; gets its file and line where it is caught.
struct BadCase : std::runtime_error {
  using std::runtime_error::runtime_error;
};

const Json& member(const Json& object, const char* key) {
  if (!object.is_object()) throw BadCase(fmt::format("an object with \"{}\" is expected", key));
  const auto it = object.find(key);
  if (it == object.end()) throw BadCase(fmt::format("\"{}\" is missing", key));
  return *it;
}

u64 hex(const Json& value, std::string_view what) {
  const auto* text = value.get_ptr<const Json::string_t*>();
  u64 number = 0;
  if (text != nullptr && text->size() > 2 && text->starts_with("0x")) {
    const char* end = text->data() + text->size();
    const auto r = std::from_chars(text->data() + 2, end, number, 16);
    if (r.ec == std::errc() && r.ptr == end) return number;
  }
  throw BadCase(fmt::format("{}: {} is not a string like \"0x1f\" of at most 64 bits", what,
                            value.dump(-1, ' ', false, Json::error_handler_t::replace)));
}
u64 hex_member(const Json& object, const char* key) { return hex(member(object, key), key); }

bool flag(const Json& object, const char* key) {
  const Json& value = member(object, key);
  if (value == 0) return false;
  if (value == 1) return true;
  throw BadCase(fmt::format("\"{}\" must be 0 or 1", key));
}

/// The one of `names` that the member says, as its index.
template <std::size_t kCount>
std::size_t choice(const Json& object, const char* key,
                   const std::array<std::string_view, kCount>& names) {
  const Json& value = member(object, key);
  const auto it = std::find(names.begin(), names.end(), value);
  if (it != names.end()) return static_cast<std::size_t>(it - names.begin());
  throw BadCase(fmt::format("\"{}\" must be one of {}", key, fmt::join(names, ", ")));
}

/// Host-physical memory that holds what a case lists and reads as zero elsewhere.
class CaseMemory {
 public:
  using Word = std::pair<u64, u64>;  // address, value

  explicit CaseMemory(std::vector<Word> words) : words_(std::move(words)) {
    std::sort(words_.begin(), words_.end());
  }
  u64 read(Hpa a) const {
    const auto it = find(a.raw());
    return it != words_.end() && it->first == a.raw() ? it->second : 0;
  }
  /// Only entries that were read as non-zero are ever written.
  void write(Hpa a, u64 value) {
    const auto it = find(a.raw());
    assert(it != words_.end() && it->first == a.raw());
    words_[static_cast<std::size_t>(it - words_.begin())].second = value;
  }

 private:
  std::vector<Word>::const_iterator find(u64 address) const {
    return std::lower_bound(words_.begin(), words_.end(), Word{address, 0});
  }
  std::vector<Word> words_;
};

std::vector<CaseMemory::Word> words(const Json& line, const char* key) {
  const Json& list = member(line, key);
  if (!list.is_array()) throw BadCase(fmt::format("\"{}\" must be a list", key));
  std::vector<CaseMemory::Word> result;
  result.reserve(list.size());
  for (const Json& pair : list) {
    if (!pair.is_array() || pair.size() != 2) {
      throw BadCase(fmt::format("\"{}\" must hold pairs [address, value]", key));
    }
    result.emplace_back(hex(pair[0], key), hex(pair[1], key));
    if (result.back().first % 8 != 0) {
      throw BadCase(
          fmt::format("\"{}\": address {:#x} is no multiple of 8", key, result.back().first));
    }
  }
  return result;
}

/// What an access came to: the name of the result and its values by their names in the files.
struct Observed {
  std::string result;
  std::vector<std::pair<std::string_view, u64>> values;

  std::string text() const {
    std::string s = result;
    for (const auto& [name, value] : values) s += fmt::format(" {}={:#x}", name, value);
    return s;
  }
};

enum class SecondStage : u8 { None, Ept, Npt };

/// A line, read and checked.
struct Case {
  u64 id = 0;
  SecondStage second = SecondStage::None;
  Controls controls;
  u64 cr3 = 0, second_root = 0;
  bool host_nxe = true;
  Access access;
  Gva va;
  std::vector<CaseMemory::Word> before, after;
  Json expected;
};

Case parse_case(const Json& line) {
  Case c;
  const Json& id = member(line, "id");
  if (!id.is_number_unsigned()) throw BadCase("\"id\" must be an unsigned number");
  c.id = id.get<u64>();
  c.second = static_cast<SecondStage>(
      choice(line, "stage2", std::array<std::string_view, 3>{"none", "ept", "npt"}));
  const Json& controls = member(line, "ctl");
  c.controls.wp = flag(controls, "wp");
  c.controls.smep = flag(controls, "smep");
  c.controls.smap = flag(controls, "smap");
  c.controls.nxe = flag(controls, "nxe");
  c.controls.ac = flag(controls, "ac");
  if (c.second == SecondStage::Npt) c.host_nxe = flag(controls, "hnxe");
  c.cr3 = hex_member(line, "cr3") & x86::kAddressMask;
  if (c.second != SecondStage::None) c.second_root = hex_member(line, "s2root");
  const Json& access = member(line, "access");
  c.access.kind = static_cast<AccessKind>(
      choice(access, "kind", std::array<std::string_view, 3>{"read", "write", "fetch"}));
  c.access.privilege = flag(access, "user") ? Privilege::User : Privilege::Supervisor;
  c.va = Gva(hex_member(access, "va"));
  c.before = words(line, "mem");
  c.after = words(line, "post");
  c.expected = line.contains("expected_sdm") ? line["expected_sdm"] : member(line, "expected");
  return c;
}

// --- the emulator's answer -----------------------------------------------------------------------

constexpr u8 kMaxPhysBits = 40;  // of the machine that recorded the cases

WalkRules guest_rules(const Case& c) { return {kMaxPhysBits, c.controls.nxe, true, true, true}; }

Observed run_one_stage(const Case& c, CaseMemory& memory) {
  WalkPath<ShadowFormat> path;
  const auto read = [&](Hpa where, unsigned, u64& entry) {
    entry = memory.read(where);
    return true;
  };
  const auto update = [&](Hpa where, unsigned, u64 seen, u64 bits) {
    memory.write(where, seen | bits);
    return true;
  };
  const WalkVerdict verdict =
      walk_for_access<ShadowFormat>(path, {Hpa(c.cr3), c.controls.levels}, c.va, c.access,
                                    c.controls, guest_rules(c), read, update);
  if (verdict == WalkVerdict::Permitted) return {"ok", {{"pa", path.translate(c.va).raw()}}};
  return {"pf", {{"error_code", page_fault_code(c.access, c.controls, path.status)}}};
}

template <class Dimension>
Observed run_two_stages(const Case& c, const SecondRoot& root, CaseMemory& memory) {
  NestedWalk<Dimension, CaseMemory> walk(memory, root);
  const NestedStart start = NestedStart::at_root(Gpa(c.cr3), c.controls.levels);
  switch (walk.run(start, c.va, c.access, c.controls, guest_rules(c))) {
    case NestedEnd::Ok:
      return {"ok", {{"pa", walk.where().raw()}}};
    case NestedEnd::GuestFault:
      return {"pf", {{"error_code", walk.error_code()}}};
    case NestedEnd::Misconfiguration:
      return {"ept_misconfig", {{"gpa", walk.gpa().raw()}}};
    case NestedEnd::LogFull:  // nothing is logged here
    case NestedEnd::Violation:
      break;
  }
  if (c.second == SecondStage::Npt) {
    return {"npf", {{"exitinfo1", walk.qualification()}, {"gpa", walk.gpa().raw()}}};
  }
  return {
      "ept_violation",
      {{"qualification", walk.qualification()}, {"gpa", walk.gpa().raw()}, {"gla", c.va.raw()}}};
}

Observed run_case(const Case& c, CaseMemory& memory) {
  if (!is_canonical(c.va, c.controls.levels)) return {"gp", {{"error_code", 0}}};
  if (c.second == SecondStage::None) return run_one_stage(c, memory);
  constexpr u64 kEptpFlags = 1 << 6;  // enables accessed and dirty flags
  SecondRoot root;
  root.table = Hpa(c.second_root & x86::kAddressMask);
  root.rules = {kMaxPhysBits, c.host_nxe, (c.second_root & kEptpFlags) != 0, true, true};
  return c.second == SecondStage::Ept ? run_two_stages<EptDimension>(c, root, memory)
                                      : run_two_stages<NptDimension>(c, root, memory);
}

// --- comparison ----------------------------------------------------------------------------------

/// What is wrong, or nothing.
std::string compare(const Case& c, const Observed& seen, const CaseMemory& memory) {
  bool same =
      member(c.expected, "result") == seen.result && c.expected.size() == seen.values.size() + 1;
  for (const auto& [name, value] : seen.values) {
    const auto it = c.expected.find(name);
    same = same && it != c.expected.end() && hex(*it, name) == value;
  }
  if (!same) {
    return fmt::format("expected {}, got {}",
                       c.expected.dump(-1, ' ', false, Json::error_handler_t::replace),
                       seen.text());
  }
  for (const auto& [address, value] : c.after) {
    const u64 now = memory.read(Hpa(address));
    if (now != value) {
      return fmt::format("entry at {:#x}: expected {:#x}, got {:#x}", address, value, now);
    }
  }
  return {};
}

// --- files ---------------------------------------------------------------------------------------

/// The lines of a plain or gzip file, of bounded length.
class Lines {
 public:
  explicit Lines(const std::filesystem::path& file) : name_(file.string()), buffer_(kMaxLine) {
    if (std::filesystem::is_directory(file)) throw InputError(name_ + ": is a directory");
    file_.reset(gzopen(file.c_str(), "rb"));
    if (!file_) throw InputError(name_ + ": cannot be opened");
    gzbuffer(file_.get(), 1 << 18);
  }
  /// False at the end of the file.
  bool next(std::string_view& line) {
    const char* got = gzgets(file_.get(), buffer_.data(), static_cast<int>(buffer_.size()));
    line = got == nullptr ? std::string_view() : std::string_view(got);
    if (got != nullptr) ++number_;
    if (!line.ends_with('\n')) check_end(got != nullptr);
    return got != nullptr;
  }
  std::string where() const { return fmt::format("{}:{}", name_, number_); }
  [[noreturn]] void fail(const std::string& what) const { throw InputError(where() + ": " + what); }

 private:
  static constexpr std::size_t kMaxLine = std::size_t{1} << 20;

  /// What did not end in a newline may only be the end of the file.
  void check_end(bool partial) const {
    int code = Z_OK;
    const char* message = gzerror(file_.get(), &code);
    if (code != Z_OK) fail(std::string("cannot be read: ") + message);
    if (partial && !gzeof(file_.get())) {
      fail(fmt::format("is longer than {} bytes or has a zero byte", kMaxLine - 2));
    }
  }
  struct Close {
    void operator()(gzFile f) const { gzclose(f); }
  };
  std::string name_;
  std::vector<char> buffer_;
  std::unique_ptr<gzFile_s, Close> file_;
  u64 number_ = 0;
};

}  // namespace

CasesResult run_cases(const std::filesystem::path& file, std::ostream* failures) {
  CasesResult result;
  Lines lines(file);
  for (std::string_view line; lines.next(line);) {
    try {
      const Case c = parse_case(Json::parse(line));
      CaseMemory memory(c.before);
      const Observed seen = run_case(c, memory);
      const std::string wrong = compare(c, seen, memory);
      ++result.cases;
      if (wrong.empty()) {
        ++result.passed;
      } else if (failures != nullptr) {
        *failures << lines.where() << ": case " << c.id << ": " << wrong << '\n';
      }
    } catch (const Json::exception&) {
      lines.fail("is not a JSON object on one line");
    } catch (const BadCase& e) {
      lines.fail(e.what());
    }
  }
  if (result.cases == 0) throw InputError(file.string() + ": holds no case");
  return result;
}

std::string cases_line(const std::filesystem::path& file, const CasesResult& result) {
  return fmt::format("{}: {} cases, {} passed, {} failed", file.string(), result.cases,
                     result.passed, result.failed());
}

}  // namespace mmuscope
