#include <doctest/doctest.h>

#include "core/random.h"
#include "tests/workloads/guest_audit.h"

using namespace mmuscope;

namespace {

constexpr unsigned kPages = 24;
constexpr Gva kWindow{0x40000000};

/// What the threads of a process know of each other's pages. Page p belongs to thread p modulo
/// their number, which alone maps, writes and unmaps it; all read it.
struct Shared {
  struct Page {
    u64 changes = 0;  ///< odd while it is being mapped or unmapped
    bool mapped = false;
    u64 written = 0;   ///< the last value that a finished store wrote
    u64 to_write = 0;  ///< the value that a store may be writing
  };
  unsigned threads = 0;
  std::array<Page, kPages> pages;

  static Gva place(u64 p) { return kWindow + page_bytes(PageSize::k2M) + (p - kPages / 2) * 4096; }
  /// Values name their page, so that what a stale translation shows is not taken for them.
  static u64 value(u64 p, u64 count) { return (p + 1) << 32 | count; }
};

/// A child: what it sees of its parent's memory does not change, whatever the parent's threads do.
class Witness final : public Program {
 public:
  bool step(Kernel&, Vcpu& vcpu) override {
    for (u64 p = 0; p < kPages; ++p) {
      const AccessResult r = vcpu.try_access(Shared::place(p), AccessKind::Read);
      const u64 seen = r.done ? r.value : ~u64{0};
      if (round_ == 0) seen_[p] = seen;
      CHECK(seen == seen_[p]);
    }
    return ++round_ < 6;
  }

 private:
  unsigned round_ = 0;
  std::array<u64, kPages> seen_{};
};

class Sharer final : public Program {
 public:
  Sharer(std::shared_ptr<Shared> shared, unsigned me, u64 seed)
      : shared_(std::move(shared)), me_(me), random_(seed) {}

  bool step(Kernel& kernel, Vcpu& vcpu) override {
    if (me_ == 0 && left_ == kSteps) {
      for (unsigned t = 1; t < shared_->threads; ++t) {
        kernel.clone_thread(vcpu, std::make_unique<Sharer>(shared_, t, random_.next()));
      }
    }
    for (unsigned i = 0; i < 6; ++i) {
      look_at(vcpu, random_.below(kPages));
      change_own(kernel, vcpu);
    }
    if (me_ != 0 && random_.below(6) == 0) {
      kernel.fork(vcpu, std::make_unique<Witness>());
      if (random_.below(2)) kernel.wait(vcpu);
    }
    return --left_ > 0;
  }

 private:
  static constexpr unsigned kSteps = 120;

  void look_at(Vcpu& vcpu, u64 p) {
    const Shared::Page before = shared_->pages[p];
    const AccessResult r = vcpu.try_access(Shared::place(p), AccessKind::Read);
    const Shared::Page after = shared_->pages[p];
    if (!r.done) return;
    const bool foreign = r.value != 0 && r.value >> 32 != p + 1;
    CHECK_FALSE(foreign);
    if (before.changes != after.changes || before.changes % 2 != 0) return;
    CHECK(before.mapped);
    CHECK(r.value >= before.written);
    CHECK(r.value <= after.to_write);
  }

  void change_own(Kernel& k, Vcpu& v) {
    const u64 p = random_.below(kPages / shared_->threads) * shared_->threads + me_;
    Shared::Page& page = shared_->pages[p];
    const Gva at = Shared::place(p);
    if (!page.mapped) {
      ++page.changes;
      page.written = page.to_write = 0;
      REQUIRE(k.mmap(v, at, kPageBytes, prot::kRead | prot::kWrite) == at);
      page.mapped = true;
      ++page.changes;
      CHECK(v.load(at) == 0);
      return;
    }
    CHECK(v.load(at) == page.written);
    switch (random_.below(8)) {
      case 0:
        ++page.changes;
        REQUIRE(k.munmap(v, at, kPageBytes));
        page.mapped = false;
        ++page.changes;
        break;
      case 1:
        REQUIRE(k.mprotect(v, at, kPageBytes, prot::kRead));
        REQUIRE(k.mprotect(v, at, kPageBytes, prot::kRead | prot::kWrite));
        break;
      default:
        page.to_write = Shared::value(p, (page.written & 0xffffffff) + 1);
        v.store(at, page.to_write);
        page.written = page.to_write;
    }
  }

