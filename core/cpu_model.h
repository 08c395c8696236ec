#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "core/address.h"

namespace mmuscope {

/// How sure a figure is: read from the CPU's own CPUID leaves, from the vendor's manual or another
/// text read, or from memory and never verified.
enum class Confidence : u8 { Cpuid, Text, Memory };

/// One TLB array. ways == entries is fully associative.
struct TlbGeometry {
  u16 entries = 0;
  u16 ways = 0;
  u8 sizes = 0;  ///< bit 0: 4K pages, bit 1: 2M, bit 2: 1G
  Confidence sure = Confidence::Cpuid;
};

/// Entries of the cache for table entries of one level.
struct WalkCacheGeometry {
  u16 entries = 0;
  u16 ways = 0;
  Confidence sure = Confidence::Memory;
};

/// One data cache, of 64-byte lines.
struct LineCacheGeometry {
  u32 kib = 0;
  u16 ways = 0;
  Confidence sure = Confidence::Memory;
};

enum class Vendor : u8 { Intel, Amd };

/// What paging depends on in a CPU.
struct CpuModel {
  std::string_view name;         ///< as given to --cpu
  std::string_view description;  ///< market name and stepping family, for people
  Vendor vendor = Vendor::Intel;
  u8 max_phys_bits = 46;  ///< MAXPHYADDR
  bool pages_1g = true;
  bool pcid = true;
  bool tagged_tlb = true;                                ///< VPID or ASID
  bool ept_ad = true;                                    ///< EPT accessed and dirty flags (Intel)
  std::vector<TlbGeometry> l1_load, l1_store, l1_fetch;  ///< l1_store empty: shared with loads
  std::vector<TlbGeometry> l2_data, l2_fetch;            ///< l2_fetch empty: shared with data
  WalkCacheGeometry pml5e{2, 2, Confidence::Memory};     ///< taken as small as Intel's for PML4Es
  WalkCacheGeometry pml4e, pdpte, pde;
  /// Of the nested TLB, where one is switched on. AMD's K10 is said to have 16 entries; nothing is
  /// known of others.
  WalkCacheGeometry nested_tlb{16, 16, Confidence::Memory};
  bool entry_cache = false;  ///< walks are cached by entry, not by prefix of the address
  /// Of the cache by entry. K10's; nothing is known of such a cache in others.
  WalkCacheGeometry page_entries{24, 24, Confidence::Memory};
  LineCacheGeometry l1_lines, l2_lines, llc_lines;  ///< of a core, of a core, shared
  bool pml = false;                                 ///< page-modification logging (Intel)
  u32 tags = 65536;                                 ///< VPIDs or ASIDs, that of the host included
  bool flush_by_asid = true;  ///< AMD: a flush of one ASID; without, the guest takes another one
  bool apicv = false;         ///< guest interrupts are delivered without an exit (Intel, APICv)
};

/// The model with TLBs of `percent` as many entries: sets are added or taken, in fully associative
/// arrays ways, at least one. Walk caches stay as they are.
CpuModel with_tlbs_scaled(CpuModel model, unsigned percent);

/// All models, in order of appearance on the market within a vendor.
std::span<const CpuModel> cpu_models();
/// The model of that name; throws InputError that lists the valid names.
const CpuModel& cpu_model(std::string_view name);
/// The model used when none is named: the CPU of the PVM paper's host.
inline constexpr std::string_view kDefaultCpu = "cascade-lake";

}  // namespace mmuscope
