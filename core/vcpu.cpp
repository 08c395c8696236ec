#include "core/vcpu.h"

#include <algorithm>
#include <array>
#include <string>

#include "core/error.h"
#include "core/machine.h"

namespace mmuscope {

namespace {

/// An access that is still not through after so many exits and walks never will be.
constexpr int kMaxTries = 4096;
// Sizes the compiler knows become single moves; a copy of a size known only at run time is a call.
u64 read_bytes(const std::byte* from, unsigned bytes) {
  u64 value = 0;
  if (bytes == 8) {
    std::memcpy(&value, from, 8);
  } else {
    std::memcpy(&value, from, bytes);
  }
  return value;
}

void write_bytes(std::byte* to, u64 value, unsigned bytes) {
  if (bytes == 8) {
    std::memcpy(to, &value, 8);
  } else {
    std::memcpy(to, &value, bytes);
  }
}

constexpr Context with_pcid(Context c, u64 pcid) {
  return (c & ~kPcidBits) | (static_cast<Context>(pcid) & kPcidBits);
}

constexpr u64 kNoFlush = u64{1} << 63;  // of a value moved to CR3

constexpr u64 lines(u64 bytes) { return (bytes + 63) / 64; }

}  // namespace

Vcpu::Vcpu(Machine& machine, unsigned index, PhysicalCpu& hardware)
    : machine_(machine),
      hardware_(hardware),
      cpu_(machine.cpu()),
      index_(index),
      tlb_(hardware.tlb),
      walk_cache_(hardware.walk_cache),
      guest_physical_(hardware.guest_physical),
      page_entries_(hardware.page_entries),
      watches_walks_(hardware.page_entries.on() || hardware.data_caches != nullptr) {
  l1_load_ = &tlb_.first(AccessKind::Read);
  l1_store_ = &tlb_.first(AccessKind::Write);
  l1_fetch_ = &tlb_.first(AccessKind::Fetch);
}

// --- accesses ------------------------------------------------------------------------------------

void Vcpu::begin_instruction() {
  if (!started_) enter_guest_first();
}

void Vcpu::enter_guest_first() {
  started_ = true;
  in_guest_ = true;
  machine_.host().begins_to_run(*this);
  recompute_rights();
  machine_.pager().start(*this);
}

/// Inline down to the switch: every return between it and the next access is one that the CPU
/// mispredicts, because the calls before it were another stack's.
[[gnu::always_inline]] inline void Vcpu::end_quantum() {
  Host& host = machine_.host();
  if (host.timed()) {
    keep_time();
  } else {
    host.scheduler().give_way();
  }
  if (ipi_pending_) take_interrupts();
}

inline void Vcpu::begin_access(AccessKind kind) {
  begin_instruction();
  // Again if what ran meanwhile on this vCPU, an interrupt's handler, has used the new quantum up.
  while (tick_ == deadline_) {
    deadline_ = tick_ + machine_.config().quantum;
    end_quantum();
  }
  ++tick_;
  if (kind == AccessKind::Write) ++counters[Event::Store];
  if (kind == AccessKind::Fetch) ++counters[Event::Fetch];
}

[[gnu::always_inline]] inline std::byte* Vcpu::lookup(AccessKind kind, Gva va) {
  const u8 need = required_[static_cast<unsigned>(kind)];
  TlbLevel& l1 = tlb_.first(kind);
  const u32 near = l1.search(va, context_);
  if (near != TlbLevel::kNone) {
    if (permits(l1.entry(near).rights, need)) {
      l1.touch(near, tick_);
      return l1.entry(near).at(va);
    }
  } else {
    ++counters[Event::TlbL1Miss];
    const TlbEntry* far = tlb_.find_second(kind, va, context_, tick_);
    if (far == nullptr) return nullptr;
    ++counters[Event::TlbL2Hit];
    if (permits(far->rights, need)) return tlb_.fill_first(kind, va, *far, tick_).at(va);
  }
  // An entry whose rights do not do is not trusted to say no: the tables are.
  tlb_.invalidate_address(va, FlushMatch::pcid(context_, false));
  return nullptr;
}

[[gnu::always_inline]] inline std::byte* Vcpu::first_look(AccessKind kind, Gva va) {
  begin_access(kind);
  return lookup(kind, va);
}

Vcpu::Slow Vcpu::resolve(Gva va, Access access, const StoreOp* op, std::byte* found) {
  Slow out;
  out.data = found;
  if (found == nullptr) resolve_miss(va, access, op, out);
  return out;
}

void Vcpu::resolve_miss(Gva va, Access access, const StoreOp* op, Slow& out) {
  if (!is_canonical(va, controls_.levels)) {
    out.failed = true;
    out.fault = {GuestFault::Kind::GeneralProtection, 0, va};
    return;
  }
  // A #PF, whoever takes it, drops what would translate the address. SDM vol. 3, *Operations that
  // Invalidate TLBs and Paging-Structure Caches*.
  const auto page_fault = [this, va] {
    const FlushMatch match = FlushMatch::pcid(context_, false);
    tlb_.invalidate_address(va, match);
    drop_tables_at(va, match);
  };
  for (int attempt = 0; attempt < kMaxTries; ++attempt) {
    ++counters[Event::Walk];
    if (listener_ != nullptr) listener_->on_walk(*this, va, access);
    Outcome o = machine_.pager().walk(*this, va, access);
    switch (o.kind) {
      case Outcome::Kind::Translated:
        out.data = cache(va, access.kind, o.translation);
        if (listener_ != nullptr) listener_->on_translated(*this, o.translation);
        return;
      case Outcome::Kind::Fault:
        page_fault();
        out.failed = true;
        out.fault = o.fault;
        if (listener_ != nullptr) listener_->on_fault(*this, o.fault);
        return;
      case Outcome::Kind::Exit:
        if (o.exit.reason == ExitReason::PageFault) page_fault();
        o.exit.store = op;
        if (serve_exit(o.exit, out)) return;
        break;
    }
  }
  throw RunError("an access made no progress in " + std::to_string(kMaxTries) + " tries");
}

std::byte* Vcpu::cache(Gva va, AccessKind kind, const Translation& t) {
  TlbEntry e;
  e.va = va.align_down(t.size).raw();
  e.offset_mask = static_cast<u32>(page_bytes(t.size) - 1);
  e.context_mask = t.global ? ~kPcidBits : ~Context{0};
  e.context = context_ & e.context_mask;
  e.data = machine_.memory().at(t.page);
  e.rights = t.rights;
  e.size = t.size;
  e.mapped = t.mapped;
  e.global = t.global;
  const TlbEntry& cached = tlb_.fill(kind, va, e, tick_);
  if (cached.size < t.mapped) ++counters[Event::TlbSplinter];
  return cached.at(va);
}

bool Vcpu::serve_exit(const VmExit& exit, Slow& out) {
  Resume r = leave_guest(exit);
  switch (r.action) {
    case Resume::Action::Retry:
      return false;
    case Resume::Action::Completed:
      out.completed = true;
      out.old_value = r.old_value;
      return true;
    case Resume::Action::ReflectFault:
      out.failed = true;
      out.fault = r.fault;
      return true;
  }
  return true;
}

void Vcpu::count_exit(ExitReason reason, const VmExit* exit) {
  ++counters[exit_event(reason)];
  if (listener_ != nullptr) listener_->on_exit(*this, reason, exit);
  // Without a tag the TLB cannot tell guest from host: the exit and the entry after it flush. SDM
  // vol. 3, *VMX Support for Address Translation*. On AMD, what is not told apart by an ASID is not
  // by its kind either.
  if (!tagged_) {
    flush_space();
    if (cpu_.vendor == Vendor::Amd) drop_guest_physical(FlushMatch::space(context_));
  }
  machine_.pager().left_guest(*this);
}

Resume Vcpu::leave_guest(const VmExit& exit) {
  if (machine_.host().timed()) left_at_ = clock();
  count_exit(exit.reason, &exit);
  in_guest_ = false;
  keep_time();
  Resume r = machine_.pager().handle(*this, exit);
  machine_.apply(std::move(r.shootdown), this);
  if (listener_ != nullptr) listener_->on_served(*this, exit, r);
  in_guest_ = true;
  if (machine_.host().timed()) entered_at_ = clock();
  return r;
}

Vcpu::Slow Vcpu::resolve_handled(Gva va, AccessKind kind, const StoreOp& op, std::byte* found) {
  for (;; found = first_look(kind, va)) {
    const Access access{kind, privilege_};
    Slow s = resolve(va, access, access.is_write() ? &op : nullptr, found);
    if (!s.failed) return s;
    if (s.fault.kind == GuestFault::Kind::PageFault) ++counters[Event::GuestPageFault];
    if (observer_ != nullptr) observe(va, access, op, s, 0);
    if (handler_ == nullptr) throw RunError("a guest fault with no handler for it");
    if (!handler_->on_fault(*this, s.fault)) return s;
  }
}

u64 Vcpu::perform(Gva va, Access access, const StoreOp& op, const Slow& s) {
  u64 loaded = s.old_value;
  if (!s.completed && !access.is_fetch() && !op.string) {
    if (!access.is_write() || op.exchange) loaded = read_bytes(s.data, op.bytes);
    if (access.is_write()) write_bytes(s.data, op.value, op.bytes);
  }
  if (observer_ != nullptr) observe(va, access, op, s, loaded);
  return loaded;
}

void Vcpu::observe(Gva va, Access access, const StoreOp& op, const Slow& s, u64 loaded) {
  AccessObserver::Seen seen;
  seen.va = va;
  seen.access = access;
  seen.done = !s.failed;
  seen.fault = s.fault;
  seen.emulated = s.completed;
  if (s.data != nullptr) seen.where = Hpa(static_cast<u64>(s.data - machine_.memory().at(Hpa(0))));
  seen.op = op;
  seen.loaded = loaded;
  observer_->on_access(*this, seen);
}

u64 Vcpu::load_slow(Gva va, unsigned bytes) {
  std::byte* found = first_look(AccessKind::Read, va);
  if (found != nullptr && observer_ == nullptr) [[likely]]
    return read_bytes(found, bytes);
  const StoreOp op{0, static_cast<u16>(bytes), false, false};
  const Slow s = resolve_handled(va, AccessKind::Read, op, found);
  return s.failed ? 0 : perform(va, {AccessKind::Read, privilege_}, op, s);
}

u64 Vcpu::store_slow(Gva va, StoreOp op) {
  std::byte* found = first_look(AccessKind::Write, va);
  const Slow s = resolve_handled(va, AccessKind::Write, op, found);
  return s.failed ? 0 : perform(va, {AccessKind::Write, privilege_}, op, s);
}

void Vcpu::fetch_slow(Gva va) {
  std::byte* found = first_look(AccessKind::Fetch, va);
  if (found != nullptr && observer_ == nullptr) [[likely]]
    return;
  const Slow s = resolve_handled(va, AccessKind::Fetch, {}, found);
  if (!s.failed) perform(va, {AccessKind::Fetch, privilege_}, {}, s);
}

u64 Vcpu::exchange(Gva va, u64 value) {
  assert(va.page_offset() + 8 <= kPageBytes);
  return store_slow(va, {value, 8, true, false});
}

void Vcpu::zero(Gva va, u64 bytes) {
  assert(va.page_offset() + bytes <= kPageBytes);
  const StoreOp op{0, static_cast<u16>(bytes), false, true};
  const Slow s = resolve_handled(va, AccessKind::Write, op, first_look(AccessKind::Write, va));
  if (s.failed) return;
  assert(!s.completed && "string stores are not emulated");
  counters[Event::GuestLine] += lines(bytes);
  zero_bytes(s.data, bytes);
  if (observer_ != nullptr) observe(va, {AccessKind::Write, privilege_}, op, s, 0);
}

void Vcpu::copy(Gva to, Gva from, u64 bytes) {
  assert(to.page_offset() + bytes <= kPageBytes && from.page_offset() + bytes <= kPageBytes);
  const StoreOp op{0, static_cast<u16>(bytes), false, true};
  const Slow source =
      resolve_handled(from, AccessKind::Read, op, first_look(AccessKind::Read, from));
  if (source.failed) return;
  // Read now: while the target is resolved another vCPU may take the source's page away.
  std::array<std::byte, kPageBytes> data;
  std::memcpy(data.data(), source.data, bytes);
  if (observer_ != nullptr) observe(from, {AccessKind::Read, privilege_}, op, source, 0);
  const Slow target = resolve_handled(to, AccessKind::Write, op, first_look(AccessKind::Write, to));
  if (target.failed) return;
  counters[Event::GuestLine] += lines(bytes);
  std::memcpy(target.data, data.data(), bytes);
  if (observer_ != nullptr) observe(to, {AccessKind::Write, privilege_}, op, target, 0);
}

AccessResult Vcpu::try_access(Gva va, AccessKind kind, StoreOp op) {
  const Access access{kind, privilege_};
  const Slow s =
      resolve(va, access, kind == AccessKind::Write ? &op : nullptr, first_look(kind, va));
  if (s.failed) {
    if (s.fault.kind == GuestFault::Kind::PageFault) ++counters[Event::GuestPageFault];
    if (observer_ != nullptr) observe(va, access, op, s, 0);
    return {false, 0, s.fault};
  }
  return {true, perform(va, access, op, s), {}};
}

// --- control registers and invalidation
// ------------------------------------------------------------

void Vcpu::recompute_rights() {
  const Controls hardware = machine_.pager().hardware_controls(controls_);
  const u8 observed = observer_ != nullptr ? rights::kObserved : 0;
  for (unsigned k = 0; k < 3; ++k) {
    const Access access{static_cast<AccessKind>(k), privilege_};
    required_[k] = static_cast<u8>(required_rights(access, hardware) |
                                   (access.is_write() ? rights::kStoreOk : 0));
    need_[k] = required_[k] | observed;
  }
}

void Vcpu::set_privilege(Privilege p) {
  privilege_ = p;
  recompute_rights();
}

void Vcpu::set_observer(AccessObserver* observer) {
  observer_ = observer;
  recompute_rights();
}

void Vcpu::set_ac(bool ac) {
  controls_.ac = ac;
  recompute_rights();
}

void Vcpu::set_cr3(u64 value) {
  cr3_ = value & ~kNoFlush;
  context_ = with_pcid(context_, controls_.pcide ? value : 0);
}

void Vcpu::set_controls(const Controls& c) {
  controls_ = c;
  context_ = with_pcid(context_, c.pcide ? cr3_ : 0);
  recompute_rights();
}

void Vcpu::write_cr3(u64 value) {
  begin_instruction();
  if (observer_ != nullptr) observer_->on_cr3(*this, value);
  ++counters[Event::Cr3Write];
  if (machine_.pager().intercepts(ExitReason::Cr3)) {
    VmExit exit;
    exit.reason = ExitReason::Cr3;
    exit.value = value;
    (void)leave_guest(exit);
    return;
  }
  set_cr3(value);
  // SDM vol. 3, *Operations that Invalidate TLBs and Paging-Structure Caches*.
  if (!controls_.pcide || !(value & kNoFlush)) flush_tlb(FlushMatch::pcid(context_, true));
  machine_.pager().controls_changed(*this);
}

void Vcpu::invlpg(Gva va) {
  begin_instruction();
  if (observer_ != nullptr) observer_->on_invlpg(*this, va);
  ++counters[Event::GuestInvalidation];
  if (machine_.pager().intercepts(ExitReason::Invlpg)) {
    VmExit exit;
    exit.reason = ExitReason::Invlpg;
    exit.gva = va;
    (void)leave_guest(exit);
    return;
  }
  flush_page(va);
}

void Vcpu::invpcid(InvpcidType type, u32 pcid, Gva va) {
  begin_instruction();
  if (observer_ != nullptr) observer_->on_invpcid(*this, type, pcid, va);
  ++counters[Event::GuestInvalidation];
  if (machine_.pager().intercepts(ExitReason::Invpcid)) {
    VmExit exit;
    exit.reason = ExitReason::Invpcid;
    exit.gva = va;
    exit.value = pcid;
    exit.invpcid = type;
    (void)leave_guest(exit);
    return;
  }
  flush_invpcid(type, pcid, va);
}

void Vcpu::flush_invpcid(InvpcidType type, u32 pcid, Gva va) {
  const Context c = with_pcid(context_, pcid);
  switch (type) {
    case InvpcidType::Address: {
      // Global translations may survive; those here do, as INVPCID names a PCID's own.
      const FlushMatch match = FlushMatch::pcid(c, true);
      tlb_.invalidate_page(va, match);
      drop_tables(match);
      break;
    }
    case InvpcidType::Context:
      flush_tlb(FlushMatch::pcid(c, true));
      break;
    case InvpcidType::All:
      flush_space();
      break;
    case InvpcidType::AllNonGlobal: {
      FlushMatch match = FlushMatch::space(context_);
      match.keep_globals = true;
      flush_tlb(match);
      break;
    }
  }
}

void Vcpu::write_controls(const Controls& to) {
  begin_instruction();
  if (observer_ != nullptr) observer_->on_controls(*this, to);
  if (const auto reason = machine_.pager().intercepts_change(controls_, to)) {
    VmExit exit;
    exit.reason = *reason;
    exit.controls = to;
    (void)leave_guest(exit);
    return;
  }
  const Controls from = controls_;
  set_controls(to);
  flush_for_change(from, to);
  machine_.pager().controls_changed(*this);
}

void Vcpu::flush_for_change(const Controls& from, const Controls& to) {
  // SDM vol. 3, *Operations that Invalidate TLBs and Paging-Structure Caches*.
  if (from.pge != to.pge || (from.pcide && !to.pcide)) flush_space();
  if (!from.smep && to.smep) flush_tlb(FlushMatch::pcid(context_, false));
}

void Vcpu::drop_tables(const FlushMatch& match) {
  walk_cache_.invalidate(match);
  page_entries_.invalidate(Side::First, match);
}

void Vcpu::drop_tables_at(Gva va, const FlushMatch& match) {
  walk_cache_.invalidate_address(va, match);
  page_entries_.invalidate_way(Side::First, va.raw(), match);
}

void Vcpu::drop_guest_physical(const FlushMatch& match) {
  guest_physical_.invalidate(match);
  page_entries_.invalidate(Side::Second, match);
}

void Vcpu::flush_tlb(const FlushMatch& match) {
  tlb_.invalidate(match);
  drop_tables(match);
}

void Vcpu::forget_translation(Gva va, Gpa gpa) {
  const FlushMatch here = FlushMatch::exactly(context_);
  tlb_.invalidate_address(va, here);
  drop_tables_at(va, here);
  const FlushMatch second = FlushMatch::exactly(guest_physical_context());
  guest_physical_.invalidate_address(gpa, second);
  page_entries_.invalidate_way(Side::Second, gpa.raw(), second);
}

void Vcpu::invvpid(InvvpidType type, u32 vpid, Gva va) {
  FlushMatch match = FlushMatch::space(make_context(vpid, 0));
  switch (type) {
    case InvvpidType::Address:
      tlb_.invalidate_page(va, match);
      walk_cache_.invalidate_address(va, match);
      page_entries_.invalidate(Side::First, match);  // no walk has said which are the address's
      return;
    case InvvpidType::Single:
      break;
    case InvvpidType::All:
      match = FlushMatch::every_space();
      break;
    case InvvpidType::SingleKeepGlobals:
      match.keep_globals = true;
      break;
  }
  flush_tlb(match);
}

void Vcpu::invept(InveptType type, u32 ep4ta) {
  const FlushMatch match = type == InveptType::All ? FlushMatch::every_ep4ta()
                                                   : FlushMatch::ep4ta(make_context(0, 0, ep4ta));
  flush_tlb(match);
  drop_guest_physical(match);
}

void Vcpu::invlpga(Gva va, u32 asid) {
  const FlushMatch match = FlushMatch::space(make_context(asid, 0));
  tlb_.invalidate_page(va, match);
  drop_tables(match);
}

void Vcpu::tlb_control(TlbControl control, u32 asid) {
  if (control == TlbControl::Nothing) return;
  FlushMatch match = control == TlbControl::FlushAll ? FlushMatch::all()
                                                     : FlushMatch::space(make_context(asid, 0));
  if (control == TlbControl::FlushAsid && !cpu_.flush_by_asid && tagged_) {
    machine_.host().give_asid(*this, true);  // what the old one tags is never asked for again
    drop_guest_physical(match);
    return;
  }
  match.keep_globals = control == TlbControl::FlushAsidKeepGlobals;
  flush_tlb(match);
  drop_guest_physical(match);
}

void Vcpu::flush_page(Gva va) {
  tlb_.invalidate_page(va, FlushMatch::pcid(context_, false));
  // INVLPG drops every paging-structure-cache entry of the PCID, not those of the address alone.
  drop_tables(FlushMatch::pcid(context_, false));
}

// --- other vCPUs
// -------------------------------------------------------------------------------------

void Vcpu::send_ipi(Vcpu& target) {
  begin_instruction();
  if (observer_ != nullptr) observer_->on_send_ipi(*this, target);
  ++counters[Event::Ipi];
  // The x2APIC's interrupt command register is an MSR.
  if (machine_.pager().intercepts(ExitReason::MsrWrite)) count_exit(ExitReason::MsrWrite);
  if (machine_.host().timed()) {
    const u64 arrival = clock() + machine_.host().costs().ipi_delivery;
    target.ipi_at_ = target.ipi_pending_ ? std::min(target.ipi_at_, arrival) : arrival;
  }
  target.ipi_pending_ = true;
}

void Vcpu::offer_frames(Gfn first, u64 frames, bool same_call) {
  begin_instruction();
  if (observer_ != nullptr) observer_->on_offer(*this, first, frames, same_call);
  if (!same_call && machine_.pager().intercepts(ExitReason::Hypercall)) {
    count_exit(ExitReason::Hypercall);
  }
  if (frames != 0) machine_.unback(first, frames, this);
}

void Vcpu::take_interrupts() {
  const bool timed = machine_.host().timed();
  while (ipi_pending_ && !taking_interrupt_ && (!timed || ipi_at_ <= clock())) {
    ipi_pending_ = false;
    taking_interrupt_ = true;
    if (observer_ != nullptr) observer_->on_interrupt(*this);
    ++counters[Event::IpiReceived];
    // Without a virtual APIC the interrupt takes the vCPU out of the guest, and so does the end
    // that its handler announces (the x2APIC's EOI register).
    const bool exits = !machine_.virtual_apic();
    if (exits && in_guest_ && machine_.pager().intercepts(ExitReason::Interrupt)) {
      count_exit(ExitReason::Interrupt);
    }
    if (handler_ != nullptr) handler_->on_ipi(*this);
    if (exits && machine_.pager().intercepts(ExitReason::MsrWrite)) {
      count_exit(ExitReason::MsrWrite);
    }
    taking_interrupt_ = false;
  }
}

void Vcpu::give_way(Event why) {
  machine_.host().wait(*this, why);
  take_interrupts();
}

void Vcpu::set_halted(bool halted) {
  if (observer_ != nullptr) observer_->on_halt(*this, halted);
  in_guest_ = !halted;
  halted_ = halted;
  if (!halted && started_) machine_.host().begins_to_run(*this);
}

// --- time ----------------------------------------------------------------------------------------

u64 Vcpu::clock() const {
  const Host& host = machine_.host();
  return host.timed() ? host.costs().of(accesses(), counters) : 0;
}

void Vcpu::advance_to(u64 time, Event why) {
  if (!machine_.host().timed()) return;
  const u64 now = clock();
  if (time > now) counters[why] += time - now;
}

void Vcpu::keep_time() { machine_.host().keep_time(*this); }

/// Another vCPU has had the CPU: the TLB's time has gone on.
void Vcpu::continue_ticks(u64 tick) {
  if (tick <= tick_) return;
  tick_base_ += tick - tick_;
  if (deadline_ != ~u64{0}) deadline_ += tick - tick_;
  tick_ = tick;
}

}  // namespace mmuscope
