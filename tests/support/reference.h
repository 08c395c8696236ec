#pragma once

#include <functional>
#include <vector>

#include "core/access.h"
#include "core/address.h"

namespace mmuscope {

/// What the manual says about one access under given tables. Shares nothing with core/walk.h but
/// the names of types.
struct Reference {
  enum class End { Ok, PageFault, GeneralProtection };
  End end = End::Ok;
  u32 error_code = 0;  ///< of PageFault
  u64 gpa = 0;         ///< of Ok
  u64 page_bytes = 0;  ///< of Ok: of the page that maps it
  bool global = false;
  std::vector<u64> entries;  ///< guest-physical addresses of the entries used, top level first
};

/// How the tables are read: the entry at a guest-physical address.
using ReadEntry = std::function<u64(u64)>;

/// Translates as SDM vol. 3, *4-Level Paging and 5-Level Paging* and *Determination of Access
/// Rights* say, `cr3` being the register's value.
Reference translate_by_the_manual(const ReadEntry& read, u64 cr3, u64 va, Access access,
                                  const Controls& controls, unsigned max_phys_bits, bool pages_1g);

}  // namespace mmuscope
