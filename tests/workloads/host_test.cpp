// What the host does to the memory under its guest, under every pager: taking it back, and merging
// what is equal.

#include <doctest/doctest.h>

#include "core/same_page_merger.h"
#include "tests/support/guest_tables.h"
#include "tests/support/setups.h"
#include "tests/workloads/guest_audit.h"

using namespace mmuscope;

namespace {

constexpr Gva kVa{0x40'0000'0000};
constexpr Gpa kPages{8 << 20};
constexpr u64 kFlags = GuestTables::kUserRw | GuestTables::kTouched;

/// A guest with so many pages, each written with its number.
struct Hosted {
  explicit Hosted(const Setup& setup, u64 pages = 1024)
      : machine(make_machine(setup, config())), tables(*machine, Gpa(1 << 20)) {
    root = tables.new_table();
    tables.map_range(root, kVa, kPages, pages * kPageBytes, kFlags);
    vcpu().set_controls(Controls{});
    vcpu().write_cr3(root.raw());
    for (u64 i = 0; i < pages; ++i) vcpu().store<u64>(at(i), i + 1);
  }
  static MachineConfig config() {
    MachineConfig c;
    c.memory_bytes = u64{64} << 20;
    return c;
  }
  static Gva at(u64 page) { return kVa + page * kPageBytes; }
  static Gfn frame(u64 page) { return kPages.frame() + page; }
  Vcpu& vcpu() { return machine->vcpu(0); }
  u64 count(Event e) { return vcpu().counters[e]; }
  u64 exits() { return count(Event::ExitPageFault) + count(Event::ExitEptViolation); }

  std::unique_ptr<Machine> machine;
  GuestTables tables;
  Gpa root;
};

}  // namespace

TEST_CASE("host: what the guest offers is taken back, flushed, and zeros when it is next touched") {
  for (const Setup& setup : all_setups()) {
    CAPTURE(setup.name());
    Hosted guest(setup);
    const bool has_host = setup.pager != "native";
    const u64 requests = guest.count(Event::RemoteTlbFlushRequest);
    guest.vcpu().offer_frames(guest.frame(3), 5);
    CHECK(guest.count(Event::ExitHypercall) == (has_host ? 1 : 0));
    CHECK(guest.count(Event::UnbackedPage) == (has_host ? 5 : 0));
    CHECK(guest.count(Event::RemoteTlbFlushRequest) == requests + (has_host ? 1 : 0));
    for (u64 i = 3; i < 8; ++i) {
      CHECK(guest.machine->map().find(guest.frame(i)).has_value() == !has_host);
    }
    // Nothing is left to take: an exit, and no flush.
    guest.vcpu().offer_frames(guest.frame(3), 5);
    CHECK(guest.count(Event::ExitHypercall) == (has_host ? 2 : 0));
    CHECK(guest.count(Event::RemoteTlbFlushRequest) == requests + (has_host ? 1 : 0));
    for (u64 i = 0; i < 16; ++i) {
      CHECK(guest.vcpu().load(guest.at(i)) == (i >= 3 && i < 8 ? 0 : i + 1));
    }
    guest.vcpu().store<u64>(guest.at(4), 44);
    CHECK(guest.vcpu().load(guest.at(4)) == 44);
    // All of a large host page goes as one.
    guest.vcpu().offer_frames(guest.frame(512), 512);
    CHECK(guest.count(Event::UnbackedPage) == (has_host ? 5 + 512 : 0));
    CHECK(guest.vcpu().load(guest.at(600)) == 0);
    CHECK(guest.vcpu().load(guest.at(511)) == 512);
    const auto backing = guest.machine->map().find(guest.frame(600));
    REQUIRE(backing.has_value());
    if (has_host) CHECK(backing->size == setup.backing);
  }
}

TEST_CASE("host: memory taken back is given to the next who needs some") {
  Hosted guest({"nested"});
  const Hfn freed = guest.machine->map().find(guest.frame(9))->frame;
  guest.vcpu().offer_frames(guest.frame(9), 1);
  CHECK(guest.machine->map().back(guest.frame(2000)).frame == freed);
  CHECK(guest.machine->memory().read(freed.base()) == 0);
}

