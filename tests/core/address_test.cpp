#include "core/address.h"

#include <doctest/doctest.h>

#include <initializer_list>

namespace mmuscope {
namespace {

TEST_CASE("canonical addresses repeat their highest translated bit") {
  for (const unsigned levels : {4u, 5u}) {
    const u64 half = u64{1} << (levels == 4 ? 47 : 56);
    CHECK(is_canonical(Gva(0), levels));
    CHECK(is_canonical(Gva(half - 1), levels));
    CHECK_FALSE(is_canonical(Gva(half), levels));
    CHECK_FALSE(is_canonical(Gva(0 - half - 1), levels));
    CHECK(is_canonical(Gva(0 - half), levels));
    CHECK(is_canonical(Gva(~u64{0}), levels));
  }
  CHECK_FALSE(is_canonical(Gva(u64{1} << 50), 4));
  CHECK(is_canonical(Gva(u64{1} << 50), 5));
}

TEST_CASE("an address splits into table indices, frame and offset") {
  const Gva va((u64{1} << 48) | (u64{2} << 39) | (u64{3} << 30) | (u64{4} << 21) | (5 << 12) | 6);
  CHECK(table_index(va, 5) == 1);
  CHECK(table_index(va, 4) == 2);
  CHECK(table_index(va, 3) == 3);
  CHECK(table_index(va, 2) == 4);
  CHECK(table_index(va, 1) == 5);
  CHECK(va.page_offset() == 6);
  CHECK(va.frame().base() + 6 == va);
  CHECK(va.offset_in(PageSize::k2M) == (5 << 12 | 6));
  CHECK(va.align_down(PageSize::k1G) + va.offset_in(PageSize::k1G) == va);
  CHECK(table_index(Gva(~u64{0}), 4) == 511);
}

TEST_CASE("page sizes know their level") {
  for (const PageSize size : {PageSize::k4K, PageSize::k2M, PageSize::k1G}) {
    CHECK(leaf_size(leaf_level(size)) == size);
    CHECK(page_bytes(size) == u64{1} << page_shift(size));
  }
  CHECK(page_bytes(PageSize::k1G) == u64{1} << 30);
  CHECK(min_size(PageSize::k1G, PageSize::k2M) == PageSize::k2M);
}

}  // namespace
}  // namespace mmuscope
