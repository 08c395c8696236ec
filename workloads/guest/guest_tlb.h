#pragma once

#include <vector>

#include "core/machine.h"
#include "workloads/guest/address_space.h"
#include "workloads/guest/direct_map.h"
#include "workloads/guest/frame_allocator.h"
#include "workloads/guest/statistics.h"

namespace mmuscope {

/// What a flush is about.
struct FlushRange {
  Gva start, end;
  PageSize stride = PageSize::k4K;
  bool everything = false;    ///< the whole address space, whatever the range
  bool freed_tables = false;  ///< tables are freed after it: idle vCPUs have to answer, too
};

/// Which tables each vCPU runs on, and how TLBs are kept in step with them: Linux's
/// arch/x86/mm/tlb.c. Page by page up to 33 pages, everything by a CR3 write above
/// (tlb_single_page_flush_ceiling); other vCPUs that run the address space are interrupted and
/// waited for; an idle one is spared if it can catch up before it runs the address space again.
class GuestTlb {
 public:
  GuestTlb(Machine& machine, Gpa kernel_root, KernelStatistics& statistics)
      : machine_(machine),
        kernel_root_(kernel_root),
        statistics_(statistics),
        cpus_(machine.vcpu_count()) {}

  /// Runs the vCPU on these tables, flushing what it missed if they are loaded already.
  void load(Vcpu& vcpu, AddressSpace& space);
  /// The vCPU is idle: only the kernel half is used until the next load().
  void rest(Vcpu& vcpu) { cpu(vcpu).resting = true; }
  /// Runs the vCPU on the kernel's own tables.
  void unload(Vcpu& vcpu);
  AddressSpace* loaded(const Vcpu& vcpu) { return cpu(vcpu).loaded; }

  /// Returns when no TLB holds what the tables of the address space no longer say. The caller holds
  /// the address space's lock.
  void flush(Vcpu& vcpu, AddressSpace& space, const FlushRange& range);
  /// The same for an address space that is torn down: no vCPU has its tables loaded afterwards.
  void flush_for_teardown(Vcpu& vcpu, AddressSpace& space);
  /// Answers the other vCPUs' requests.
  void on_ipi(Vcpu& vcpu);

 private:
  /// Lives on its sender's stack until all have answered.
  struct Request {
    AddressSpace* space;
    FlushRange range;
    u64 flushes;  ///< the address space's count when it was made
    unsigned unanswered = 0;
  };
  struct Cpu {
    AddressSpace* loaded = nullptr;
    bool resting = false;
    u64 flushes = 0;  ///< of `loaded`: the last one that this TLB has seen
    std::vector<Request*> requests;
  };
  Cpu& cpu(const Vcpu& vcpu) { return cpus_[vcpu.index()]; }
  void send(Vcpu& vcpu, Request& request);
  void perform(Vcpu& vcpu, const Request& request);

  Machine& machine_;
  Gpa kernel_root_;
  KernelStatistics& statistics_;
  std::vector<Cpu> cpus_;
};

/// Frames that were mapped and tables that were linked until a moment ago. They are free only after
/// the flush: Linux's mmu_gather.
class TlbGather {
 public:
  TlbGather(GuestTlb& tlb, AddressSpace& space) : tlb_(tlb), space_(space) {}

  /// An entry for the page at va has lost a right, its page or its existence.
  void changed(Gva va, PageSize size);
  /// A reference to a data frame is to be dropped.
  void release(Gfn frame, PageSize size) { frames_.push_back({frame, size}); }
  /// To which the tables unlinked around [start, end) are appended.
  std::vector<Gfn>& tables() { return tables_; }
  /// Flushes if anything changed, then drops the references and frees the tables.
  void finish(Vcpu& vcpu, FrameAllocator& frames);
  /// The same at the end of the address space.
  void finish_teardown(Vcpu& vcpu, FrameAllocator& frames);

 private:
  struct Dropped {
    Gfn frame;
    PageSize size;
  };
  void free_all(FrameAllocator& frames);

  GuestTlb& tlb_;
  AddressSpace& space_;
  bool any_ = false;
  FlushRange range_{kLowerHalfEnd, Gva(0), PageSize::k2M};
  std::vector<Dropped> frames_;
  std::vector<Gfn> tables_;
};

}  // namespace mmuscope