TEST_CASE("host: equal pages share memory until one is written") {
  for (const Setup& setup : all_setups()) {
    CAPTURE(setup.name());
    Hosted guest(setup);
    Machine& machine = *guest.machine;
    const bool has_host = setup.pager != "native";
    for (const u64 i : {10, 20, 30}) guest.vcpu().store<u64>(guest.at(i), 7777);
    CHECK_FALSE(machine.merge(guest.frame(10), guest.frame(11), &guest.vcpu()));  // not equal
    CHECK(machine.merge(guest.frame(10), guest.frame(20), &guest.vcpu()) == has_host);
    CHECK(machine.merge(guest.frame(10), guest.frame(30), &guest.vcpu()) == has_host);
    CHECK_FALSE(machine.merge(guest.frame(10), guest.frame(30), &guest.vcpu()));
    CHECK(guest.count(Event::MergedPage) == (has_host ? 2 : 0));
    for (const u64 i : {10, 20, 30}) CHECK(guest.vcpu().load(guest.at(i)) == 7777);
    if (!has_host) continue;
    CHECK(machine.map().find(guest.frame(10))->frame == machine.map().find(guest.frame(30))->frame);
    // A write to one exits once, copies, and leaves the others alone.
    const u64 exits = guest.exits();
    guest.vcpu().store<u64>(guest.at(20), 1);
    CHECK(guest.exits() == exits + 1);
    CHECK(guest.count(Event::UnmergedPage) == 1);
    guest.vcpu().store<u64>(guest.at(20), 2);
    CHECK(guest.exits() == exits + 1);
    CHECK(guest.vcpu().load(guest.at(10)) == 7777);
    CHECK(guest.vcpu().load(guest.at(20)) == 2);
    CHECK(guest.vcpu().load(guest.at(30)) == 7777);
    guest.vcpu().store<u64>(guest.at(10), 3);
    guest.vcpu().store<u64>(guest.at(30), 4);  // alone by now: no copy
    CHECK(guest.vcpu().load(guest.at(10)) == 3);
    CHECK(guest.vcpu().load(guest.at(30)) == 4);
    CHECK_FALSE(machine.map().is_merged(guest.frame(30)));
    // Merged memory that the guest offers goes for it alone.
    guest.vcpu().store<u64>(guest.at(40), 5);
    guest.vcpu().store<u64>(guest.at(50), 5);
    REQUIRE(machine.merge(guest.frame(40), guest.frame(50), &guest.vcpu()));
    guest.vcpu().offer_frames(guest.frame(40), 1);
    CHECK(guest.vcpu().load(guest.at(40)) == 0);
    CHECK(guest.vcpu().load(guest.at(50)) == 5);
  }
}

TEST_CASE("host: its scan merges what is equal in two rounds, and nothing that changes") {
  for (const char* pager : {"shadow", "shadow-unsync", "nested"}) {
    CAPTURE(pager);
    Hosted guest({pager}, 64);
    for (u64 i = 0; i < 64; ++i) {
      // Four of each of eight kinds; 32 that are unlike all others.
      guest.vcpu().store<u64>(guest.at(i), i < 32 ? 1000 + i % 8 : 2000 + i);
    }
    SamePageMerger merger(*guest.machine);
    u64 merged = 0;
    while (merger.rounds() < 1) merged += merger.scan(guest.vcpu(), 1);
    CHECK(merged == 0);  // once seen is not enough
    guest.vcpu().store<u64>(guest.at(0), 1);
    while (merger.rounds() < 2) merged += merger.scan(guest.vcpu(), 1);
    CHECK(merged == 7 * 3 + 2);
    CHECK(guest.count(Event::MergedPage) == merged);
    while (merger.rounds() < 3) merged += merger.scan(guest.vcpu(), 1);
    CHECK(merged == 7 * 3 + 2);
    for (u64 i = 1; i < 64; ++i) {
      CHECK(guest.vcpu().load(guest.at(i)) == (i < 32 ? 1000 + i % 8 : 2000 + i));
    }
  }
}

TEST_CASE("balloon: a hypercall for 256 frames, each taken back, and reporting for 32 blocks") {
  const auto run = [](const std::string& method, const char* pager) {
    const WorkloadInfo& info = find_workload("balloon");
    Params params("workload balloon", info.params);
    params.set_list("bytes=8m,rounds=3,method=" + method);
    const auto workload = info.make(params, 1);
    MachineConfig config;
    config.memory_bytes = workload->memory_bytes();
    const auto machine = make_machine({pager}, config);
    workload->run(*machine, nullptr);
    return machine->counters();
  };
  for (const char* pager : {"shadow", "shadow-unsync", "nested"}) {
    CAPTURE(pager);
    const Counters none = run("none", pager), inflated = run("inflate", pager),
                   reported = run("report", pager);
    CHECK(none[Event::ExitHypercall] == 0);
    // 2048 frames a round: 8 calls to give them, 8 to have them back.
    CHECK(inflated[Event::ExitHypercall] == 3 * 16);
    CHECK(inflated[Event::UnbackedPage] == 3 * 2048);
    CHECK(inflated[Event::GuestPageFault] == none[Event::GuestPageFault]);
    // Of the frames freed, 2-MByte blocks that are free as a whole: up to four.
    CHECK(reported[Event::ExitHypercall] == 3);
    CHECK(reported[Event::UnbackedPage] >= 3 * 512 * 3);
    CHECK(reported[Event::UnbackedPage] % 512 == 0);
  }
  CHECK(run("inflate", "native")[Event::UnbackedPage] == 0);
}
