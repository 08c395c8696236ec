#pragma once

#include <array>
#include <vector>

#include "core/machine.h"
#include "workloads/guest/address_space.h"
#include "workloads/guest/boot.h"
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
///
/// With PCIDs each CPU keeps six address spaces in its TLB and comes back to one without a flush if
/// it has missed none. With KPTI every address space has two roots, and two PCIDs.
class GuestTlb {
 public:
  GuestTlb(Machine& machine, const BootImage& image, KernelStatistics& statistics)
      : machine_(machine),
        kernel_root_(image.root),
        kernel_user_root_(image.user_root),
        pcid_(kernel_uses_pcid(machine)),
        statistics_(statistics),
        cpus_(machine.vcpu_count()) {}

  /// Runs the vCPU on these tables, flushing what it missed if they are loaded already.
  void load(Vcpu& vcpu, AddressSpace& space);
  /// The vCPU is idle: only the kernel half is used until the next load().
  void rest(Vcpu& vcpu) { cpu(vcpu).resting = true; }
  /// Runs the vCPU on the kernel's own tables.
  void unload(Vcpu& vcpu);
  AddressSpace* loaded(const Vcpu& vcpu) { return cpu(vcpu).loaded; }

  /// KPTI's change of roots on the way into the kernel and back to user mode. Linux,
  /// SWITCH_TO_KERNEL_CR3 and SWITCH_TO_USER_CR3. (Linux reads CR3 before it writes it; this kernel
  /// knows what is in it.)
  void enter_kernel(Vcpu& vcpu);
  void leave_kernel(Vcpu& vcpu);
  /// True if the vCPU runs on user mode's root.
  bool is_on_user_root(const Vcpu& vcpu) { return cpu(vcpu).on_user_root; }

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
    u64 answered_at = 0;  ///< clock at which the last one has
  };
  /// Linux, TLB_NR_DYN_ASIDS.
  static constexpr unsigned kTags = 6;
  static constexpr u64 kKernelSpace = 1;  // the kernel's own tables; address spaces come after
  /// What the TLB may hold under one tag.
  struct Tag {
    u64 space = 0;    ///< its id; 0: nothing yet
    u64 flushes = 0;  ///< of it: the last one that this TLB has seen
  };
  struct Cpu {
    AddressSpace* loaded = nullptr;  ///< null: the kernel's own tables
    bool resting = false;
    bool on_user_root = false;
    std::array<Tag, kTags> tags{{{kKernelSpace, 0}}};
    unsigned tag = 0;       ///< of what is loaded
    unsigned next_tag = 1;  ///< to be taken away next
    u32 user_stale = 0;     ///< bit per tag: user mode's PCID is flushed when it is next loaded
    std::vector<Request*> requests;
  };
  Cpu& cpu(const Vcpu& vcpu) { return cpus_[vcpu.index()]; }
  /// Gives the address space a tag, its old one if it has one; true if that has to be flushed.
  bool choose_tag(Cpu& c, u64 space, u64 flushes);
  void load_kernel_root(Vcpu& vcpu, Cpu& c, bool flush);
  void flush_page(Vcpu& vcpu, const Cpu& c, Gva va);
  void send(Vcpu& vcpu, Request& request);
  void perform(Vcpu& vcpu, const Request& request);

  Machine& machine_;
  Gpa kernel_root_, kernel_user_root_;
  bool pcid_;
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
  void release(Gfn frame) { frames_.push_back(frame); }
  /// To which the tables unlinked around [start, end) are appended.
  std::vector<Gfn>& tables() { return tables_; }
  /// Flushes if anything changed, then drops the references and frees the tables.
  void finish(Vcpu& vcpu, FrameAllocator& frames);
  /// The same at the end of the address space.
  void finish_teardown(Vcpu& vcpu, FrameAllocator& frames);

 private:
  void free_all(Vcpu& vcpu, FrameAllocator& frames);

  GuestTlb& tlb_;
  AddressSpace& space_;
  bool any_ = false;
  FlushRange range_{kLowerHalfEnd, Gva(0), PageSize::k2M};
  std::vector<Gfn> frames_, tables_;
};

}  // namespace mmuscope
