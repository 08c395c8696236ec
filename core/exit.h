#pragma once

#include <optional>

#include "core/event.h"
#include "core/shootdown.h"
#include "core/walk.h"

namespace mmuscope {

/// A translation that the hardware may cache: where the page is and what may be done with it.
struct Translation {
  Hpa page;  ///< base of the page of `size`
  PageSize size = PageSize::k4K;
  /// Of the page that the guest's tables map, of which this may be a fragment: INVLPG of any
  /// address in it is about all of it.
  PageSize mapped = PageSize::k4K;
  u8 rights = 0;        ///< namespace rights
  bool global = false;  ///< survives a MOV CR3 (G and CR4.PGE)
};

/// A fault that the guest itself must see.
struct GuestFault {
  enum class Kind : u8 { PageFault, GeneralProtection };
  Kind kind = Kind::PageFault;
  u32 error_code = 0;  ///< namespace pf for PageFault; 0 for GeneralProtection
  Gva address;         ///< CR2 for PageFault
  friend bool operator==(const GuestFault&, const GuestFault&) = default;
};

enum class ExitReason : u8 {
  PageFault,
  Cr3,
  Invlpg,
  Invpcid,
  Cr0,
  Cr4,
  EptViolation,
  EptMisconfig,
  Interrupt,
  MsrWrite,
  PmlFull,
  Hypercall,
};
/// The event that counts exits for this reason.
constexpr Event exit_event(ExitReason r) {
  return static_cast<Event>(static_cast<unsigned>(Event::ExitPageFault) + static_cast<unsigned>(r));
}
static_assert(exit_event(ExitReason::PmlFull) == Event::ExitPmlFull);
static_assert(exit_event(ExitReason::EptViolation) == Event::ExitEptViolation);

/// INVPCID types. SDM vol. 2, *INVPCID*.
enum class InvpcidType : u8 { Address = 0, Context = 1, All = 2, AllNonGlobal = 3 };

/// What a store does to memory: 8 bytes or fewer, an exchange of 8 that also returns the old value,
/// or a string instruction (rep stos, rep movs), which hypervisors do not emulate on table pages:
/// they drop the shadows of the page and let the instruction run.
struct StoreOp {
  u64 value = 0;
  u16 bytes = 8;
  bool exchange = false;
  bool string = false;
};

/// Everything a hypervisor is told at an exit. Fields that a reason does not use are zero.
struct VmExit {
  ExitReason reason = ExitReason::PageFault;
  Access access;          ///< of PageFault, EptViolation, EptMisconfig, PmlFull
  Gva gva;                ///< the linear address; of Invlpg and Invpcid the operand
  Gpa gpa;                ///< EptViolation, EptMisconfig: the guest-physical address translated
  u32 error_code = 0;     ///< PageFault: as the hardware tables gave it
  u64 qualification = 0;  ///< EptViolation: exit qualification; NPT: EXITINFO1
  u64 value = 0;          ///< Cr3: the value written, bit 63 included; Invpcid: the PCID
  Controls controls;      ///< Cr0, Cr4, MsrWrite (EFER): all controls as they are to become
  InvpcidType invpcid = InvpcidType::Address;
  const StoreOp* store = nullptr;  ///< the store under way when a write exits, for emulation
};

/// What a walk by the hardware ends in; only the member that `kind` names exists.
struct Outcome {
  enum class Kind : u8 { Translated, Fault, Exit };
  Kind kind;
  union {
    Translation translation;
    GuestFault fault;
    VmExit exit;
  };

  static Outcome translated(const Translation& t) { return Outcome(t); }
  static Outcome fault_of(GuestFault::Kind kind, u32 code, Gva va) {
    return Outcome(GuestFault{kind, code, va});
  }
  static Outcome exit_with(const VmExit& e) { return Outcome(e); }

 private:
  explicit Outcome(const Translation& t) : kind(Kind::Translated), translation(t) {}
  explicit Outcome(const GuestFault& f) : kind(Kind::Fault), fault(f) {}
  explicit Outcome(const VmExit& e) : kind(Kind::Exit), exit(e) {}
};

/// How the guest goes on after an exit.
struct [[nodiscard]] Resume {
  enum class Action : u8 {
    Retry,         ///< do the access again
    Completed,     ///< the hypervisor performed the instruction
    ReflectFault,  ///< the guest gets `fault`
  };
  Action action = Action::Retry;
  GuestFault fault;
  u64 old_value = 0;    ///< Completed, of an exchange: what memory held before
  Shootdown shootdown;  ///< translations made stale and not yet flushed

  static Resume retry(Shootdown s = {}) { return {Action::Retry, {}, 0, std::move(s)}; }
  static Resume completed(u64 old_value = 0, Shootdown s = {}) {
    return {Action::Completed, {}, old_value, std::move(s)};
  }
  static Resume reflect(const GuestFault& f, Shootdown s = {}) {
    return {Action::ReflectFault, f, 0, std::move(s)};
  }
};

}  // namespace mmuscope
