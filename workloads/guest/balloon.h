#pragma once

#include <vector>

#include "core/vcpu.h"
#include "workloads/guest/frame_allocator.h"
#include "workloads/guest/guest_lock.h"

namespace mmuscope {

/// What the guest gives back to its host: Linux's virtio_balloon, its queues taken as hypercalls.
class Balloon {
 public:
  explicit Balloon(FrameAllocator& frames) : frames_(frames) {}

  /// Takes so many frames for nobody, as far as there are free ones, and offers them to the host:
  /// 256 in a hypercall (VIRTIO_BALLOON_ARRAY_PFNS_MAX), each a range of its own, as QEMU takes
  /// them. `kept` of them stay free, as it asks with __GFP_NORETRY. How many it took.
  u64 inflate(Vcpu& vcpu, u64 frames, u64 kept);
  /// Gives so many of them back to the guest, the last first, told to the host in the same batches.
  u64 deflate(Vcpu& vcpu, u64 frames);
  /// Offers the free 2-MByte blocks that have been in use since they were last offered, 32 in a
  /// hypercall: free page reporting (mm/page_reporting.c: pageblock_order,
  /// PAGE_REPORTING_CAPACITY). They stay free. How many frames it offered.
  u64 report_free(Vcpu& vcpu);

  const std::vector<Gfn>& pages() const { return pages_; }

 private:
  /// One at a time (Linux, balloon_lock).

  FrameAllocator& frames_;
  GuestLock lock_;
  std::vector<Gfn> pages_;
};

}  // namespace mmuscope
