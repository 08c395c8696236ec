#include "core/vcpu.h"

#include <doctest/doctest.h>

#include <string>

#include "core/error.h"
#include "core/native_pager.h"
#include "tests/support/guest_tables.h"
#include "tests/support/setups.h"

namespace mmuscope {
namespace {

constexpr Gva kSmall(0), kLarge(u64{1} << 30), kHuge(u64{2} << 30);

/// A native machine whose guest maps a megabyte in 4K pages, 16 MiB in 2M pages and 1 GiB in one.
struct Rig {
  explicit Rig(MachineConfig config = {})
      : machine(with_memory(config), make_native_pager), tables(machine, Gpa(0x100000)) {
    root = tables.new_table();
    tables.map_range(root, kSmall, Gpa(0x200000), 0x100000, GuestTables::kUserRw);
    tables.map_range(root, kLarge, Gpa(u64{16} << 20), u64{16} << 20, GuestTables::kUserRw,
                     PageSize::k2M);
    tables.map(root, kHuge, Gpa(u64{1} << 30), GuestTables::kUserRw, PageSize::k1G);
    for (unsigned i = 0; i < machine.vcpu_count(); ++i) machine.vcpu(i).set_cr3(root.raw());
  }
  static MachineConfig with_memory(MachineConfig config) {
    config.memory_bytes = u64{2} << 30;
    config.virtualized = false;
    return config;
  }
  Vcpu& vcpu() { return machine.vcpu(0); }

