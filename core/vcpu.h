#pragma once

#include <cassert>
#include <cstring>
#include <memory>

#include "core/pager.h"
#include "core/physical_cpu.h"
#include "core/walk_listener.h"

namespace mmuscope {

class Host;
class Machine;
class Vcpu;

/// The guest's own exception and interrupt handlers, which run on the vCPU they are given.
class GuestHandler {
 public:
  virtual ~GuestHandler() = default;
  /// True: do the access again. False: the access is given up (its process was killed, say).
  virtual bool on_fault(Vcpu& vcpu, const GuestFault& fault) = 0;
  /// An interrupt from another vCPU has arrived.
  virtual void on_ipi(Vcpu& vcpu) = 0;
};

/// Sees every access that the guest makes, after it happened. While one is attached every access
/// takes the slow path; events are counted as without it.
class AccessObserver {
 public:
  virtual ~AccessObserver() = default;
  struct Seen {
    Gva va;
    Access access;
    bool done = false;      ///< false: `fault` was raised
    bool emulated = false;  ///< done by the hypervisor, `where` is not known
    GuestFault fault;
    Hpa where;       ///< of the byte at va, if done and not emulated
    StoreOp op;      ///< bytes; of a write the value too
    u64 loaded = 0;  ///< by a read, or by an exchange before it wrote
  };
  virtual void on_access(Vcpu& vcpu, const Seen& seen) = 0;
  // What the guest tells the TLB, with the operands of the instruction, before it takes effect.
  virtual void on_cr3(Vcpu& vcpu, u64 value) { (void)vcpu, (void)value; }
  virtual void on_controls(Vcpu& vcpu, const Controls& to) { (void)vcpu, (void)to; }
  virtual void on_invlpg(Vcpu& vcpu, Gva va) { (void)vcpu, (void)va; }
  virtual void on_invpcid(Vcpu& vcpu, InvpcidType type, u32 pcid, Gva va) {
    (void)vcpu, (void)type, (void)pcid, (void)va;
  }
  // What else a replay of the machine needs: interrupts that are sent, and taken; halts, and going
  // on; what programs compute; and what the harness writes to guest memory, by its own door.
  virtual void on_send_ipi(Vcpu& vcpu, Vcpu& target) { (void)vcpu, (void)target; }
  virtual void on_interrupt(Vcpu& vcpu) { (void)vcpu; }
  virtual void on_halt(Vcpu& vcpu, bool halted) { (void)vcpu, (void)halted; }
  virtual void on_compute(Vcpu& vcpu, u64 cycles) { (void)vcpu, (void)cycles; }
  virtual void on_note(Vcpu& vcpu, Event event, u64 count) { (void)vcpu, (void)event, (void)count; }
  virtual void on_host_write(Gpa where, u64 value) { (void)where, (void)value; }
  virtual void on_offer(Vcpu& vcpu, Gfn first, u64 frames, bool same_call) {
    (void)vcpu, (void)first, (void)frames, (void)same_call;
  }
};

/// How one access ended, for callers that do not want the guest's handler to run.
struct AccessResult {
  bool done = false;
  u64 value = 0;     ///< loaded; of an exchange the old value
  GuestFault fault;  ///< if not done
};

/// Hypervisors' flushes on Intel. SDM vol. 3, *INVVPID*, *INVEPT*.
enum class InvvpidType : u8 { Address = 0, Single = 1, All = 2, SingleKeepGlobals = 3 };
enum class InveptType : u8 { Single = 1, All = 2 };
/// The VMCB field on AMD, which takes effect at the next entry. APM vol. 2, *TLB Control*.
enum class TlbControl : u8 { Nothing = 0, FlushAll = 1, FlushAsid = 3, FlushAsidKeepGlobals = 7 };

/// One virtual CPU. Loads, stores and fetches that hit the first-level TLB are inline; everything
/// else goes through resolve().
///
/// Addresses of data accesses must not let the access cross a page (assert).
class Vcpu {
 public:
  Vcpu(Machine& machine, unsigned index, PhysicalCpu& hardware);
  Vcpu(const Vcpu&) = delete;
  Vcpu& operator=(const Vcpu&) = delete;

