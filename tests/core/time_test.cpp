#include <doctest/doctest.h>

#include <memory>
#include <string>
#include <vector>

#include "core/mmu_lock.h"
#include "tests/support/guest_tables.h"
#include "tests/support/setups.h"

namespace mmuscope {
namespace {

constexpr Gva kPage{0x400000};
constexpr u64 kAccess = 10, kDelivery = 100, kServed = 20, kAnswer = 7;

MachineConfig timed(unsigned vcpus) {
  MachineConfig config;
  config.vcpus = vcpus;
  config.memory_bytes = u64{8} << 20;
  config.schedule = Schedule::Time;
  config.quantum = 1;
  config.costs.access = kAccess;
  config.costs.event[static_cast<unsigned>(Event::GuestWork)] = 1;
  config.costs.event[static_cast<unsigned>(Event::IpiReceived)] = kServed;
  config.costs.ipi_delivery = kDelivery;
  config.costs.ipi_answer = kAnswer;
  return config;
}

/// A machine whose vCPUs run on one table that maps a page.
std::unique_ptr<Machine> machine_with_page(const std::string& pager, const MachineConfig& config,
                                           Host* host = nullptr, unsigned vm = 0) {
  MachineConfig own = config;
  const Machine::MakePager make = pager_maker(pager, own.virtualized);
  auto machine = host != nullptr ? std::make_unique<Machine>(own, make, *host, vm)
                                 : std::make_unique<Machine>(own, make);
  GuestTables tables(*machine, Gpa(0x100000));
  const Gpa root = tables.new_table();
  tables.map(root, kPage, Gpa(0x200000), GuestTables::kUserRw);
  for (unsigned i = 0; i < config.vcpus; ++i) machine->vcpu(i).set_cr3(root.raw());
  return machine;
}

TEST_CASE("time: whose clock is behind runs, ties by index") {
  const auto machine = machine_with_page("native", timed(3));
  std::string order;
  machine->run([&](Vcpu& v) {
    const u64 work = v.index() == 1 ? 3 * kAccess : 0;  // four times as slow
    for (int i = 0; i < 4; ++i) {
      v.load(kPage);
      order += static_cast<char>('0' + v.index());
      v.compute(work);
    }
  });
  // Clocks when each load begins: 0, 10, 20, 30 and 0, 40, 80, 120 and 0, 10, 20, 30.
  CHECK(order == "012020202111");
  CHECK(machine->vcpu(0).clock() == 4 * kAccess);
  CHECK(machine->vcpu(1).clock() == 16 * kAccess);
}

TEST_CASE("time: a lock that is held is waited for, first come first served") {
  const auto machine = machine_with_page("native", timed(3));
  MmuLock coarse(*machine, LockKind::Coarse);
  // Comes at 10 * index (10, 20, 30 with its access) and holds for 100.
  machine->run([&](Vcpu& v) {
    v.compute(kAccess * v.index());
    v.load(kPage);
    v.keep_time();
    const auto held = coarse.write(&v, Gfn(0));
    v.compute(100);
  });
  const u64 came[] = {10, 20, 30}, began[] = {10, 110, 210};
  for (unsigned i = 0; i < 3; ++i) {
    const Counters& c = machine->vcpu(i).counters;
    CHECK(c[Event::LockAcquisition] == 1);
    CHECK(c[Event::LockWait] == began[i] - came[i]);
    CHECK(c[Event::LockContended] == (i > 0));
    CHECK(c[Event::LockHold] == 100);
    CHECK(machine->vcpu(i).clock() == began[i] + 100);
  }
}

TEST_CASE("time: readers share a lock, writers do not, and tables have their own") {
  struct Case {
    LockKind kind;
    bool write;
    u64 table_step, waited;  // by the second of two that come together and hold for 100
  };
  for (const Case& c : {Case{LockKind::Coarse, false, 1, 100}, Case{LockKind::Coarse, true, 1, 100},
                        Case{LockKind::ReadWrite, false, 0, 0},
                        Case{LockKind::ReadWrite, true, 1, 100}, Case{LockKind::Fine, true, 0, 100},
                        Case{LockKind::Fine, true, 1, 0}, Case{LockKind::Fine, false, 0, 0}}) {
    CAPTURE(static_cast<int>(c.kind));
    CAPTURE(c.write);
    const auto machine = machine_with_page("native", timed(2));
    MmuLock lock(*machine, c.kind);
    machine->run([&](Vcpu& v) {
      v.load(kPage);
      v.keep_time();
      const Gfn table(5 + c.table_step * v.index());
      const auto held = c.write ? lock.write(&v, table) : lock.read(&v, table);
      v.compute(100);
    });
    CHECK(machine->vcpu(0).counters[Event::LockWait] == 0);
    CHECK(machine->vcpu(1).counters[Event::LockWait] == c.waited);
  }
}

TEST_CASE("time: a flush waits for the slowest answer, and interrupts only those in the guest") {
  const auto machine = machine_with_page("nested", timed(3));
  machine->run([&](Vcpu& v) {
    v.load(kPage);
    if (v.index() == 2) v.set_halted(true);
    v.compute(1000);
    v.keep_time();
    if (v.index() != 0) return v.compute(1000);
    const u64 before = v.clock();
    machine->flush_all(&v);
    CHECK(v.counters[Event::FlushWait] == kDelivery + kServed + kAnswer);
    CHECK(v.clock() == before + kDelivery + kServed + kAnswer);
    CHECK(v.counters[Event::Ipi] == 1);
  });
  CHECK(machine->vcpu(1).counters[Event::ExitInterrupt] == 1);
  CHECK(machine->vcpu(2).counters[Event::ExitInterrupt] == 0);
}

/// Two VMs with a vCPU each that load the same address, `loads` times, on one CPU.
struct Shared {
  explicit Shared(MachineConfig config, u64 loads = 100) : host(config, 2) {
    for (unsigned vm = 0; vm < 2; ++vm) {
      machines.push_back(machine_with_page("nested", config, &host, vm));
      machines[vm]->host_write(Gpa(0x200000), 100 + vm);
    }
    std::vector<std::function<void()>> bodies;
    for (unsigned vm = 0; vm < 2; ++vm) {
      bodies.emplace_back([this, vm, loads] {
        machines[vm]->run([&](Vcpu& v) {
          for (u64 i = 0; i < loads; ++i) wrong += v.load(kPage) != 100 + vm;
        });
      });
    }
    host.scheduler().run(std::move(bodies));
  }
  const Counters& counters(unsigned vm) { return machines[vm]->vcpu(0).counters; }

