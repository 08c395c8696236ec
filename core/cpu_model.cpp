#include "core/cpu_model.h"

#include <algorithm>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/params.h"

namespace mmuscope {

namespace {

constexpr u8 k4 = 1, k2 = 2, k1 = 4;  // page sizes of a bank: 4K, 2M, 1G
constexpr auto kCpuid = Confidence::Cpuid;
constexpr auto kText = Confidence::Text;
constexpr auto kMemory = Confidence::Memory;

// Bhattacharjee, *Large-Reach Memory Management Unit Caches* (MICRO 2013), as remembered: 2, 4 and
// 32 entries on Intel. AMD's page-directory cache of 64 entries is said of Zen as a whole; we give
// them all to PDEs and keep Intel's figures above. K10's 24 entries hold entries of any level.
constexpr WalkCacheGeometry kIntelPml4e{2, 2, kMemory}, kIntelPdpte{4, 4, kMemory},
    kIntelPde{32, 4, kMemory};
constexpr WalkCacheGeometry kZenPde{64, 64, kMemory};
constexpr WalkCacheGeometry kK10Pde{16, 16, kMemory};

// Data caches: sizes and ways as the vendors' optimization manuals and CPUID give them, as
// remembered; the last level is that of one whole chip of the size named.
constexpr LineCacheGeometry line_cache(u32 kib, u16 ways) { return {kib, ways, kMemory}; }

CpuModel nehalem() {
  CpuModel c;
  c.name = "nehalem";
  c.description = "Intel Nehalem (Bloomfield, 2008), first with EPT";
  c.max_phys_bits = 40;
  c.pages_1g = false;
  c.pcid = false;
  c.ept_ad = false;
  c.l1_load = {{64, 4, k4, kCpuid}, {32, 4, k2, kCpuid}};
  c.l1_fetch = {{64, 4, k4, kCpuid}, {7, 7, k2, kCpuid}};
  c.l2_data = {{512, 4, k4, kCpuid}};
  c.pml4e = kIntelPml4e, c.pdpte = kIntelPdpte, c.pde = kIntelPde;
  c.l1_lines = line_cache(32, 8);
  c.l2_lines = line_cache(256, 8);
  c.llc_lines = line_cache(8 << 10, 16);
  return c;
}

CpuModel haswell() {
  CpuModel c = nehalem();
  c.name = "haswell";
  c.description = "Intel Haswell-EP (2014)";
  c.apicv = true;  // since Ivy Bridge-EP
  c.max_phys_bits = 46;
  c.pages_1g = c.pcid = c.ept_ad = true;
  c.l1_load = {{64, 4, k4, kCpuid}, {32, 4, k2, kCpuid}, {4, 4, k1, kCpuid}};
  c.l1_fetch = {{64, 8, k4, kCpuid}, {8, 8, k2, kCpuid}};
  c.l2_data = {{1024, 8, k4 | k2, kCpuid}};
  c.l1_lines = line_cache(32, 8);
  c.l2_lines = line_cache(256, 8);
  c.llc_lines = line_cache(30 << 10, 20);  // 12 cores
  return c;
}

CpuModel skylake() {
  CpuModel c = haswell();
  c.name = "skylake";
  c.pml = true;  // since Broadwell
  c.description = "Intel Skylake-SP (2017)";
  // CPUID's code says 6 ways, the manual 12; 1536 entries in 12 ways make 128 sets.
  c.l2_data = {{1536, 12, k4 | k2, kText}, {16, 4, k1, kCpuid}};
  c.l1_lines = line_cache(32, 8);
  c.l2_lines = line_cache(1024, 16);
  c.llc_lines = line_cache(28 * 1408, 11);  // 28 cores
  return c;
}

CpuModel cascade_lake() {
  CpuModel c = skylake();
  c.name = "cascade-lake";
  c.description = "Intel Cascade Lake (Xeon Platinum 8269CY, 2019), the PVM paper's host";
  c.llc_lines = line_cache(26 * 1408, 11);  // 26 cores
  return c;
}

CpuModel ice_lake() {
  CpuModel c = skylake();
  c.name = "ice-lake";
  c.description = "Intel Ice Lake-SP (Sunny Cove, 2021)";
  c.max_phys_bits = 52;
  c.l1_load = {{64, 4, k4, kCpuid}, {32, 4, k2, kCpuid}, {8, 8, k1, kCpuid}};
  c.l1_store = {{16, 16, k4 | k2 | k1, kCpuid}};
  c.l1_fetch = {{128, 8, k4, kMemory}, {8, 8, k2, kCpuid}};
  c.l2_data = {{1024, 8, k4 | k2, kCpuid}, {1024, 8, k4 | k1, kCpuid}};
  c.l1_lines = line_cache(48, 12);
  c.l2_lines = line_cache(1280, 20);
  c.llc_lines = line_cache(40 * 1536, 12);  // 40 cores
  return c;
}

CpuModel sapphire_rapids() {
  CpuModel c = ice_lake();
  c.name = "sapphire-rapids";
  c.description = "Intel Sapphire Rapids (Golden Cove, 2023)";
  c.l1_fetch = {{256, 8, k4, kCpuid}, {32, 8, k2, kCpuid}};
  c.l2_lines = line_cache(2048, 16);
  c.llc_lines = line_cache(56 * 1920, 15);  // 56 cores
  return c;
}

CpuModel barcelona() {
  CpuModel c;
  c.name = "barcelona";
  c.description = "AMD Barcelona (K10, 2007), first with nested paging";
  c.vendor = Vendor::Amd;
  c.tags = 64;
  c.flush_by_asid = false;
  c.max_phys_bits = 48;
  c.pcid = false;
  c.l1_load = {{48, 48, k4 | k2 | k1, kCpuid}};
  c.l1_fetch = {{32, 32, k4, kCpuid}, {16, 16, k2, kCpuid}};
  c.l2_data = {{512, 4, k4, kCpuid}, {128, 2, k2, kCpuid}};
  c.l2_fetch = {{512, 4, k4, kCpuid}};
  c.pml4e = {4, 4, kMemory}, c.pdpte = {4, 4, kMemory}, c.pde = kK10Pde;
  c.l1_lines = line_cache(64, 2);
  c.l2_lines = line_cache(512, 16);
  c.llc_lines = line_cache(2 << 10, 32);
  c.entry_cache = true;
  return c;
}

CpuModel zen1() {
  CpuModel c = barcelona();
  c.name = "zen1";
  c.description = "AMD Zen (Naples, 2017)";
  c.tags = 32768;
  c.flush_by_asid = true;
  c.l1_load = {{64, 64, k4 | k2 | k1, kCpuid}};
  c.l1_fetch = {{64, 64, k4 | k2 | k1, kCpuid}};
  // The associativity codes are ranges; 12 ways by the optimization guide.
  c.l2_data = {{1536, 12, k4 | k2, kText}};
  c.l2_fetch = {{1024, 8, k4 | k2, kCpuid}};
  c.pml4e = kIntelPml4e, c.pdpte = kIntelPdpte, c.pde = kZenPde;
  c.l1_lines = line_cache(32, 8);
  c.l2_lines = line_cache(512, 8);
  c.llc_lines = line_cache(8 << 10, 16);  // of a complex of 4 cores
  c.entry_cache = false;
  return c;
}

CpuModel zen2() {
  CpuModel c = zen1();
  c.name = "zen2";
  c.description = "AMD Zen 2 (Rome, 2019)";
  c.l2_data = {{2048, 16, k4 | k2, kText}};
  c.llc_lines = line_cache(16 << 10, 16);  // of a complex of 4 cores
  return c;
}

CpuModel zen3() {
  CpuModel c = zen2();
  c.name = "zen3";
  c.description = "AMD Zen 3 (Milan, 2021)";
  c.pcid = true;
  c.l2_data = {{2048, 16, k4 | k2, kText}, {64, 64, k1, kCpuid}};
  c.l2_fetch = {{512, 4, k4 | k2, kCpuid}};
  c.llc_lines = line_cache(32 << 10, 16);  // of a complex of 8 cores
  return c;
}

CpuModel zen4() {
  CpuModel c = zen3();
  c.name = "zen4";
  c.description = "AMD Zen 4 (Genoa, 2022)";
  c.max_phys_bits = 52;
  c.l1_load = {{72, 72, k4 | k2 | k1, kCpuid}};
  c.l2_data = {{3072, 24, k4 | k2, kText}, {64, 64, k1, kCpuid}};
  c.l2_lines = line_cache(1024, 8);
  return c;
}

}  // namespace

CpuModel with_tlbs_scaled(CpuModel model, unsigned percent) {
  const auto scaled = [percent](unsigned n) { return std::max(1u, (n * percent + 50) / 100); };
  for (auto* banks :
       {&model.l1_load, &model.l1_store, &model.l1_fetch, &model.l2_data, &model.l2_fetch}) {
    for (TlbGeometry& g : *banks) {
      const bool one_set = g.ways == g.entries;
      if (one_set) g.ways = static_cast<u16>(scaled(g.ways));
      g.entries = static_cast<u16>(one_set ? g.ways : scaled(g.entries / g.ways) * g.ways);
    }
  }
  return model;
}

std::span<const CpuModel> cpu_models() {
  static const std::vector<CpuModel> models = {
      nehalem(),   haswell(), skylake(), cascade_lake(), ice_lake(), sapphire_rapids(),
      barcelona(), zen1(),    zen2(),    zen3(),         zen4()};
  return models;
}

const CpuModel& cpu_model(std::string_view name) {
  const auto models = cpu_models();
  const auto found =
      std::find_if(models.begin(), models.end(), [&](const CpuModel& m) { return m.name == name; });
  if (found != models.end()) return *found;
  std::vector<std::string_view> valid;
  for (const CpuModel& m : models) valid.push_back(m.name);
  throw InputError(unknown_word("CPU", name, valid));
}

}  // namespace mmuscope
