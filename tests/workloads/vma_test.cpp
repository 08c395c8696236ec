#include "workloads/guest/vma.h"

#include <doctest/doctest.h>

#include <array>

#include "core/random.h"

namespace mmuscope {
namespace {

/// What each of the last pages below kMapTop is mapped to, and two beyond it; 0: nothing.
class Pages {
 public:
  static constexpr u64 kPages = 64, kBeyond = 2;
  static Gva at(u64 page) { return kMapTop + kBeyond * kPageBytes - (kPages - page) * kPageBytes; }

  void set(u64 first, u64 count, u32 file) {
    for (u64 i = first; i < first + count; ++i) files_[i] = file;
  }
  u32 file(u64 page) const { return files_[page]; }
  bool all(u64 first, u64 count, bool mapped) const {
    for (u64 i = first; i < first + count; ++i) {
      if ((files_[i] != 0) != mapped) return false;
    }
    return true;
  }
  /// The highest free ones; kPages: none.
  u64 find_free(u64 count) const {
    for (u64 first = kPages - kBeyond - count + 1; first-- > 0;) {
      if (all(first, count, false)) return first;
    }
    return kPages;
  }

 private:
  std::array<u32, kPages> files_{};
};

void check(VmaList& list, const Pages& pages) {
  for (u64 i = 0; i < Pages::kPages; ++i) {
    const Vma* const vma = list.find(Pages::at(i));
    CHECK((vma == nullptr ? 0 : vma->source.file) == pages.file(i));
    CHECK(list.is_free(Pages::at(i), Pages::at(i) + kPageBytes) == (pages.file(i) == 0));
  }
  // Neighbours that could be one are one.
  const Vma* last = nullptr;
  for (const auto& [start, vma] : list.all()) {
    CHECK(start == vma.start);
    if (last != nullptr) {
      CHECK((last->end < start || last->source.file != vma.source.file));
    }
    last = &vma;
  }
}

TEST_CASE("vma: the list holds what a table of pages does, and finds the same gaps") {
  for (u64 seed = 1; seed <= 20; ++seed) {
    CAPTURE(seed);
    Random random(seed);
    VmaList list;
    Pages pages;
    for (int step = 0; step < 200; ++step) {
      const u64 count = 1 + random.below(8), first = random.below(Pages::kPages - count + 1);
      const Gva start = Pages::at(first), end = start + count * kPageBytes;
      CHECK(list.covers(start, end) == pages.all(first, count, true));
      CHECK(list.is_free(start, end) == pages.all(first, count, false));
      if (random.chance(1, 3)) {
        u64 bytes = 0, due = 0;
        for (const Vma& part : list.parts(start, end)) bytes += part.end - part.start;
        for (const Vma& part : list.remove(start, end)) due += part.end - part.start;
        CHECK(bytes == due);
        pages.set(first, count, 0);
      } else if (const u64 free = pages.find_free(count); free != Pages::kPages) {
        Vma vma;
        vma.start = list.find_free(count * kPageBytes, PageSize::k4K);
        REQUIRE(vma.start == Pages::at(free));
        vma.end = vma.start + count * kPageBytes;
        vma.source = Source::of_shared_file(static_cast<u32>(1 + random.below(3)), 0);
        vma.source.kind = Source::Kind::Anonymous;  // so that neighbours merge whatever the offset
        list.insert(vma);
        pages.set(free, count, vma.source.file);
      }
      check(list, pages);
    }
  }
}

}  // namespace
}  // namespace mmuscope