  Host host;
  std::vector<std::unique_ptr<Machine>> machines;
  u64 wrong = 0;
};

TEST_CASE("time: two VMs on a CPU take slices, and tags keep their translations apart") {
  MachineConfig config = timed(1);
  config.cpus = 1;
  config.slice = 10 * kAccess;
  for (const bool vpid : {true, false}) {
    CAPTURE(vpid);
    config.vpid = vpid;
    Shared shared(config);
    CHECK(shared.wrong == 0);
    u64 switches = 0;
    for (unsigned vm = 0; vm < 2; ++vm) {
      const Counters& c = shared.counters(vm);
      switches += c[Event::VcpuSwitch];
      // Each has the CPU half of the time, and walks again after each switch if nothing tells
      // whose the TLB's entries are.
      CHECK(c[Event::StealCycles] >= 90 * kAccess);
      CHECK(c[Event::StealCycles] <= 110 * kAccess);
      if (vpid) {
        CHECK(c[Event::Walk] == 6);  // a violation for each of five frames, and after them
      } else {
        CHECK(c[Event::Walk] >= 6 + 8);
      }
    }
    CHECK(switches >= 18);
    CHECK(switches <= 20);
  }
}

TEST_CASE("time: when a CPU's ASIDs have run out its TLB is flushed and they begin again") {
  MachineConfig config = timed(1);
  config.cpu = "zen3";
  config.cpus = 1;
  config.slice = 10 * kAccess;
  config.tags = 3;  // the host's and one for each
  Shared enough(config);
  CHECK(enough.counters(0)[Event::AsidRollover] + enough.counters(1)[Event::AsidRollover] == 0);
  CHECK(enough.counters(0)[Event::Walk] == 6);
  config.tags = 2;
  Shared few(config);
  CHECK(few.wrong == 0);
  CHECK(few.counters(0)[Event::AsidRollover] + few.counters(1)[Event::AsidRollover] >= 18);
  CHECK(few.counters(0)[Event::Walk] >= 6 + 8);
}

}  // namespace
}  // namespace mmuscope
