// Every short script over a small alphabet, with and without the flushes that the architecture asks
// a guest for. MMUSCOPE_SCRIPT=letters runs one alone.

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <string>

#include "core/entry.h"
#include "tests/support/oracle.h"
#include "tests/support/script.h"
#include "tests/support/setups.h"

namespace mmuscope {
namespace {

using G = ScriptGuest;
constexpr u64 kA = 0x1000;                // a page of the process's own table
constexpr u64 kS = G::kShared + 0x1000;   // of the shared table
constexpr u64 kL = G::kLarge + G::kData;  // in the large page
constexpr u64 kUserRw = x86::kPresent | x86::kWrite | x86::kUser;
constexpr u64 kUsed = x86::kAccessed | x86::kDirty;

/// What a letter does, and the address that a guest must flush after it (0: everything, none: no
/// flush is needed).
struct Letter {
  char name;
  ScriptOp op;
  bool edits = false;
  u64 flush = 0;
};

ScriptOp access(u64 va, AccessKind kind, Privilege privilege = Privilege::User) {
  ScriptOp op;
  op.access = {kind, privilege};
  op.va = va;
  op.value = 0x55;
  return op;
}
ScriptOp edit(u64 gpa, u64 value) {
  ScriptOp op;
  op.kind = ScriptOp::Kind::Edit;
  op.gpa = gpa;
  op.value = value;
  return op;
}

constexpr u64 kAll = ~u64{0};

/// The running process is 0 when a script begins; edits are of process 0's tables.
const std::vector<Letter>& alphabet() {
  using enum AccessKind;
  static const u64 pte = G::entry(0, kA, 1), pde = G::entry(0, kA, 2);
  static const u64 pde_large = G::entry(0, kL, 2);
  static const std::vector<Letter> letters = {
      {'r', access(kA, Read)},
      {'w', access(kA, Write)},
      {'x', access(kA, Fetch)},
      {'k', access(kA, Write, Privilege::Supervisor)},
      {'s', access(kS, Write)},
      {'l', access(kL, Read)},
      {'m', access(kL + kPageBytes, Write)},
      {'0', edit(pte, 0), true, kA},
      {'1', edit(pte, G::data(9) | kUserRw | kUsed), true, kA},
      {'2', edit(pte, G::data(1) | x86::kPresent | x86::kUser), true, kA},
      {'3', edit(pte, G::data(1) | x86::kNoExec | kUserRw), true, kA},
      {'4', edit(pde, 0), true, kAll},
      {'5', edit(pde, G::spare_pt(0) | kUserRw), true, kAll},
      {'6', edit(pde, G::pt(0) | x86::kPresent | x86::kUser), true, kAll},
      {'7', edit(pde, x86::kLarge | kUserRw), true, kAll},
      {'8', edit(G::entry(0, kS, 1), G::data(2) | kUserRw), true, kS},
      {'9', edit(pde_large, x86::kLarge | kUserRw), true, kL},
      {'a', edit(pde_large, G::pt(0) | kUserRw), true, kAll},
      {'b', edit(G::entry(0, kA, 4), G::pdpt(0) | x86::kPresent | x86::kWrite), true, kAll},
      {'z', control_op(ScriptOp::Kind::Zero, 0, 0, G::pt(0)), true, kAll},
      {'c', control_op(ScriptOp::Kind::Cr3, 0, G::root(0))},
      {'d', control_op(ScriptOp::Kind::Cr3, 0, G::root(1))},
      {'i', control_op(ScriptOp::Kind::Invlpg, kA)},
      {'j', control_op(ScriptOp::Kind::Invlpg, kL)},
  };
  return letters;
}

bool is_access(const Letter& l) { return l.op.kind == ScriptOp::Kind::Access; }

/// The ops of the letters; with the flush that each edit requires if `careful`.
Script spell(const std::vector<const Letter*>& word, bool careful) {
  Script script;
  u64 root = G::root(0);
  for (const Letter* l : word) {
    script.push_back(l->op);
    if (l->op.kind == ScriptOp::Kind::Cr3) root = l->op.value;
    if (!careful || !l->edits) continue;
    script.push_back(l->flush == kAll ? control_op(ScriptOp::Kind::Cr3, 0, root)
                                      : control_op(ScriptOp::Kind::Invlpg, l->flush));
  }
  return script;
}

std::string name_of(const std::vector<const Letter*>& word) {
  std::string name;
  for (const Letter* l : word) name += l->name;
  return name;
}

std::string label(const std::vector<const Letter*>& word, bool careful, const Setup& setup,
                  const Script& script) {
  return "MMUSCOPE_SCRIPT=" + name_of(word) + " under " + setup.name() +
         (careful ? ", with every flush:\n" : ", as spelt:\n") + text_of(script);
}

/// All setups agree with the oracle, and with each other if the guest is careful.
void check_word(const std::vector<Setup>& setups, const std::vector<const Letter*>& word) {
  ScriptStart start;
  start.large_direct_map = word.size() % 2 == 0;
  const bool edits =
      std::any_of(word.begin(), word.end(), [](const Letter* l) { return l->edits; });
  for (const bool careful : {false, true}) {
    if (careful && !edits) break;  // the same script again
    const Script script = spell(word, careful);
    ScriptEnd first;
    for (const Setup& setup : setups) {
      INFO(label(word, careful, setup, script));
      try {
        const ScriptEnd end = run_script(setup, start, script);
        if (!careful && edits) continue;
        REQUIRE(end.uncertain == 0);
        if (first.checked == 0) first = end;
        REQUIRE(end.seen == first.seen);
        REQUIRE(end.memory == first.memory);
      } catch (const Disagreement& d) {
        FAIL(std::string(d.what()));
      }
    }
  }
}

void check_all_words(const std::vector<Setup>& setups, unsigned length,
                     std::vector<const Letter*>& word, u64& scripts) {
  for (const Letter& l : alphabet()) {
    const bool last = word.size() + 1 == length;
    if (last && !is_access(l)) continue;  // nothing would look at what it did
    word.push_back(&l);
    if (last) {
      check_word(setups, word);
      ++scripts;
    } else {
      check_all_words(setups, length, word, scripts);
    }
    word.pop_back();
  }
}

/// Each pager once, nested paging in both formats.
std::vector<Setup> one_backing_each() {
  std::vector<Setup> setups;
  for (const Setup& setup : all_setups()) {
    if (setup.backing == PageSize::k4K) setups.push_back(setup);
  }
  return setups;
}

void check_length(unsigned length, const std::vector<Setup>& setups) {
  std::vector<const Letter*> word;
  u64 scripts = 0;
  if (const char* only = std::getenv("MMUSCOPE_SCRIPT")) {
    for (const char* c = only; *c != 0; ++c) {
      for (const Letter& l : alphabet()) {
        if (l.name == *c) word.push_back(&l);
      }
    }
    check_word(setups, word);
    return;
  }
  check_all_words(setups, length, word, scripts);
  MESSAGE(scripts << " scripts of " << length << " ops");
}

TEST_CASE("every script of one and two ops agrees with the reference translator") {
  check_length(1, all_setups());
  check_length(2, all_setups());
}
TEST_CASE("every script of three ops agrees with the reference translator") {
  check_length(3, one_backing_each());
}
TEST_CASE("slow: every script of three ops agrees with the reference translator on any backing") {
  check_length(3, all_setups());
}
TEST_CASE("slow: every script of four ops agrees with the reference translator") {
  check_length(4, one_backing_each());
}

}  // namespace
}  // namespace mmuscope
