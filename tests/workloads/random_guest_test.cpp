#include <doctest/doctest.h>

#include <map>
#include <optional>

#include "core/native_pager.h"
#include "core/random.h"
#include "tests/support/setups.h"
#include "tests/workloads/guest_audit.h"

using namespace mmuscope;

namespace {

constexpr u64 kLarge = page_bytes(PageSize::k2M);
constexpr Gva kSmallWindow{0x40000000};
constexpr Gva kLargeWindow{0x80000000};
constexpr unsigned kPlaces = 48;  // small pages in use, around the borders of three tables
constexpr unsigned kLargePlaces = 3;

/// What a process must see: by page, the value of its first word and its rights.
struct Page {
  u64 value = 0;
  u8 rights = 0;
};
using Model = std::map<u64, Page>;

struct Settings {
  bool audited = true;
  unsigned steps = 60;
  unsigned depth = 2;  ///< generations of children
  bool swaps = false;  ///< memory is short now and then
  u64 spared = 200;    ///< frames that are left then
};

/// Makes random system calls and accesses and compares what it loads with its model.
class RandomProgram final : public Program {
 public:
  RandomProgram(u64 seed, Settings settings, Model model = {})
      : random_(seed), settings_(settings), model_(std::move(model)) {}

  bool step(Kernel& kernel, Vcpu& vcpu) override {
    for (unsigned i = 0; i < 4; ++i) act(kernel, vcpu);
    if (settings_.audited) audit(kernel);
    return --settings_.steps > 0;
  }

 private:
  static Gva place(u64 i) {
    // 16 pages on both sides of each of three 2M borders: tables are shared and emptied often.
    return kSmallWindow + (i / 16 + 1) * kLarge + (i % 16) * kPageBytes - 8 * kPageBytes;
  }
  u8 some_rights() { return static_cast<u8>(random_.below(8)); }

  void act(Kernel& k, Vcpu& v) {
    switch (random_.below(17)) {
      case 0:
        return map_small(k, v, random_.below(2) ? Source::anonymous() : some_file());
      case 1:
        return map_large(k, v);
      case 2:
        return unmap(k, v);
      case 3:
        return protect(k, v);
      case 4:
        return move(k, v);
      case 5:
        return fork(k, v);
      case 12:
        return discard(k, v);
      case 13:
        return vfork(k, v);
      case 14:
        return advise(k, v);
      case 15:
        return collapse(k, v);
      case 16:
        return balloon(k, v);
      case 6:
        if (random_.below(10) == 0) {
          k.execve(v, "again");
          model_.clear();
        }
        return;
      default:
        return touch(v);
    }
  }

  Source some_file() { return Source::of_file(static_cast<u32>(random_.below(2)), 0); }

  void set(Gva start, u64 bytes, u8 rights) {
    for (u64 at = 0; at < bytes; at += kPageBytes) model_[(start + at).raw()] = {0, rights};
  }
  void forget(Gva start, u64 bytes) {
    model_.erase(model_.lower_bound(start.raw()), model_.lower_bound((start + bytes).raw()));
  }
  /// A run of pages that are next to each other, or what could be a huge page.
  std::pair<Gva, u64> some_run() {
    if (random_.below(6) == 0) return {some_region(), kLarge};
    const u64 first = random_.below(kPlaces);
    const u64 most = 16 - first % 16;
    return {place(first), (1 + random_.below(most)) * kPageBytes};
  }