  // --- what guest code uses -------------------------------------------------------------------
  template <class T = u64>
  T load(Gva va);
  template <class T = u64>
  void store(Gva va, T value);
  void fetch(Gva va);
  /// Atomic exchange of 8 bytes (xchg, or a compare-and-exchange that succeeds); the old value.
  u64 exchange(Gva va, u64 value);
  /// Fills [va, va+bytes), which must lie in one page, with zeros: one store, as a string store
  /// with fast microcode translates its page once.
  void zero(Gva va, u64 bytes);
  /// Copies between two places of one page each: one load and one store, by the same reasoning.
  void copy(Gva to, Gva from, u64 bytes);
  /// The same as load/store/fetch, but a fault is returned and the guest's handler does not run.
  /// `op` says the width, also of a load; a string operation translates and moves no data.
  AccessResult try_access(Gva va, AccessKind kind, StoreOp op = {});

  /// Time that the guest spends on other than accesses, in cycles: counted, nothing else.
  void compute(u64 cycles) {
    if (observer_ != nullptr) observer_->on_compute(*this, cycles);
    counters[Event::GuestWork] += cycles;
  }

  /// Counts what only the guest's own software knows about, a system call say.
  void note(Event event, u64 count = 1) {
    if (observer_ != nullptr) observer_->on_note(*this, event, count);
    counters[event] += count;
  }

  void set_privilege(Privilege p);
  Privilege privilege() const { return privilege_; }
  /// MOV to CR3; bit 63 set with CR4.PCIDE keeps the TLB. The root is bits 51:12.
  void write_cr3(u64 value);
  void invlpg(Gva va);
  void invpcid(InvpcidType type, u32 pcid, Gva va);
  /// MOV to CR0/CR4, WRMSR EFER: replaces the controls; AC changes only through set_ac.
  void write_controls(const Controls& c);
  /// STAC, CLAC, POPF: never exits.
  void set_ac(bool ac);
  /// Interrupts the other vCPU: its handler's on_ipi runs when it is its turn.
  void send_ipi(Vcpu& target);
  /// Tells the host that the guest does not need what is in these frames: the host takes their
  /// memory back until the guest touches them again. One hypercall can name several ranges: the
  /// ones after the first with `same_call`. No frames: it needs those that it offered before.
  void offer_frames(Gfn first, u64 frames, bool same_call = false);
  /// A wait loop's body: lets other vCPUs run and takes interrupts. Does nothing alone. With clocks
  /// (Schedule::Time) the time until something may have changed passes, counted as `why`.
  void give_way(Event why = Event::HaltedCycles);

  // --- time: the machine's Schedule::Time; without it clocks are of no use and nothing waits
  /// Cycles since the beginning: what this vCPU's events cost, and what it waited; 0 without.
  u64 clock() const;
  /// Waits until that time, if it is not past; counted as `why`.
  void advance_to(u64 time, Event why);
  /// Lets vCPUs that are behind run before something that they may also want is touched.
  void keep_time();
  /// The vCPU has work, but its CPU runs another one.
  bool preempted() const { return !has_cpu_; }
  /// What this VM has in the CPU's TLB is flushed before the vCPU, which is preempted, runs again.
  void defer_flush() {
    flush_deferred_ = true;
    ++counters[Event::FlushDeferred];
  }

  // --- state ----------------------------------------------------------------------------------
  unsigned index() const { return index_; }
  Machine& machine() { return machine_; }
  const CpuModel& cpu() const { return cpu_; }
  u64 cr3() const { return cr3_; }  ///< as the guest last wrote it, bit 63 clear
  Gpa root() const { return Gpa(cr3_ & x86::kAddressMask); }
  const Controls& controls() const { return controls_; }
  u64 accesses() const { return tick_ - tick_base_; }
  Counters counters;
  void set_handler(GuestHandler* handler) { handler_ = handler; }
  void set_observer(AccessObserver* observer);
  /// Tells `listener` of every walk from now on; null: nobody.
  void set_listener(WalkListener* listener) { listener_ = listener; }
  WalkListener* listener() const { return listener_; }
  /// Free for the guest kernel: its per-CPU data.
  void* guest_data = nullptr;
  bool in_guest() const { return in_guest_; }  ///< started and not halted: a kick needs an IPI
  /// The vCPU has nothing to run (HLT) or goes on. A halted one is not interrupted by flushes.
  void set_halted(bool halted);
  /// In the guest at that time, as far as is known: an exit that lasts longer is not over, and one
  /// that begins later has not begun.
  bool in_guest_at(u64 time) const {
    return has_cpu_ && !halted_ && entered_at_ <= time && (in_guest_ || left_at_ > time);
  }

