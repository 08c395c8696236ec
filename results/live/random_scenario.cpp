#include "results/live/random_scenario.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <utility>

#include "core/machine.h"
#include "core/native_pager.h"
#include "core/random.h"
#include "results/live/kvm_machine.h"

namespace mmuscope {

namespace {

constexpr u64 kFull = x86::kPresent | x86::kWrite | x86::kUser;
/// Of the entries that lead to the stubs. Where KVM emulates CPL 0 it fetches there in software and
/// sets A, which is no access of the guest.
constexpr u64 kPath = kFull | x86::kAccessed;
constexpr u64 kIdentityTable = 0x4000, kFirstTable = 0x20000;
constexpr u64 kDataBegin = u64{16} << 20, kDataFrames = 64;
constexpr u64 kLargeBegin = u64{32} << 20, kLargePages = 4;
constexpr u64 kCr0 = 0x80010011, kWp = 0x10000;  // PG, WP, ET, PE
constexpr u64 kMinLimit = 64;                    // KVM takes no lower one

struct Table {
  u64 gpa = 0;
  unsigned level = 0;
  unsigned process = 0;
  unsigned index = 0;    ///< of a leaf table: the entry of the page directory that maps it at first
  unsigned entries = 0;  ///< that are in use
};

/// Makes one scenario. A machine without a hypervisor knows the guest's tables as they stand, and
/// so which accesses are permitted.
class Generator {
 public:
  explicit Generator(u64 seed) : random_(seed) {
    scenario_.name = scenario_.file = fmt::format("random {}", seed);
    scenario_.vcpus = static_cast<unsigned>(1 + random_.below(3));
    choose_style();
    lay_out();
    scenario_.cr3 = roots_.front();
    cr3_.assign(scenario_.vcpus, scenario_.cr3);
    MachineConfig config;
    config.virtualized = false;
    model_ = std::make_unique<Machine>(config, make_native_pager);
    for (const Scenario::Words& w : scenario_.memory) {
      for (u64 i = 0; i < w.count; ++i)
        model_->host_write(Gpa(w.gpa + 8 * i), w.value + w.step * i);
    }
  }

  Scenario make() {
    for (u64 i = 0; i < style_.steps; ++i) {
      step_.label = fmt::format("step {}", i + 1);
      for (u64 op = 0; op < style_.ops; ++op) one_op();
      scenario_.steps.push_back(std::exchange(step_, {}));
    }
    for (const Table& t : tables_) {
      for (unsigned i = 0; i < kEntriesPerTable; ++i) {
        const u64 gpa = t.gpa + 8 * i;
        if (model_->host_read(Gpa(gpa)) != 0) scenario_.final_memory.emplace_back(gpa, 0);
      }
    }
    return std::move(scenario_);
  }

 private:
  struct Style {
    u64 steps = 20, ops = 10;
    u64 processes = 1, tables = 3, entries = 16;
    u64 careful = 100;     ///< of a hundred edits, how many are flushed as they should be
    u64 upper_edits = 20;  ///< of a hundred edits
    /// Entries of roots change. With several vCPUs they do not: a hypervisor may give each vCPU a
    /// copy of a shadow root, whose entries then cost each a fault (under kvm_pvm they do).
    bool roots = false;
    bool shared = false, aliases = false, no_exec = false, large = false;
    bool dirty_log = false, limit = false, cr0 = false, faults = false;
  };

  bool percent(u64 n) { return random_.chance(n, 100); }
  template <class T>
  const T& any(const std::vector<T>& of) {
    return of[random_.below(of.size())];
  }

