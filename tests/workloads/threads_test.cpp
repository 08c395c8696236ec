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