  // --- what pagers use ------------------------------------------------------------------------
  Tlb& tlb() { return tlb_; }
  WalkCache& walk_cache() { return walk_cache_; }
  GuestPhysicalCache& guest_physical() { return guest_physical_; }
  EntryCache& page_entries() { return page_entries_; }
  /// nullptr unless they are modelled.
  DataCaches* data_caches() { return hardware_.data_caches.get(); }
  /// True where single reads of the walker matter (core/walk_memory.h).
  bool watches_walks() const { return watches_walks_ || listener_ != nullptr; }
  /// The tag under which the hardware caches what it translates now.
  Context context() const { return context_; }
  /// Sets the guest's CR3 as emulated, with no effect on the TLB.
  void set_cr3(u64 value);
  void set_controls(const Controls& c);
  /// The hardware's own flushes: TLB and paging-structure caches of this vCPU's CPU.
  void flush_tlb(const FlushMatch& match);
  /// As INVLPG does: the page whatever its size, globals included, and all of the PCID's
  /// paging-structure-cache entries.
  void flush_page(Gva va);
  /// As INVPCID does natively.
  void flush_invpcid(InvpcidType type, u32 pcid, Gva va);
  /// Flushes all linear and combined mappings that this VM has in this CPU.
  void flush_space() { flush_tlb(FlushMatch::space(context_)); }
  /// From now on the guest runs on this root of the second dimension: a number other than 0.
  void use_ept(u32 ep4ta) { context_ = (context_ & ~kEp4taBits) | make_context(0, 0, ep4ta); }
  /// The tag of guest-physical mappings made now: the EP4TA alone, or AMD's ASID, which all
  /// mappings of a guest share there.
  Context guest_physical_context() const {
    return context_ & (cpu_.vendor == Vendor::Intel ? kEp4taBits : ~kPcidBits);
  }
  /// What an EPT violation or #NPF itself drops: the mappings that would translate the addresses.
  void forget_translation(Gva va, Gpa gpa);
  // The hypervisor's instructions. SDM vol. 3, *Operations that Invalidate Cached Mappings*.
  void invvpid(InvvpidType type, u32 vpid, Gva va);
  void invept(InveptType type, u32 ep4ta);
  void invlpga(Gva va, u32 asid);
  void tlb_control(TlbControl control, u32 asid);

 private:
  friend class Host;
  friend class Machine;
  /// What the slow path gives back to the fast one.
  struct Slow {
    std::byte* data = nullptr;  ///< where the byte at va is
    bool completed = false;     ///< the hypervisor performed the access; old_value is its result
    bool failed = false;        ///< `fault` was raised
    u64 old_value = 0;
    GuestFault fault;
  };

  /// The data of a first-level hit, counted; nullptr if anything stands in the way.
  template <AccessKind kKind>
  std::byte* hit(Gva va);
  u64 load_slow(Gva va, unsigned bytes);
  u64 store_slow(Gva va, StoreOp op);
  void fetch_slow(Gva va);
  /// Begins an access, counts it and looks it up in the TLBs; its data, or nullptr.
  std::byte* first_look(AccessKind kind, Gva va);
  /// One access up to its data, what its first look found given; a fault is returned.
  Slow resolve(Gva va, Access access, const StoreOp* op, std::byte* found);
  /// The same, with the guest's handler run until the access is done or given up.
  Slow resolve_handled(Gva va, AccessKind kind, const StoreOp& op, std::byte* found);
  /// The data of an access that either TLB level answers with enough rights; counts the miss and
  /// drops what is cached with too few.
  std::byte* lookup(AccessKind kind, Gva va);
  /// Walks, and serves exits, until there is a translation or a fault.
  void resolve_miss(Gva va, Access access, const StoreOp* op, Slow& out);
  std::byte* cache(Gva va, AccessKind kind, const Translation& t);
  /// True when nothing is left to try.
  bool serve_exit(const VmExit& exit, Slow& out);
  Resume leave_guest(const VmExit& exit);
  void count_exit(ExitReason reason, const VmExit* exit = nullptr);
  void begin_access(AccessKind kind);
  void begin_instruction();
  void enter_guest_first();
  void take_interrupts();
  void end_quantum();
  void set_tag(u32 vpid) { context_ = (context_ & ~kVpidBits) | make_context(vpid, 0); }
  void continue_ticks(u64 tick);
  void recompute_rights();
  /// Paging-structure caches of either kind, and mappings of guest-physical addresses.
  void drop_tables(const FlushMatch& match);
  void drop_tables_at(Gva va, const FlushMatch& match);
  void drop_guest_physical(const FlushMatch& match);
  void flush_for_change(const Controls& from, const Controls& to);
  /// Does what the access does to its data and tells the observer.
  u64 perform(Gva va, Access access, const StoreOp& op, const Slow& s);
  void observe(Gva va, Access access, const StoreOp& op, const Slow& s, u64 loaded);

