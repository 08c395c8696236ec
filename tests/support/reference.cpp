#include "tests/support/reference.h"

namespace mmuscope {

Reference translate_by_the_manual(const ReadEntry& read, u64 cr3, u64 va, Access access,
                                  const Controls& c, unsigned max_phys_bits, bool pages_1g) {
  Reference r;
  const u64 upper = va >> (c.levels == 5 ? 56 : 47);
  if (upper != 0 && upper != (c.levels == 5 ? 0xff : 0x1ffff)) {
    r.end = Reference::End::GeneralProtection;
    return r;
  }
  const bool user = access.privilege == Privilege::User;
  const bool write = access.kind == AccessKind::Write, fetch = access.kind == AccessKind::Fetch;
  const auto page_fault = [&](bool present, bool reserved) {
    r.end = Reference::End::PageFault;
    r.error_code = (present ? 1u : 0u) | (write ? 2u : 0u) | (user ? 4u : 0u) |
                   (reserved ? 8u : 0u) | (fetch && (c.nxe || c.smep) ? 16u : 0u);
    return r;
  };

  const u64 beyond_width = 0x000f'ffff'ffff'ffff >> max_phys_bits << max_phys_bits;
  u64 table = cr3 & 0x000f'ffff'ffff'f000;
  bool writable = true, user_page = true, executable = true;
  for (int level = c.levels; level >= 1; --level) {
    const int shift = 12 + 9 * (level - 1);
    r.entries.push_back(table + (va >> shift & 0x1ff) * 8);
    const u64 e = read(r.entries.back());
    if (!(e & 1)) return page_fault(false, false);
    const bool maps_page = level == 1 || (e & 0x80);
    u64 reserved = beyond_width | (c.nxe ? 0 : u64{1} << 63);
    if (maps_page && level == 2) reserved |= 0x1fe000;
    if (maps_page && level == 3) reserved |= pages_1g ? 0x3fffe000 : 0x80;
    if (maps_page && level >= 4) reserved |= 0x80;
    if (e & reserved) return page_fault(true, true);
    writable &= (e & 2) != 0;
    user_page &= (e & 4) != 0;
    executable &= !(e >> 63);
    if (!maps_page) {
      table = e & 0x000f'ffff'ffff'f000;
      continue;
    }
    r.page_bytes = u64{1} << shift;
    r.gpa = (e & 0x000f'ffff'ffff'f000 & ~(r.page_bytes - 1)) | (va & (r.page_bytes - 1));
    r.global = c.pge && (e & 0x100);
    break;
  }

  bool allowed = true;
  if (user && !user_page) allowed = false;
  if (write && !writable && (user || c.wp)) allowed = false;
  if (fetch && !executable) allowed = false;
  if (fetch && !user && user_page && c.smep) allowed = false;
  if (!fetch && !user && user_page && c.smap && !c.ac) allowed = false;
  return allowed ? r : page_fault(true, false);
}

}  // namespace mmuscope
