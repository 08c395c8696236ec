#include "workloads/trace/machine_replay.h"

#include "core/error.h"

namespace mmuscope {

using Kind = MachineOp::Kind;

namespace {

/// No guest fault is handled here: what was recorded comes next in the trace.
class Performer final : public GuestHandler {
 public:
  Performer(Machine& machine, const std::filesystem::path& path)
      : machine_(machine), name_(path.string()), reader_(path), vcpu_(&machine.vcpu(0)) {
    for (unsigned i = 0; i < machine.vcpu_count(); ++i) machine.vcpu(i).set_handler(this);
  }
  ~Performer() override {
    for (unsigned i = 0; i < machine_.vcpu_count(); ++i) machine_.vcpu(i).set_handler(nullptr);
  }
  Performer(const Performer&) = delete;
  Performer& operator=(const Performer&) = delete;

  void run() {
    MachineOp op;
    while (reader_.next(op)) perform(op);
  }

  bool on_fault(Vcpu&, const GuestFault& fault) override {
    fail("a guest fault at " + std::to_string(fault.address.raw()) + ", where none was recorded");
  }
  void on_ipi(Vcpu&) override {}

 private:
  void perform(const MachineOp& op);
  void access(const MachineOp& op);
  void load(Gva va, u32 bytes);
  void store(const MachineOp& op);
  void expect_fault(const MachineOp& op);
  [[noreturn]] void fail(const std::string& what) const {
    throw RunError(name_ + ": record " + std::to_string(reader_.record() - 1) + ": " + what);
  }

  Machine& machine_;
  std::string name_;
  MachineTraceReader reader_;
  Vcpu* vcpu_;
};

void Performer::load(Gva va, u32 bytes) {
  switch (bytes) {
    case 8:
      vcpu_->load<u64>(va);
      return;
    case 4:
      vcpu_->load<u32>(va);
      return;
    case 1:
      vcpu_->load<u8>(va);
      return;
    default:
      if (!vcpu_->try_access(va, AccessKind::Read, {0, static_cast<u16>(bytes), false, false}).done)
        fail("a guest fault where none was recorded");
  }
}

void Performer::store(const MachineOp& op) {
  const Gva va(op.address);
  switch (op.bytes) {
    case 8:
      return vcpu_->store<u64>(va, op.value);
    case 4:
      return vcpu_->store<u32>(va, static_cast<u32>(op.value));
    case 1:
      return vcpu_->store<u8>(va, static_cast<u8>(op.value));
    default:
      if (!vcpu_
               ->try_access(va, AccessKind::Write,
                            {op.value, static_cast<u16>(op.bytes), false, false})
               .done)
        fail("a guest fault where none was recorded");
  }
}

void Performer::expect_fault(const MachineOp& op) {
  const auto kind = static_cast<AccessKind>(op.other & 3);
  const StoreOp as{0, static_cast<u16>(op.bytes), false, (op.other >> 2 & 1) != 0};
  const AccessResult got = vcpu_->try_access(Gva(op.address), kind, as);
  if (got.done) fail("no guest fault where one was recorded");
  const bool gp = got.fault.kind == GuestFault::Kind::GeneralProtection;
  if ((got.fault.error_code | u64{gp} << 32) != op.value) fail("another guest fault than recorded");
}

void Performer::access(const MachineOp& op) {
  const Privilege privilege = op.user ? Privilege::User : Privilege::Supervisor;
  if (vcpu_->privilege() != privilege) vcpu_->set_privilege(privilege);
  const Gva va(op.address);
  switch (op.kind) {
    case Kind::Fetch:
      return vcpu_->fetch(va);
    case Kind::Load:
      return load(va, op.bytes);
    case Kind::Store:
      return store(op);
    case Kind::Exchange:
      (void)vcpu_->exchange(va, op.value);
      return;
    case Kind::Zero:
      return vcpu_->zero(va, op.bytes);
    case Kind::Copy:
      return vcpu_->copy(va, Gva(op.other), op.bytes);
    default:
      return expect_fault(op);
  }
}

void Performer::perform(const MachineOp& op) {
  if (operands_of(op.kind).access) return access(op);
  switch (op.kind) {
    case Kind::Start:
      vcpu_->set_controls(unpack_controls(op.other));
      return vcpu_->set_cr3(op.value);
    case Kind::Vcpu:
      vcpu_ = &machine_.vcpu(static_cast<unsigned>(op.value));
      return;
    case Kind::Cr3:
      return vcpu_->write_cr3(op.value);
    case Kind::Controls:
      return vcpu_->write_controls(unpack_controls(op.value));
    case Kind::Invlpg:
      return vcpu_->invlpg(Gva(op.address));
    case Kind::Invpcid:
      return vcpu_->invpcid(static_cast<InvpcidType>(op.other), static_cast<u32>(op.value),
                            Gva(op.address));
    case Kind::Ac:
      return vcpu_->set_ac(op.value != 0);
    case Kind::SendIpi:
      return vcpu_->send_ipi(machine_.vcpu(static_cast<unsigned>(op.value)));
    case Kind::Interrupt:
      return vcpu_->give_way();
    case Kind::Compute:
      return vcpu_->compute(op.value);
    case Kind::Offer:
      return vcpu_->offer_frames(Gpa(op.address).frame(), op.value, op.other != 0);
    case Kind::Note:
      return vcpu_->note(kNotedEvents[op.value], op.other);
    case Kind::Halt:
      return vcpu_->set_halted(op.value != 0);
    default:
      return machine_.host_write(Gpa(op.address), op.value);
  }
}

}  // namespace

MachineReplay::MachineReplay(std::filesystem::path path) : path_(std::move(path)) {
  memory_bytes_ = MachineTraceReader(path_).info().memory_bytes;
}

void MachineReplay::run(Machine& machine, ProcessListener* /*listener*/) {
  const u32 vcpus = MachineTraceReader(path_).info().vcpus;
  if (vcpus != machine.vcpu_count()) {
    throw RunError(path_.string() + ": recorded on " + std::to_string(vcpus) +
                   " vCPUs, so it needs as many");
  }
  Performer(machine, path_).run();
}

}  // namespace mmuscope