  // Hot: everything a hit touches but the TLB arrays.
  TlbLevel* l1_load_;
  TlbLevel* l1_store_;
  TlbLevel* l1_fetch_;
  u64 tick_ = 0;            // goes up with accesses; the time of the TLBs' LRU
  u64 deadline_ = ~u64{0};  // the tick at which the lockstep quantum ends
  Context context_ = 0;
  std::array<u8, 3> need_{};      // by AccessKind, at the current privilege
  std::array<u8, 3> required_{};  // the same without kObserved

  Privilege privilege_ = Privilege::Supervisor;
  bool in_guest_ = false;
  bool started_ = false;
  bool tagged_ = true;  // VPID or ASID: exits and entries keep the TLB
  bool ipi_pending_ = false;
  bool taking_interrupt_ = false;
  u64 cr3_ = 0;
  Controls controls_;
  Machine& machine_;
  PhysicalCpu& hardware_;
  const CpuModel& cpu_;
  unsigned index_;
  GuestHandler* handler_ = nullptr;
  AccessObserver* observer_ = nullptr;
  WalkListener* listener_ = nullptr;
  // The hardware's.
  Tlb& tlb_;
  WalkCache& walk_cache_;
  GuestPhysicalCache& guest_physical_;
  EntryCache& page_entries_;
  bool watches_walks_ = false;

  // Time, which the Host keeps.
  u64 tick_base_ = 0;   // of tick_, what was other vCPUs'
  u64 number_ = 0;      // among all vCPUs of the host
  u64 seen_ = 0;        // the clock when it last gave way
  u64 turn_ = 0;        // of its last wait
  u64 entered_at_ = 0;  // clock of the last entry
  u64 left_at_ = 0;     // and of the last exit
  u64 ipi_at_ = 0;      // when the pending interrupt arrives
  u64 asid_generation_ = 0;
  bool has_cpu_ = true;
  bool waiting_ = false;
  bool halted_ = false;
  bool flush_deferred_ = false;
};

template <AccessKind kKind>
inline std::byte* Vcpu::hit(Gva va) {
  TlbLevel& l1 = kKind == AccessKind::Read    ? *l1_load_
                 : kKind == AccessKind::Write ? *l1_store_
                                              : *l1_fetch_;
  const u32 slot = l1.hint(va);
  const TlbEntry& e = l1.entry(slot);
  if (e.answers(va, context_) && permits(e.rights, need_[static_cast<unsigned>(kKind)]) &&
      tick_ != deadline_) [[likely]] {
    l1.touch(slot, ++tick_);
    if constexpr (kKind == AccessKind::Write) ++counters[Event::Store];
    if constexpr (kKind == AccessKind::Fetch) ++counters[Event::Fetch];
    return e.at(va);
  }
  return nullptr;
}

template <class T>
inline T Vcpu::load(Gva va) {
  static_assert(sizeof(T) <= 8);
  assert(va.page_offset() + sizeof(T) <= kPageBytes);
  if (const std::byte* p = hit<AccessKind::Read>(va)) [[likely]] {
    T value;
    std::memcpy(&value, p, sizeof value);
    return value;
  }
  return static_cast<T>(load_slow(va, sizeof(T)));
}

template <class T>
inline void Vcpu::store(Gva va, T value) {
  static_assert(sizeof(T) <= 8);
  assert(va.page_offset() + sizeof(T) <= kPageBytes);
  if (std::byte* p = hit<AccessKind::Write>(va)) [[likely]] {
    std::memcpy(p, &value, sizeof value);
    return;
  }
  store_slow(va, {static_cast<u64>(value), sizeof(T), false});
}

inline void Vcpu::fetch(Gva va) {
  if (hit<AccessKind::Fetch>(va) == nullptr) [[unlikely]]
    fetch_slow(va);
}

}  // namespace mmuscope