  void map_small(Kernel& k, Vcpu& v, Source source) {
    const auto [start, bytes] = some_run();
    const u8 rights = random_.below(3) ? prot::kRead | prot::kWrite : some_rights();
    REQUIRE(k.mmap(v, start, bytes, rights, source) == start);
    forget(start, bytes);
    set(start, bytes, rights);
  }
  Gva some_region() { return kSmallWindow + (1 + random_.below(3)) * kLarge; }
  bool is_mapped(Gva start, u64 bytes) const {
    bool whole = true;
    for (u64 at = 0; at < bytes; at += kPageBytes) whole &= model_.count((start + at).raw()) > 0;
    return whole;
  }
  void advise(Kernel& k, Vcpu& v) {
    const auto [start, bytes] = some_run();
    const auto advice = static_cast<HugeAdvice>(random_.below(3));
    CHECK(k.advise_huge(v, start, bytes, advice) == is_mapped(start, bytes));
  }
  void collapse(Kernel& k, Vcpu& v) {
    const Gva start = some_region();
    const bool done = k.collapse(v, start, kLarge);
    if (!is_mapped(start, kLarge)) CHECK_FALSE(done);
  }
  /// With swap it is the balloon that makes memory short; without, memory comes back as zeros.
  void balloon(Kernel& k, Vcpu& v) {
    const MemoryManager& memory = k.memory();
    if (random_.below(3) == 0) {
      k.deflate_balloon(v, random_.below(settings_.swaps ? 4000 : 40));
    } else if (!settings_.swaps) {
      k.inflate_balloon(v, random_.below(40));
      k.report_free_pages(v);
    } else if (memory.frames().free() > settings_.spared + 100 &&
               memory.balloon().pages().size() < 4000) {
      k.inflate_balloon(v, memory.frames().free() - settings_.spared);
    }
  }
  void map_large(Kernel& k, Vcpu& v) {
    if (settings_.swaps) return;
    const Gva start = kLargeWindow + random_.below(kLargePlaces) * kLarge;
    // Small pages where large ones were, and the other way round.
    const bool large = random_.below(2) == 0;
    const u64 bytes = large ? kLarge : 4 * kPageBytes;
    REQUIRE(k.munmap(v, start, kLarge));
    REQUIRE(k.mmap(v, start, bytes, 3, large ? Source::huge() : Source{}) == start);
    forget(start, kLarge);
    set(start, bytes, 3);
  }
  void unmap(Kernel& k, Vcpu& v) {
    auto [start, bytes] = some_run();
    if (random_.below(4) == 0) {
      start = kLargeWindow + random_.below(kLargePlaces) * kLarge;
      bytes = kLarge;
    } else if (random_.below(8) == 0) {
      start = kSmallWindow;
      bytes = 4 * kLarge;
    }
    REQUIRE(k.munmap(v, start, bytes));
    forget(start, bytes);
  }
  void protect(Kernel& k, Vcpu& v) {
    const auto [start, bytes] = some_run();
    const u8 rights = some_rights();
    const bool whole = is_mapped(start, bytes);
    CHECK(k.mprotect(v, start, bytes, rights) == whole);
    if (!whole) return;
    for (u64 at = 0; at < bytes; at += kPageBytes) model_[(start + at).raw()].rights = rights;
  }
  void discard(Kernel& k, Vcpu& v) {
    const auto [start, bytes] = some_run();
    const bool whole = is_mapped(start, bytes);
    CHECK(k.discard(v, start, bytes) == whole);
    if (!whole) return;
    // Anonymous memory begins anew, and so does a private copy of a file, which is all zeros.
    for (u64 at = 0; at < bytes; at += kPageBytes) model_[(start + at).raw()].value = 0;
  }
  void vfork(Kernel& k, Vcpu& v);
  void move(Kernel& k, Vcpu& v) {
    const auto [start, bytes] = some_run();
    const auto [to, more] = some_run();
    const auto moved = k.mremap(v, start, bytes, more, to);
    if (!moved) return;
    CHECK(*moved == to);
    std::vector<Page> pages;
    for (u64 at = 0; at < bytes; at += kPageBytes) pages.push_back(model_.at((start + at).raw()));
    const u8 rights = pages[0].rights;
    // What a file has at a page is zeros whatever the offset, as anonymous memory.
    pages.resize(more / kPageBytes, {0, rights});
    forget(start, bytes);
    forget(to, more);
    for (u64 i = 0; i < pages.size(); ++i) model_[(to + i * kPageBytes).raw()] = pages[i];
  }
  void fork(Kernel& k, Vcpu& v) {
    if (settings_.depth == 0 || random_.below(4) != 0) return;
    Settings child = settings_;
    --child.depth;
    child.steps = 1 + static_cast<unsigned>(random_.below(12));
    const u64 seed = random_.next();
    if (random_.below(3) == 0) return;
    k.fork(v, std::make_unique<RandomProgram>(seed, child, model_));
    if (random_.below(2)) k.wait(v);
  }
  void touch(Vcpu& v) {
    for (unsigned i = 0; i < 8; ++i) {
      Gva at = place(random_.below(kPlaces));
      if (random_.below(4) == 0) at = some_region() + random_.below(kEntriesPerTable) * kPageBytes;
      if (random_.below(8) == 0) {
        at = kLargeWindow + random_.below(kLargePlaces) * kLarge;
        at = at + random_.below(5) * kPageBytes;
      }
      const auto page = model_.find(at.raw());
      if (page == model_.end() || page->second.rights == 0) continue;
      CHECK(v.load(at) == page->second.value);
      if (page->second.rights & prot::kExec) v.fetch(at);
      if (!(page->second.rights & prot::kWrite) || random_.below(2)) continue;
      page->second.value = random_.next();
      v.store(at, page->second.value);
      CHECK(v.load(at) == page->second.value);
    }
  }

