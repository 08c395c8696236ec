#pragma once

#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "core/memory.h"

namespace mmuscope {

/// A host page under a guest frame.
struct Backing {
  Hfn frame;                      ///< the host frame of the very guest frame that was asked for
  PageSize size = PageSize::k4K;  ///< of the host page around it
};

/// Which host frame is under each guest frame: the hypervisor's own truth (KVM's memory slot, Xen's
/// p2m), the same whatever the pager. Host pages have one size and appear on first use.
class MemoryMap {
 public:
  /// Guest memory is [0, bytes), in host pages of `page` on demand.
  MemoryMap(PhysicalMemory& memory, u64 bytes, PageSize page);
  /// Guest-physical is host-physical: a machine without virtualization.
  static MemoryMap identity(PhysicalMemory& memory, u64 bytes);

  u64 bytes() const { return bytes_; }
  PageSize page() const { return page_; }
  bool is_identity() const { return identity_; }
  bool contains(Gfn g) const { return g.base().raw() < bytes_; }
  bool contains(Gpa a, u64 bytes) const { return a.raw() < bytes_ && bytes <= bytes_ - a.raw(); }

  /// The host page under the frame, if there is one yet.
  std::optional<Backing> find(Gfn g) const;
  /// The same, after giving it one. Throws RunError outside guest memory.
  Backing back(Gfn g);
  Hpa back(Gpa a) { return back(a.frame()).frame.base() + a.page_offset(); }

 private:
  MemoryMap(PhysicalMemory& memory, u64 bytes);
  /// Frames of 512 host pages; 0 is "none", else frame + 1.
  using Chunk = std::array<u64, kEntriesPerTable>;

  PhysicalMemory* memory_;
  u64 bytes_;
  PageSize page_ = PageSize::k1G;
  bool identity_ = false;
  std::vector<std::unique_ptr<Chunk>> chunks_;
};

}  // namespace mmuscope
