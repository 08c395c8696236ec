#pragma once

#include <array>
#include <bitset>
#include <boost/intrusive/list.hpp>
#include <boost/intrusive/unordered_set.hpp>
#include <cstring>

#include "core/entry.h"

namespace mmuscope {

struct ShadowPage;

/// What a shadow page is a shadow of, besides the guest frame: the same guest table used under
/// other rights, at another level or in another paging mode has another shadow.
struct Role {
  u8 level = 0;         ///< of the table: 1 = PT
  u8 access = 0;        ///< rights (kWrite, kUser, kExec) that the guest entries above grant
  bool direct = false;  ///< shadows no table: maps a range of guest frames linearly
  bool nxe = false;     ///< EFER.NXE: what bit 63 of the guest's entries means
  bool wp = false;      ///< CR0.WP
  bool smep_andnot_wp =
      false;  ///< CR4.SMEP without CR0.WP: writable kernel views are not executable
  bool smap_andnot_wp = false;  ///< CR4.SMAP without CR0.WP
  friend constexpr bool operator==(const Role&, const Role&) = default;
};
inline constexpr u8 kAllAccess = rights::kWrite | rights::kUser | rights::kExec;

/// The hypervisor's notes about one shadow entry. While the entry is present its note is on one
/// list: that of the mappings of its guest frame if it is a leaf, else that of the parents of the
/// shadow page it points to.
class EntryNote : public boost::intrusive::list_base_hook<> {
 public:
  ShadowPage& page() const { return *page_; }
  unsigned index() const;
  ShadowPage& child() const { return *child_; }             ///< of a table entry
  Gfn gfn() const { return Gfn(shadowed_ >> 8); }           ///< of a leaf
  u8 access() const { return static_cast<u8>(shadowed_); }  ///< of a leaf: guest rights
  void set_child(ShadowPage& child) { child_ = &child; }
  void set_leaf(Gfn gfn, u8 access) { shadowed_ = gfn.raw() << 8 | access; }

 private:
  friend struct ShadowPage;
  ShadowPage* page_ = nullptr;
  union {
    ShadowPage* child_;
    u64 shadowed_ = 0;
  };
};
using EntryList = boost::intrusive::list<EntryNote>;

/// One shadow table and what is known about it. The 512 entries themselves are in host memory,
/// where the hardware walks them.
struct ShadowPage {
  ShadowPage();
  bool has_guest_table() const { return !role.direct; }
  u64 entry(unsigned i) const {
    u64 e;
    std::memcpy(&e, entries + 8 * i, sizeof e);
    return e;
  }
  void set_entry(unsigned i, u64 e) { std::memcpy(entries + 8 * i, &e, sizeof e); }
  bool is_leaf(u64 e) const { return role.level == 1 || (e & x86::kLarge); }

  boost::intrusive::unordered_set_member_hook<> frame_hook;  // the hash by guest frame
  boost::intrusive::list_member_hook<> age_hook;             // by age; once dropped, to be freed
  boost::intrusive::list_member_hook<boost::intrusive::link_mode<boost::intrusive::auto_unlink>>
      unsync_hook;  // while unsync: those that one vCPU took out of sync
  Gfn gfn;
  Role role;
  Hfn table;
  std::byte* entries = nullptr;
  EntryList parents;                           ///< entries that point here
  u32 root_count = 0;                          ///< vCPU root slots that hold it
  bool invalid = false;                        ///< dropped, but still a root somewhere
  bool unsync = false;                         ///< its guest table may have changed without an exit
  u32 writes_emulated = 0;                     ///< since a fault last walked through here
  u32 unsync_children = 0;                     ///< bits set below
  std::bitset<kEntriesPerTable> unsync_child;  ///< entries below which some page is unsync
  std::array<EntryNote, kEntriesPerTable> notes;
};

inline unsigned EntryNote::index() const {
  return static_cast<unsigned>(this - page_->notes.data());
}
inline ShadowPage::ShadowPage() {
  for (EntryNote& n : notes) n.page_ = this;
}

using PageList = boost::intrusive::list<
    ShadowPage, boost::intrusive::member_hook<ShadowPage, boost::intrusive::list_member_hook<>,
                                              &ShadowPage::age_hook>>;

using UnsyncList = boost::intrusive::list<
    ShadowPage,
    boost::intrusive::member_hook<ShadowPage,
                                  boost::intrusive::list_member_hook<
                                      boost::intrusive::link_mode<boost::intrusive::auto_unlink>>,
                                  &ShadowPage::unsync_hook>,
    boost::intrusive::constant_time_size<false>>;

/// Bits of a shadow entry that the hardware ignores.
namespace spte {
/// Writable as far as the guest's tables and their shadows go: what is missing is only kWrite,
/// taken away by dirty logging.
inline constexpr u64 kMayWrite = u64{1} << 9;
}  // namespace spte

}  // namespace mmuscope