  void choose_style() {
    constexpr std::array<u64, 4> kCareful = {0, 30, 70, 100};
    style_.processes = percent(15) ? 4 + random_.below(3) : 1 + random_.below(3);
    style_.tables = 1 + random_.below(4);
    style_.entries = 4 + random_.below(28);
    style_.careful = kCareful[random_.below(kCareful.size())];
    style_.upper_edits = random_.below(50);
    style_.shared = percent(40);
    style_.aliases = percent(30);
    style_.roots = scenario_.vcpus == 1;
    style_.no_exec = percent(30);
    style_.large = percent(40);
    style_.dirty_log = percent(25);
    style_.limit = percent(20);
    style_.cr0 = percent(15);
    style_.faults = percent(40) && !style_.dirty_log;  // the frame of a fault is logged as dirty
    if (style_.faults) scenario_.controls.nxe = style_.no_exec;
    if (style_.limit) style_.tables = 8 + random_.below(16);
  }

  // --- the guest's memory ------------------------------------------------------------------------

  u64 new_table(unsigned level, unsigned process, unsigned index, unsigned entries) {
    const u64 gpa = kFirstTable + kPageBytes * tables_.size();
    tables_.push_back({gpa, level, process, index, entries});
    return gpa;
  }
  void word(u64 gpa, u64 value, u64 count = 1, u64 step = 0) {
    scenario_.memory.push_back({gpa, value, count, step});
  }

  void lay_out() {
    constexpr std::array<u64, 3> kFlags = {0, x86::kAccessed, x86::kAccessed | x86::kDirty};
    word(kIdentityTable, kFull | kFlags[random_.below(3)], kEntriesPerTable, kPageBytes);
    // D too: where KVM emulates CPL 0 the delivery of a fault writes its frame in software.
    word(kIdentityTable + kStubPage / kPageBytes * 8, kStubPage | kPath | x86::kDirty);
    for (unsigned p = 0; p < style_.processes; ++p) lay_out_process(p);
  }

  void lay_out_process(unsigned p) {
    const u64 root = new_table(4, p, 0, 3), pdpt = new_table(3, p, 0, 3);
    const u64 directory = new_table(2, p, 0, static_cast<unsigned>(style_.tables) + 2);
    roots_.push_back(root);
    word(root, pdpt | kPath);
    word(pdpt, directory | kPath);
    word(directory, kIdentityTable | kPath);
    if (style_.aliases) {
      // The same tables from elsewhere, maybe with fewer rights; the root in itself.
      if (style_.roots) word(root + 8, pdpt | upper_flags());
      if (percent(50)) word(pdpt + 8, directory | upper_flags());
      if (style_.roots && percent(50)) word(root + 16, root | kFull);
    }
    for (unsigned i = 1; i <= style_.tables; ++i) {
      const u64 slot = directory + 8 * i;
      const auto leaves = tables_of(1);
      if (style_.shared && !leaves.empty() && percent(50)) {
        word(slot, any(leaves).gpa | upper_flags());
      } else if (style_.large && percent(20)) {
        word(slot, large_entry());
      } else {
        const u64 table = new_table(1, p, i, static_cast<unsigned>(style_.entries));
        word(slot, table | upper_flags());
        for (u64 e = 0; e < style_.entries; ++e) {
          if (percent(85)) word(table + 8 * e, leaf_entry());
        }
      }
    }
  }

  std::vector<Table> tables_of(unsigned level) const {
    std::vector<Table> found;
    for (const Table& t : tables_) {
      if (t.level == level) found.push_back(t);
    }
    return found;
  }

  u64 upper_flags() {
    u64 flags = kFull;
    if (percent(20)) flags &= ~x86::kWrite;
    if (style_.no_exec && percent(20)) flags |= x86::kNoExec;
    return flags;
  }
  u64 leaf_flags() {
    u64 flags = kFull;
    if (percent(20)) flags &= ~x86::kWrite;
    if (percent(3)) flags &= ~x86::kUser;
    if (percent(50)) flags |= x86::kAccessed;
    if (percent(50)) flags |= x86::kDirty;
    if (percent(5)) flags |= x86::kGlobal;
    if (style_.no_exec && percent(20)) flags |= x86::kNoExec;
    return flags;
  }
  u64 leaf_entry() {
    // Now and then a table is mapped as data.
    const u64 frame =
        percent(4) ? any(tables_).gpa : kDataBegin + kPageBytes * random_.below(kDataFrames);
    return frame | leaf_flags();
  }
  u64 large_entry() {
    return (kLargeBegin + page_bytes(PageSize::k2M) * random_.below(kLargePages)) | leaf_flags() |
           x86::kLarge;
  }