  std::shared_ptr<Shared> shared_;
  unsigned me_, left_ = kSteps;
  Random random_;
};

/// Thread `me` writes its own word of every page, as the others do at the same time, and reads it
/// again later: a page that two of them made, and of which one was lost, has lost words.
class Crowd final : public Program {
 public:
  static constexpr unsigned kThreads = 4;
  static constexpr u64 kCrowdPages = 40;  // on both sides of the border of two tables

  explicit Crowd(unsigned me) : me_(me) {}

  bool step(Kernel& kernel, Vcpu& vcpu) override {
    if (round_ == 0 && me_ == 0) begin(kernel, vcpu);
    ++round_;
    for (u64 p = 0; p < 2 * kCrowdPages; ++p) {
      const Gva at = place(p) + me_ * 8;
      CHECK(vcpu.load(at) == (round_ == 1 ? 0 : round_ - 1));
      vcpu.store(at, round_);
      CHECK(vcpu.load(at) == round_);
    }
    // Everything is shared again, and the first write to each page copies it.
    if (me_ == round_ % kThreads) kernel.fork(vcpu, std::make_unique<Passing>());
    return round_ < 6;
  }

 private:
  /// Ends at once or a little later.
  class Passing final : public Program {
    bool step(Kernel&, Vcpu& vcpu) override {
      for (unsigned i = 0; i < 100; ++i) vcpu.load(place(i % kCrowdPages));
      return ++round_ < 3;
    }
    unsigned round_ = 0;
  };

  static Gva place(u64 p) {
    const Gva area = p < kCrowdPages ? kWindow : kWindow + (u64{1} << 30);
    return area + page_bytes(PageSize::k2M) - kCrowdPages / 2 * kPageBytes +
           p % kCrowdPages * kPageBytes;
  }
  static void begin(Kernel& kernel, Vcpu& vcpu) {
    const u64 bytes = kCrowdPages * kPageBytes;
    const u8 rights = prot::kRead | prot::kWrite;
    REQUIRE(kernel.mmap(vcpu, place(0), bytes, rights) == place(0));
    const Gva file = place(kCrowdPages);
    REQUIRE(kernel.mmap(vcpu, file, bytes, rights, Source::of_file(1, 0)) == file);
    for (unsigned t = 1; t < kThreads; ++t) {
      kernel.clone_thread(vcpu, std::make_unique<Crowd>(t));
    }
  }

  unsigned me_;
  u64 round_ = 0;
};

}  // namespace

TEST_CASE("threads on several vCPUs see each other's memory as it is, and children as it was") {
  u64 shootdowns = 0;  // none where a process's threads are all on one vCPU
  for (u64 seed = 1; seed <= 12; ++seed) {
    CAPTURE(seed);
    Guest guest(2 + seed % 4, u64{256} << 20, 1 + seed * seed % 30);
    for (unsigned p = 0; p < 2; ++p) {
      auto shared = std::make_shared<Shared>();
      shared->threads = 3;
      guest.kernel.spawn("sharer", std::make_unique<Sharer>(shared, 0, seed * 10 + p));
    }
    guest.kernel.run();
    audit(guest.kernel);
    CHECK(guest.kernel.memory().frames().in_use() == 0);
    CHECK(guest.kernel.statistics().segfaults == 0);
    shootdowns += guest.kernel.statistics().shootdowns;
  }
  CHECK(shootdowns > 5000);
}

TEST_CASE("threads that fault on the same page at once get one page") {
  u64 late = 0;
  for (u64 seed = 1; seed <= 16; ++seed) {
    CAPTURE(seed);
    Guest guest(Crowd::kThreads, u64{256} << 20, 1 + seed * seed % 60);
    guest.kernel.spawn("crowd", std::make_unique<Crowd>(0));
    guest.kernel.run();
    audit(guest.kernel);
    CHECK(guest.kernel.memory().frames().in_use() == guest.kernel.memory().page_cache().size());
    CHECK(guest.kernel.statistics().segfaults == 0);
    late += guest.kernel.statistics().spurious_faults;
  }
  CHECK(late > 1000);
}
