#include "workloads/trace/machine_recorder.h"

#include <algorithm>
#include <cassert>

namespace mmuscope {

using Kind = MachineOp::Kind;

namespace {

TraceInfo info_of(const Machine& machine, const std::string& program) {
  TraceInfo info;
  info.program = program;
  info.recorder = "mmuscope, on " + machine.config().cpu;
  info.cut = "nothing";
  info.machine = true;
  info.vcpus = machine.config().vcpus;
  info.memory_bytes = machine.config().memory_bytes;
  return info;
}

}  // namespace

MachineRecorder::MachineRecorder(Machine& machine, const std::filesystem::path& path,
                                 const std::string& program)
    : machine_(machine), writer_(path, info_of(machine, program)), known_(machine.vcpu_count()) {
  machine.set_observer(this);
}

MachineRecorder::~MachineRecorder() { machine_.set_observer(nullptr); }

void MachineRecorder::finish() { writer_.finish(); }

/// What follows is this vCPU's.
void MachineRecorder::select(Vcpu& vcpu) {
  if (vcpu.index() != running_) {
    running_ = vcpu.index();
    writer_.put({Kind::Vcpu, false, 0, 0, running_, 0});
  }
  Known& known = known_[running_];
  if (!known.started) {
    known.started = true;
    known.ac = vcpu.controls().ac;
    writer_.put({Kind::Start, false, 0, 0, vcpu.cr3(), pack_controls(vcpu.controls())});
  } else if (known.ac != vcpu.controls().ac) {
    known.ac = vcpu.controls().ac;
    writer_.put({Kind::Ac, false, 0, 0, u64{known.ac}, 0});
  }
}

void MachineRecorder::put_fault(const Seen& seen) {
  const bool gp = seen.fault.kind == GuestFault::Kind::GeneralProtection;
  writer_.put({Kind::Fault, seen.access.is_user(), seen.op.bytes, seen.va.raw(),
               seen.fault.error_code | u64{gp} << 32,
               static_cast<u64>(seen.access.kind) | u64{seen.op.string} << 2});
}

void MachineRecorder::on_access(Vcpu& vcpu, const Seen& seen) {
  select(vcpu);
  const bool user = seen.access.is_user();
  const u64 va = seen.va.raw();
  std::optional<Gva>& from = known_[running_].copied_from;
  if (!seen.done) return put_fault(seen);
  if (seen.access.is_fetch()) return writer_.put({Kind::Fetch, user, 0, va, 0, 0});
  if (!seen.access.is_write()) {
    if (seen.op.string) {
      from = seen.va;
    } else {
      writer_.put({Kind::Load, user, seen.op.bytes, va, 0, 0});
    }
    return;
  }
  if (seen.op.string) {
    writer_.put(
        {from ? Kind::Copy : Kind::Zero, user, seen.op.bytes, va, 0, from ? from->raw() : 0});
    from.reset();
  } else if (seen.op.exchange) {
    writer_.put({Kind::Exchange, user, 0, va, seen.op.value, 0});
  } else {
    writer_.put({Kind::Store, user, seen.op.bytes, va, seen.op.value, 0});
  }
}

void MachineRecorder::on_cr3(Vcpu& vcpu, u64 value) {
  select(vcpu);
  writer_.put({Kind::Cr3, false, 0, 0, value, 0});
}

void MachineRecorder::on_controls(Vcpu& vcpu, const Controls& to) {
  select(vcpu);
  writer_.put({Kind::Controls, false, 0, 0, pack_controls(to), 0});
  known_[running_].ac = to.ac;
}

void MachineRecorder::on_invlpg(Vcpu& vcpu, Gva va) {
  select(vcpu);
  writer_.put({Kind::Invlpg, false, 0, va.raw(), 0, 0});
}

void MachineRecorder::on_invpcid(Vcpu& vcpu, InvpcidType type, u32 pcid, Gva va) {
  select(vcpu);
  writer_.put({Kind::Invpcid, false, 0, va.raw(), pcid, static_cast<u64>(type)});
}

void MachineRecorder::on_send_ipi(Vcpu& vcpu, Vcpu& target) {
  select(vcpu);
  writer_.put({Kind::SendIpi, false, 0, 0, target.index(), 0});
}

void MachineRecorder::on_interrupt(Vcpu& vcpu) {
  select(vcpu);
  writer_.put({Kind::Interrupt, false, 0, 0, 0, 0});
}

void MachineRecorder::on_halt(Vcpu& vcpu, bool halted) {
  select(vcpu);
  writer_.put({Kind::Halt, false, 0, 0, u64{halted}, 0});
}

void MachineRecorder::on_compute(Vcpu& vcpu, u64 cycles) {
  select(vcpu);
  writer_.put({Kind::Compute, false, 0, 0, cycles, 0});
}

void MachineRecorder::on_offer(Vcpu& vcpu, Gfn first, u64 frames, bool same_call) {
  select(vcpu);
  writer_.put({Kind::Offer, false, 0, first.base().raw(), frames, u64{same_call}});
}

void MachineRecorder::on_note(Vcpu& vcpu, Event event, u64 count) {
  select(vcpu);
  const auto at = std::find(kNotedEvents.begin(), kNotedEvents.end(), event);
  assert(at != kNotedEvents.end() && "an event that recordings do not hold");
  const auto which = static_cast<u64>(at - kNotedEvents.begin());
  writer_.put({Kind::Note, false, 0, 0, which, count});
}

void MachineRecorder::on_host_write(Gpa where, u64 value) {
  writer_.put({Kind::HostWrite, false, 0, where.raw(), value, 0});
}

}  // namespace mmuscope