  // --- ops ---------------------------------------------------------------------------------------

  SoftwareWalk walk(unsigned vcpu, u64 gva, AccessKind kind) {
    return model_->walk_guest(Gpa(cr3_[vcpu]), Gva(gva), {kind, Privilege::User},
                              scenario_.controls);
  }
  bool permits(unsigned vcpu, u64 gva, AccessKind kind) { return walk(vcpu, gva, kind).ok; }
  /// What the access reaches; nothing if the guest's tables forbid it or it leads beyond memory.
  std::optional<Gpa> reach(unsigned vcpu, u64 gva, AccessKind kind) {
    const SoftwareWalk found = walk(vcpu, gva, kind);
    if (!found.ok) return std::nullopt;
    const Gpa gpa = found.path.translate(Gva(gva));
    if (gpa.raw() + kPageBytes > scenario_.memory_bytes) return std::nullopt;
    return gpa;
  }

  void access(unsigned vcpu, u64 gva, AccessKind kind, u64 value) {
    step_.ops.push_back(access_op(vcpu, {AccessKind::Fetch, Privilege::User}, kStubPage));
    step_.ops.push_back(access_op(vcpu, {kind, Privilege::User}, gva, value));
  }

  void one_op() {
    const unsigned vcpu = static_cast<unsigned>(random_.below(scenario_.vcpus));
    const u64 dice = random_.below(100);
    if (dice < 50) {
      touch(vcpu);
    } else if (dice < 82) {
      edit(vcpu);
    } else if (dice < 91) {
      load_cr3(vcpu);
    } else if (style_.cr0 && percent(50)) {
      // CR0.WP, of no effect on accesses at CPL 3, makes other shadow pages of the same tables.
      const u64 value = percent(50) ? kCr0 : kCr0 & ~kWp;
      step_.ops.push_back(other_op(ScenarioOp::Kind::Cr0, vcpu, 0, value));
    } else if (dice < 97) {
      invlpg(vcpu, any_address());
    } else {
      host_op();
    }
  }

  u64 any_address() {
    const u64 upper = style_.aliases ? 2 : 1;
    const u64 pml4 = random_.below(upper + 1 > 2 && percent(20) ? 3 : upper);
    const u64 pdpt = random_.below(upper), pd = 1 + random_.below(style_.tables + 1);
    const u64 pt = percent(95) ? random_.below(style_.entries) : random_.below(kEntriesPerTable);
    return pml4 << 39 | pdpt << 30 | pd << 21 | pt << 12 | 8 * random_.below(kEntriesPerTable);
  }