  Machine machine;
  GuestTables tables;
  Gpa root;
};

struct Counts {
  u64 l1_misses, l2_hits, walks, refs;
  friend bool operator==(const Counts&, const Counts&) = default;
};
std::string text(const Counts& c) {
  return std::to_string(c.l1_misses) + " misses, " + std::to_string(c.l2_hits) + " L2 hits, " +
         std::to_string(c.walks) + " walks, " + std::to_string(c.refs) + " references";
}
template <class Body>
Counts counted(Rig& rig, Body&& body) {
  const Counters before = rig.machine.counters();
  body();
  const Counters d = rig.machine.counters() - before;
  return {d[Event::TlbL1Miss], d[Event::TlbL2Hit], d[Event::Walk], d[Event::TableRefGuest]};
}

TEST_CASE("pages of all sizes in one run are counted apart") {
  Rig rig;
  const auto read_all = [&] {
    for (u64 i = 0; i < 48; ++i) {
      rig.vcpu().load(kSmall + i * kPageBytes);
      rig.vcpu().load(kLarge + i % 8 * page_bytes(PageSize::k2M) + i * kPageBytes);
      rig.vcpu().load(kHuge + i * (u64{20} << 20));
    }
  };
  // Cold: 48 + 8 + 1 pages. References: 4 + 3 + 2 for the first of each kind (their PDPT is one and
  // cached by then: 3 + 2 - 1), then 1 for each other page with its directory entry (4K) or its
  // directory pointer (2M) cached.
  const Counts cold = counted(rig, read_all);
  CHECK(text(cold) == text({57, 0, 57, 4 + 47 + 2 + 7 + 1}));
  // Warm: 48 entries in 16 sets of 4, 8 of 32 and 1 of 4 all fit.
  CHECK(text(counted(rig, read_all)) == text({0, 0, 0, 0}));
}

TEST_CASE(
    "1536 second-level entries in 12 ways hold what they can, least recently used first out") {
  Rig rig;
  const auto read = [&](u64 pages) {
    for (u64 i = 0; i < pages; ++i) rig.vcpu().load(kSmall + i * kPageBytes);
  };
  read(256);
  // 64 of the 256 pages fit the first level; read in order none of them is there when it is due.
  CHECK(text(counted(rig, [&] { read(256); })) == text({256, 256, 0, 0}));
  CHECK(text(counted(rig, [&] {
          for (u64 i = 256; i-- > 192;) rig.vcpu().load(kSmall + i * kPageBytes);
        })) == text({0, 0, 0, 0}));
}

TEST_CASE("an observer changes no count") {
  struct Blind final : AccessObserver {
    void on_access(Vcpu&, const Seen&) override { ++seen; }
    u64 seen = 0;
  };
  Counters counts[2];
  Blind blind;
  for (const bool observed : {false, true}) {
    Rig rig;
    if (observed) rig.vcpu().set_observer(&blind);
    for (u64 round = 0; round < 3; ++round) {
      for (u64 i = 0; i < 200; ++i) {
        rig.vcpu().store(kSmall + (i * 7 % 256) * kPageBytes, i);
        rig.vcpu().load(kLarge + i * 0x11000);
        rig.vcpu().fetch(kHuge + i * 0x200000);
        if (i % 50 == 0) rig.vcpu().invlpg(kSmall + i * kPageBytes);
      }
      rig.vcpu().write_cr3(rig.root.raw());
    }
    counts[observed] = rig.machine.counters();
  }
  CHECK(counts[0] == counts[1]);
  CHECK(blind.seen == 1800);
}

TEST_CASE("accesses of every width read and write what they name") {
  Rig rig;
  Vcpu& vcpu = rig.vcpu();
  vcpu.store<u64>(kSmall, 0x1122334455667788);
  CHECK(vcpu.load<u8>(kSmall) == 0x88);
  CHECK(vcpu.load<u16>(kSmall + 1) == 0x6677);
  CHECK(vcpu.load<u32>(kSmall + 4) == 0x11223344);
  vcpu.store<u8>(kSmall + 7, 0xff);
  CHECK(vcpu.exchange(kSmall, 5) == 0xff22334455667788);
  CHECK(vcpu.load(kSmall) == 5);
  vcpu.store(kSmall + kPageBytes, u64{9});
  vcpu.copy(kSmall + kPageBytes, kSmall, 8);
  CHECK(vcpu.load(kSmall + kPageBytes) == 5);
  vcpu.zero(kSmall, kPageBytes);
  CHECK(vcpu.load(kSmall) == 0);
  CHECK(rig.machine.host_read(Gpa(0x201000)) == 5);
}

/// Logs what the guest's handlers are told.
struct Handler final : GuestHandler {
  bool on_fault(Vcpu& vcpu, const GuestFault& fault) override {
    log += "f" + std::to_string(vcpu.index()) + ":" + std::to_string(fault.error_code) + " ";
    if (mend) mend();
    return static_cast<bool>(mend);
  }
  void on_ipi(Vcpu& vcpu) override { log += "i" + std::to_string(vcpu.index()) + " "; }
  std::function<void()> mend;
  std::string log;
};

TEST_CASE("a fault goes to the guest's handler until the access is done or given up") {
  Rig rig;
  Handler handler;
  rig.vcpu().set_handler(&handler);
  const Gva hole = kSmall + 0x100000;
  CHECK(rig.vcpu().load(hole) == 0);
  CHECK(handler.log == "f0:0 ");
  handler.mend = [&] { rig.tables.map(rig.root, hole, Gpa(0x300000), GuestTables::kUserRw); };
  rig.machine.host_write(Gpa(0x300000), 77);
  CHECK(rig.vcpu().load(hole) == 77);
  CHECK(handler.log == "f0:0 f0:0 ");
  CHECK(rig.vcpu().counters[Event::GuestPageFault] == 2);
  // try_access tells its caller instead.
  const AccessResult r = rig.vcpu().try_access(hole + kPageBytes, AccessKind::Write);
  CHECK_FALSE(r.done);
  CHECK(r.fault.error_code == 2);
  CHECK(r.fault.address == hole + kPageBytes);
  CHECK(handler.log == "f0:0 f0:0 ");
  rig.vcpu().set_handler(nullptr);
  CHECK_THROWS_AS(rig.vcpu().load(hole + kPageBytes), RunError);
}

TEST_CASE("vCPUs take turns of a quantum of accesses, in order of index") {
  MachineConfig config;
  config.vcpus = 3;
  config.quantum = 10;
  Rig rig(config);
  std::string order;
  rig.machine.run([&](Vcpu& vcpu) {
    for (int i = 0; i < 25; ++i) {
      vcpu.load(kSmall + vcpu.index() * kPageBytes);
      order += static_cast<char>('0' + vcpu.index());
    }
  });
  const auto turn = [](char c, int n) { return std::string(static_cast<std::size_t>(n), c); };
  std::string due;
  for (const int n : {10, 10, 5}) {
    for (const char c : {'0', '1', '2'}) due += turn(c, n);
  }
  CHECK(order == due);
}

TEST_CASE("an interrupt is taken at its target's turn") {
  MachineConfig config;
  config.vcpus = 2;
  Rig rig(config);
  Handler handler;
  for (unsigned i = 0; i < 2; ++i) rig.machine.vcpu(i).set_handler(&handler);
  rig.machine.run([&](Vcpu& vcpu) {
    if (vcpu.index() == 0) {
      vcpu.load(kSmall);
      vcpu.give_way();
      vcpu.send_ipi(rig.machine.vcpu(1));
      handler.log += "sent ";
      vcpu.give_way();
      handler.log += "back ";
    } else {
      for (int i = 0; i < 3; ++i) {
        vcpu.load(kSmall);
        vcpu.give_way();
      }
    }
  });
  CHECK(handler.log == "sent i1 back ");
  CHECK(rig.machine.vcpu(0).counters[Event::Ipi] == 1);
}

TEST_CASE("a flush of the VM interrupts the vCPUs that run, and only them") {
  for (const char* pager : {"shadow", "nested"}) {
    MachineConfig config;
    config.vcpus = 3;
    config.memory_bytes = u64{8} << 20;
    const auto machine = make_machine({pager}, config);
    GuestTables tables(*machine, Gpa(0x100000));
    const Gpa root = tables.new_table();
    tables.map(root, kSmall, Gpa(0x200000), GuestTables::kUserRw);
    for (unsigned i = 0; i < 3; ++i) machine->vcpu(i).set_cr3(root.raw());
    for (unsigned i = 0; i < 2; ++i) machine->vcpu(i).load(kSmall);
    const auto flush = [&] {
      const Counters before = machine->counters();
      machine->flush_all(&machine->vcpu(0));
      return machine->counters() - before;
    };
    Counters d = flush();  // vCPU 2 has not begun
    CHECK(d[Event::RemoteTlbFlushRequest] == 1);
    CHECK(d[Event::RemoteTlbFlush] == 1);
    CHECK(d[Event::Ipi] == 1);
    CHECK(d[Event::ExitInterrupt] == 1);
    CHECK(d[Event::TlbFlush] == 2);
    for (unsigned i = 0; i < 2; ++i) {
      const u64 walks = machine->vcpu(i).counters[Event::Walk];
      machine->vcpu(i).load(kSmall);
      CHECK(machine->vcpu(i).counters[Event::Walk] == walks + 1);
    }
    machine->vcpu(1).set_halted(true);
    d = flush();
    CHECK(d[Event::RemoteTlbFlushRequest] == 1);
    CHECK(d[Event::RemoteTlbFlush] == 0);
    CHECK(d[Event::Ipi] == 0);
  }
}

}  // namespace
}  // namespace mmuscope
