#include "core/memory.h"

#include <doctest/doctest.h>

#include <cstdio>
#include <set>

#include "core/error.h"
#include "core/memory_map.h"
#include "tests/support/guest_tables.h"
#include "tests/support/setups.h"

namespace mmuscope {
namespace {

TEST_CASE("guest memory and tables come zeroed, aligned and apart") {
  PhysicalMemory memory(u64{1} << 30, u64{1} << 24);
  std::set<u64> taken;
  for (int i = 0; i < 600; ++i)
    CHECK(taken.insert(memory.allocate_backing(PageSize::k4K).raw()).second);
  const Hfn large = memory.allocate_backing(PageSize::k2M);
  CHECK(large.raw() % 512 == 0);
  for (u64 i = 0; i < 512; ++i) CHECK(taken.insert(large.raw() + i).second);
  for (int i = 0; i < 600; ++i)
    CHECK(taken.insert(memory.allocate_backing(PageSize::k4K).raw()).second);
  const Hfn table = memory.allocate_table();
  CHECK(taken.count(table.raw()) == 0);
  CHECK(memory.tables_in_use() == 1);
  memory.write(table.base() + 8, 5);
  CHECK(memory.read(table.base() + 8) == 5);
  memory.free_table(table);
  CHECK(memory.tables_in_use() == 0);
  CHECK(memory.allocate_table() == table);
  CHECK(memory.read(table.base() + 8) == 0);
  CHECK_THROWS_AS(memory.allocate_backing(PageSize::k1G), RunError);
}

TEST_CASE("tables run out with an error") {
  PhysicalMemory memory(u64{1} << 30, u64{1} << 21);
  for (int i = 0; i < 512; ++i) memory.allocate_table();
  CHECK_THROWS_AS(memory.allocate_table(), RunError);
}

TEST_CASE("zero_bytes clears whatever stands there") {
  std::vector<std::byte> bytes(300, std::byte{0});
  for (const std::size_t at : {0u, 63u, 64u, 200u, 299u}) {
    bytes[at] = std::byte{1};
    zero_bytes(bytes.data(), bytes.size());
    CHECK(bytes[at] == std::byte{0});
  }
  bytes[10] = bytes[11] = std::byte{1};
  zero_bytes(bytes.data(), 11);
  CHECK(bytes[10] == std::byte{0});
  CHECK(bytes[11] == std::byte{1});
}

TEST_CASE("a guest frame gets its host page on first use and keeps it") {
  for (const PageSize size : {PageSize::k4K, PageSize::k2M, PageSize::k1G}) {
    PhysicalMemory memory(u64{4} << 30, u64{1} << 24);
    MemoryMap map(memory, u64{4} << 30, {size});
    const Gfn frame(0x80123);
    CHECK_FALSE(map.find(frame));
    const Backing b = map.back(frame);
    CHECK(b.size == size);
    CHECK(map.find(frame)->frame == b.frame);
    // The neighbours in the same host page are there too, beside it.
    const u64 frames = page_bytes(size) / kPageBytes;
    const u64 first = frame.raw() / frames * frames;
    CHECK(map.find(Gfn(first))->frame.raw() % frames == 0);
    CHECK(map.find(Gfn(first + frames - 1))->frame - map.find(Gfn(first))->frame == frames - 1);
    CHECK_FALSE(map.find(Gfn(first + frames)));
    CHECK_FALSE(map.find(Gfn(first - 1)));
    CHECK(map.back(Gpa((frame.raw() << 12) + 77)).page_offset() == 77);
  }
}

TEST_CASE("there is nothing beyond the guest's memory") {
  PhysicalMemory memory(u64{1} << 30, u64{1} << 24);
  MemoryMap map(memory, 10 * kPageBytes, {});
  CHECK(map.contains(Gfn(9)));
  CHECK_FALSE(map.contains(Gfn(10)));
  CHECK(map.contains(Gpa(10 * kPageBytes - 8), 8));
  CHECK_FALSE(map.contains(Gpa(10 * kPageBytes - 7), 8));
  CHECK_FALSE(map.contains(Gpa(~u64{0}), 8));
  CHECK_FALSE(map.find(Gfn(10)));
  CHECK_THROWS_AS(map.back(Gfn(10)), RunError);
}

TEST_CASE("without virtualization guest-physical is host-physical") {
  PhysicalMemory memory(u64{1} << 30, u64{1} << 24);
  const MemoryMap map = MemoryMap::identity(memory, u64{1} << 20);
  CHECK(map.is_identity());
  CHECK(map.find(Gfn(7))->frame == Hfn(7));
}

/// Bytes of memory that this process has, as the operating system counts them.
u64 resident_bytes() {
  std::FILE* f = std::fopen("/proc/self/statm", "r");
  REQUIRE(f != nullptr);
  unsigned long total = 0, resident = 0;
  const int read = std::fscanf(f, "%lu %lu", &total, &resident);
  std::fclose(f);
  REQUIRE(read == 2);
  return resident * kPageBytes;
}

TEST_CASE("a guest of 1 TiB costs what it touches") {
  const u64 before = resident_bytes();
  for (const char* pager : {"shadow", "nested"}) {
    MachineConfig config;
    config.memory_bytes = u64{1} << 40;
    const auto machine = make_machine({pager, PageSize::k2M}, config);
    GuestTables tables(*machine, Gpa(0));
    const Gpa root = tables.new_table();
    const u64 pages = 200, apart = (u64{1} << 40) / pages / kPageBytes * kPageBytes;
    const Gva base(u64{1} << 40);
    for (u64 i = 1; i < pages; ++i) {
      tables.map(root, base + i * apart, Gpa(i * apart), GuestTables::kUserRw);
    }
    Vcpu& vcpu = machine->vcpu(0);
    vcpu.set_cr3(root.raw());
    for (u64 i = 1; i < pages; ++i) vcpu.store(base + i * apart, i);
    for (u64 i = 1; i < pages; ++i) CHECK(vcpu.load(base + i * apart) == i);
    CHECK(resident_bytes() - before < u64{64} << 20);
  }
}

}  // namespace
}  // namespace mmuscope