  void touch(unsigned vcpu) {
    const bool table = percent(5);
    const u64 gva = table ? any(tables_).gpa + 8 * random_.below(8) : any_address();
    const AccessKind kind = !table && percent(50) ? AccessKind::Write : AccessKind::Read;
    const auto gpa = reach(vcpu, gva, kind);
    if (!gpa) return touch_forbidden(vcpu, gva, kind);
    // Not in a table, where a number would be an entry; and even, so that it is none if a table
    // comes to lie there.
    if (kind == AccessKind::Write && gpa->raw() < kDataBegin) return;
    access(vcpu, gva, kind, 2 * random_.below(500'000));
    if (kind == AccessKind::Write) model_->host_write(*gpa, step_.ops.back().value);
  }

  /// An access that the tables, as they stand, end with a fault; or one in no half of the
  /// addresses.
  void touch_forbidden(unsigned vcpu, u64 gva, AccessKind kind) {
    if (!style_.faults) return;
    if (percent(5)) return access(vcpu, gva | u64{1} << 60, kind, 0);
    if (percent(20)) kind = AccessKind::Fetch;
    if (permits(vcpu, gva, kind)) return;
    if (kind != AccessKind::Fetch) return access(vcpu, gva, kind, 2 * random_.below(500'000));
    ScenarioOp fetch = access_op(vcpu, {kind, Privilege::User}, kStubPage);
    // A stub's first: as long as a vCPU has not used the root's entry for the stubs, another may
    // make it, which kvm_pvm counts as above.
    step_.ops.push_back(fetch);
    fetch.address = gva;
    fetch.announced.fault = GuestFault::Kind::PageFault;
    step_.ops.push_back(fetch);
  }

  void load_cr3(unsigned vcpu) {
    const u64 root = percent(30) ? cr3_[vcpu] : any(roots_);
    step_.ops.push_back(other_op(ScenarioOp::Kind::Cr3, vcpu, 0, root));
    cr3_[vcpu] = root;
  }
  void invlpg(unsigned vcpu, u64 gva) {
    step_.ops.push_back(other_op(ScenarioOp::Kind::Invlpg, vcpu, gva, 0));
  }

  void host_op() {
    using Kind = ScenarioOp::Kind;
    if (style_.limit && percent(50)) {
      step_.ops.push_back(other_op(Kind::ShadowPageLimit, 0, 0, kMinLimit + random_.below(40)));
    } else if (style_.dirty_log && (!logging_ || percent(30))) {
      logging_ = !logging_;
      step_.ops.push_back(other_op(Kind::DirtyLog, 0, 0, logging_));
    } else if (logging_) {
      step_.ops.push_back(other_op(Kind::GetDirtyLog, 0, 0, 0));
    }
  }

  // --- edits of tables ---------------------------------------------------------------------------

  unsigned level_to_edit() {
    if (!percent(style_.upper_edits)) return 1;
    const u64 dice = random_.below(10);
    return dice < 7 ? 2 : dice < 9 || !style_.roots ? 3 : 4;
  }

  void edit(unsigned vcpu) {
    const auto choices = tables_of(level_to_edit());
    if (choices.empty()) return;
    const Table& t = any(choices);
    const unsigned i = static_cast<unsigned>(random_.below(t.entries));
    const u64 where = t.gpa + 8 * i, old = model_->host_read(Gpa(where));
    const bool identity = t.level > 1 && i == 0;
    const u64 value = identity       ? changed_flags(old, x86::kDirty)
                      : t.level == 1 ? edited_leaf(old)
                                     : edited_upper(t, old);
    // Through the identity mapping, whose upper entries are never taken away.
    if (!reach(vcpu, where, AccessKind::Write)) return;
    access(vcpu, where, AccessKind::Write, value);
    model_->host_write(Gpa(where), value);
    flush_after(vcpu, t, i);
  }

  u64 changed_flags(u64 old, u64 of) {
    u64 changed = old;
    while (changed == old) {
      for (const u64 flag : {x86::kWrite, x86::kUser, x86::kAccessed, x86::kDirty, x86::kNoExec}) {
        if ((of & flag) && percent(40)) changed ^= flag;
      }
      if (percent(20)) break;
    }
    return changed;
  }
  u64 edited_leaf(u64 old) {
    u64 may_change = x86::kWrite | x86::kAccessed | x86::kDirty;
    if (percent(5)) may_change |= x86::kUser;
    if (style_.no_exec) may_change |= x86::kNoExec;
    const u64 dice = random_.below(100);
    if (dice < 15) return 0;
    if (dice < 50 && old != 0) return changed_flags(old, may_change);
    if (dice < 60 && old != 0)
      return (old & ~x86::kAddressMask) | (leaf_entry() & x86::kAddressMask);
    return leaf_entry();
  }
  u64 edited_upper(const Table& t, u64 old) {
    u64 may_change = x86::kWrite | x86::kAccessed | x86::kDirty;
    if (style_.no_exec) may_change |= x86::kNoExec;
    const u64 dice = random_.below(100);
    if (dice < 20) return 0;
    if (dice < 50 && old != 0) return changed_flags(old, may_change);
    if (dice < 55) return any(tables_).gpa | upper_flags();  // of whatever level
    if (t.level == 2 && style_.large && dice < 75) return large_entry();
    const auto below = tables_of(t.level - 1);
    return below.empty() ? 0 : any(below).gpa | upper_flags();
  }

  void flush_after(unsigned vcpu, const Table& t, unsigned i) {
    const u64 gva =
        t.level == 1 ? u64{t.index} << 21 | u64{i} << 12 : u64{i} << (12 + 9 * (t.level - 1));
    if (percent(style_.careful)) {
      for (unsigned v = 0; v < scenario_.vcpus; ++v) invlpg(v, gva);
    } else if (percent(20)) {
      invlpg(vcpu, percent(70) ? gva : any_address());
    } else if (percent(10)) {
      load_cr3(vcpu);
    }
  }

  Random random_;
  Style style_;
  Scenario scenario_;
  ScenarioStep step_;
  std::vector<Table> tables_;
  std::vector<u64> roots_;
  std::vector<u64> cr3_;  // by vCPU
  bool logging_ = false;
  std::unique_ptr<Machine> model_;
};

// --- shrinking -----------------------------------------------------------------------------------

using Unit = std::vector<ScenarioOp>;

std::vector<Unit> units_of(const Scenario& s) {
  std::vector<Unit> all;
  bool open = false;  // the last one is a fetch that waits for its access
  for (const ScenarioStep& step : s.steps) {
    for (const ScenarioOp& op : step.ops) {
      const bool access = op.kind == ScenarioOp::Kind::Access;
      if (!(open && access && !op.access.is_fetch())) all.emplace_back();
      all.back().push_back(op);
      open = access && op.access.is_fetch();
    }
  }
  return all;
}

Scenario with_units(Scenario s, const std::vector<Unit>& all) {
  s.steps.clear();
  for (const Unit& unit : all) {
    s.steps.push_back({fmt::format("op {}", s.steps.size() + 1), unit, {}});
  }
  return s;
}

/// Leaves out ever smaller pieces of the list for as long as `holds` does.
template <class T>
std::vector<T> shortest(std::vector<T> list,
                        const std::function<bool(const std::vector<T>&)>& holds) {
  for (std::size_t piece = list.size(); piece > 0; piece /= 2) {
    for (std::size_t at = 0; at < list.size();) {
      std::vector<T> rest(list.begin(), list.begin() + static_cast<std::ptrdiff_t>(at));
      const std::size_t end = std::min(list.size(), at + piece);
      rest.insert(rest.end(), list.begin() + static_cast<std::ptrdiff_t>(end), list.end());
      if (holds(rest)) {
        list = std::move(rest);
      } else {
        at += piece;
      }
    }
  }
  return list;
}

}  // namespace

Scenario random_scenario(u64 seed) { return Generator(seed).make(); }

Scenario shrink(Scenario s, const std::function<bool(const Scenario&)>& differs) {
  // The identity mapping stays, and in it the entry of the stubs.
  constexpr std::ptrdiff_t kStaying = 2;
  const std::vector<Scenario::Words> identity(s.memory.begin(), s.memory.begin() + kStaying);
  std::size_t before = 0;
  do {
    before = units(s) + s.memory.size();
    const std::function<bool(const std::vector<Unit>&)> ops_hold =
        [&](const std::vector<Unit>& all) { return differs(with_units(s, all)); };
    s = with_units(s, shortest(units_of(s), ops_hold));
    const std::function<bool(const std::vector<Scenario::Words>&)> words_hold =
        [&](const std::vector<Scenario::Words>& words) {
          Scenario smaller = s;
          smaller.memory = words;
          smaller.memory.insert(smaller.memory.begin(), identity.begin(), identity.end());
          return differs(smaller);
        };
    s.memory = shortest(std::vector(s.memory.begin() + kStaying, s.memory.end()), words_hold);
    s.memory.insert(s.memory.begin(), identity.begin(), identity.end());
  } while (units(s) + s.memory.size() < before);
  return s;
}

std::size_t units(const Scenario& scenario) { return units_of(scenario).size(); }

}  // namespace mmuscope