  Random random_;
  Settings settings_;
  Model model_;
};

/// Executes a program at once, or exits, as a child of vfork may.
class VforkedProgram final : public Program {
 public:
  VforkedProgram(u64 seed, Settings settings) : seed_(seed), settings_(settings) {}
  bool step(Kernel& kernel, Vcpu& vcpu) override {
    if (inner_) return inner_->step(kernel, vcpu);
    if (seed_ % 4 == 0) return false;
    kernel.execve(vcpu, "after vfork");
    inner_ = std::make_unique<RandomProgram>(seed_, settings_);
    return true;
  }

 private:
  u64 seed_;
  Settings settings_;
  std::unique_ptr<RandomProgram> inner_;
};

void RandomProgram::vfork(Kernel& k, Vcpu& v) {
  if (settings_.depth == 0 || random_.below(4) != 0) return;
  Settings child = settings_;
  --child.depth;
  child.steps = 1 + static_cast<unsigned>(random_.below(6));
  k.vfork(v, std::make_unique<VforkedProgram>(random_.next(), child));
}

struct Ended {
  Counters counters;
  u64 accesses = 0;
  u64 huge_unused = 0;
  friend bool operator==(const Ended&, const Ended&) = default;
};

/// Runs the guest to its end; what a guest sees and does must be the same under every pager.
Ended run_random(u64 seed, unsigned vcpus, unsigned processes, u64 quantum, Settings settings,
                 const Setup& setup = {"native"}) {
  CAPTURE(seed);
  CAPTURE(vcpus);
  CAPTURE(quantum);
  MachineConfig config;
  config.thp = static_cast<HugePages>(seed % 3);
  config.khugepaged = seed % 4 == 0 ? 3000 : 0;
  settings.swaps = seed % 5 == 0;
  if (settings.swaps) config.swap_bytes = u64{64} << 20;
  config.memory_bytes = (seed % 5 == 0 ? u64{32 + 64} : u64{256}) << 20;
  config.vcpus = vcpus;
  config.quantum = quantum;
  config.kpti = seed % 2 == 0;
  config.pcid = seed % 3 != 0;
  const auto machine = make_machine(setup, config);
  Kernel kernel(*machine, nullptr);
  for (unsigned p = 0; p < processes; ++p) {
    kernel.spawn("random", std::make_unique<RandomProgram>(seed * 100 + p, settings));
  }
  kernel.run();
  CHECK(kernel.processes().empty());
  audit(kernel);
  const u64 kept = kernel.memory().huge_zero() ? kEntriesPerTable : 0;
  const MemoryManager& memory = kernel.memory();
  CHECK(kernel.memory().frames().in_use() ==
        kept + memory.page_cache().size() + memory.balloon().pages().size());
  CHECK(memory.reclaim().slots_in_use() == 0);
  if (settings.swaps && settings.steps > 50) CHECK(kernel.statistics().swapped_in > 0);
  CHECK(kernel.statistics().segfaults == 0);
  return {machine->counters(), machine->accesses(), kernel.statistics().huge_unused};
}

}  // namespace

TEST_CASE("random system calls keep the kernel's invariants and show the right values") {
  for (u64 seed = 1; seed <= 12; ++seed) run_random(seed, 1, 2, 64, {});
}

TEST_CASE("random system calls with huge pages in memory that is too small") {
  Settings settings;
  settings.spared = 700;
  settings.steps = 100;
  u64 split = 0;
  for (const u64 seed : {20, 35}) {
    split += run_random(seed, 1, 5, 64, settings).huge_unused;
  }
  CHECK(split > 2);
}

TEST_CASE("random system calls on several vCPUs, interrupted everywhere") {
  Settings settings;
  settings.audited = false;  // another vCPU may be in the middle of anything
  settings.steps = 100;
  for (u64 seed = 1; seed <= 12; ++seed) {
    run_random(seed, 2 + seed % 3, 4, 1 + seed * seed % 40, settings);
  }
}

TEST_CASE("the same seed is the same run") {
  Settings settings;
  settings.audited = false;
  for (const unsigned vcpus : {1u, 3u}) {
    const Ended first = run_random(7, vcpus, 3, 16, settings);
    CHECK(first == run_random(7, vcpus, 3, 16, settings));
    CHECK_FALSE(first == run_random(8, vcpus, 3, 16, settings));
  }
}

TEST_CASE("random system calls keep the kernel's invariants under every pager") {
  Settings settings;
  settings.steps = 40;
  for (u64 seed = 21; seed <= 26; ++seed) {
    std::optional<Ended> first;
    for (const Setup& setup : all_setups()) {
      CAPTURE(setup.name());
      const Ended ended = run_random(seed, 1, 2, 64, settings, setup);
      if (!first) first = ended;
      CHECK(ended.accesses == first->accesses);
      CHECK(ended.counters[Event::GuestPageFault] == first->counters[Event::GuestPageFault]);
      CHECK(ended.counters[Event::Store] == first->counters[Event::Store]);
    }
  }
}
