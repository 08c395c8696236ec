#pragma once

#include <array>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "core/memory.h"

namespace mmuscope {

/// A host page under a guest frame.
struct Backing {
  Hfn frame;                      ///< the host frame of the very guest frame that was asked for
  PageSize size = PageSize::k4K;  ///< of the host page around it
  bool merged = false;            ///< other guest frames may have the same one: not to be written
};

/// Which host frame is under each guest frame: the hypervisor's own truth (KVM's memory slot, Xen's
/// p2m), the same whatever the pager. Host pages appear on first use.
class MemoryMap {
 public:
  /// What host pages there are to have. Where 1-GByte pages are wanted, this many millionths of the
  /// 1-GByte regions get 2-MByte pages instead, and as many of the 2-MByte regions in those (or
  /// where 2-MByte pages are wanted) get 4-KByte pages: which ones, the seed says.
  struct Policy {
    PageSize page = PageSize::k4K;
    u32 fragmented = 0;
    u64 seed = 1;
  };
  /// Guest memory is [0, bytes), in host pages on demand.
  MemoryMap(PhysicalMemory& memory, u64 bytes, const Policy& policy);
  /// Guest-physical is host-physical: a machine without virtualization.
  static MemoryMap identity(PhysicalMemory& memory, u64 bytes);

  u64 bytes() const { return bytes_; }
  /// The largest host page that there can be.
  PageSize page() const { return page_; }
  bool is_identity() const { return identity_; }
  bool contains(Gfn g) const { return g.base().raw() < bytes_; }
  bool contains(Gpa a, u64 bytes) const { return a.raw() < bytes_ && bytes <= bytes_ - a.raw(); }

  /// The host page under the frame, if there is one yet.
  std::optional<Backing> find(Gfn g) const;
  /// The same, after giving it one. Throws RunError outside guest memory.
  Backing back(Gfn g);
  /// Gives every frame its host page.
  void back_all();
  /// From now on the host is taken to have memory under every frame, whenever that is given.
  void take_as_populated() { populated_ = true; }
  /// The host page under the frame if the host has memory there.
  std::optional<Backing> present(Gfn g) { return populated_ ? back(g) : find(g); }
  /// Takes the memory of the frames [first, first + frames) away: they read as zeros when they are
  /// next given some. Host pages that reach out of the range are split. How many had memory.
  u64 unback(Gfn first, u64 frames);
  /// Gives `gone` the host frame of `keep`, in small pages both; their contents must be equal.
  /// False if one of them has no memory or both have the same already.
  bool merge(Gfn keep, Gfn gone);
  bool is_merged(Gfn g) const {
    return !merged_.empty() && contains(g) && find(g).value_or(Backing{}).merged;
  }
  /// Gives a merged frame memory of its own again, with the same contents.
  void unmerge(Gfn g);
  Hpa back(Gpa a) { return back(a.frame()).frame.base() + a.page_offset(); }

 private:
  MemoryMap(PhysicalMemory& memory, u64 bytes);
  /// Frames of 512 host pages; 0 is "none", else frame + 1.
  using Chunk = std::array<u64, kEntriesPerTable>;

  /// Of the host page that is, or will be, under the frame.
  PageSize size_at(Gfn g) const;
  u64& entry_of(Gfn g, PageSize size);
  /// Cuts the host page around the frame, if there is one, into small ones.
  void split(Gfn g);

  PhysicalMemory* memory_;
  u64 bytes_;
  PageSize page_ = PageSize::k1G;
  bool identity_ = false;
  bool populated_ = false;
  std::unordered_map<u64, u32> merged_;  // by host frame: guest frames that have it
  std::vector<PageSize> regions_;        // by 2-MByte region; empty: all of page_
  std::array<std::vector<std::unique_ptr<Chunk>>, kPageSizes> chunks_;  // by size of host pages
};

}  // namespace mmuscope
