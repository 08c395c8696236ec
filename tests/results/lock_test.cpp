// Two vCPUs that fork at once under one lock: what they wait, against a calculation by hand.

#include <doctest/doctest.h>

#include <algorithm>
#include <vector>

#include "results/cost_model.h"
#include "tests/support/setups.h"

namespace mmuscope {
namespace {

/// What one vCPU alone does, exit by exit, by the prices.
struct Step {
  u64 before = 0;   ///< from the last entry to the exit, the round trip included
  u64 held = 0;     ///< of the lock, by this exit
  u64 served = 0;   ///< in the hypervisor in all
  u64 flushes = 0;  ///< each of which takes the other vCPU out of the guest, if it is in it
};

class StepRecorder final : public WalkListener {
 public:
  std::vector<Step> steps;

  void on_walk(Vcpu&, Gva, Access) override {}
  void on_entry(const EntryRead&) override {}
  void on_cached(const CacheUse&) override {}
  void on_flags(const FlagsSet&) override {}
  void on_translated(Vcpu&, const Translation&) override {}
  void on_fault(Vcpu&, const GuestFault&) override {}
  void on_exit(Vcpu& v, ExitReason, const VmExit*) override {
    at_exit_ = v.clock();
    held_ = v.counters[Event::LockHold];
    flushes_ = v.counters[Event::RemoteTlbFlushRequest];
  }
  void on_served(Vcpu& v, const VmExit&, const Resume&) override {
    steps.push_back({at_exit_ - entered_, v.counters[Event::LockHold] - held_, v.clock() - at_exit_,
                     v.counters[Event::RemoteTlbFlushRequest] - flushes_});
    entered_ = v.clock();
  }

 private:
  u64 entered_ = 0, at_exit_ = 0, held_ = 0, flushes_ = 0;
};

MachineConfig config_for(unsigned vcpus, LockKind lock) {
  // Interrupts cost their receiver an exit, and nobody anything else.
  const std::vector<PriceChange> changes = {{"ipi_send", 0},
                                            {"ipi_receive", 0},
                                            {"ipi_delivery", 0},
                                            {"ipi_answer", 0},
                                            {"lock_handover", 0}};
  MachineConfig config;
  config.vcpus = vcpus;
  config.schedule = Schedule::Time;
  config.lock = lock;
  config.prebacked = true;
  config.costs = Prices(config.cpu, changes, true).table();
  return config;
}

/// Runs so many processes that fork, each on a vCPU of its own; the cycles that all waited.
u64 run_forks(unsigned processes, LockKind lock, WalkListener* listener = nullptr) {
  const WorkloadInfo& info = find_workload("fork");
  Params params("workload fork", info.params);
  params.set_list("operations=20,resident=256k,processes=" + std::to_string(processes));
  const auto workload = info.make(params, 1);
  MachineConfig config = config_for(processes, lock);
  config.memory_bytes = workload->memory_bytes();
  const auto machine = make_machine({"shadow"}, config);
  machine->vcpu(0).set_listener(listener);
  workload->run(*machine, nullptr);
  return machine->counters()[Event::LockWait];
}

/// Both do the same steps, whoever comes first to the lock has it first.
u64 waited_by_hand(const std::vector<Step>& steps, u64 round_trip, u64 interrupted) {
  struct Runner {
    u64 clock = 0, waited = 0, entered = 0;
    std::size_t next = 0;
  } both[2];
  u64 free_at = 0;
  for (;;) {
    const auto due = [&](const Runner& r) {
      return r.next < steps.size() ? r.clock + steps[r.next].before : ~u64{0};
    };
    const bool second = due(both[1]) < due(both[0]);
    Runner &r = both[second], &other = both[!second];
    if (r.next == steps.size()) break;
    const Step& step = steps[r.next++];
    u64 now = r.clock + step.before;
    if (step.held > 0 && free_at > now) {
      r.waited += free_at - now;
      now = free_at;
    }
    if (step.held > 0) free_at = now + step.held;
    // The flush comes last of what is done under the lock.
    const u64 flush = now + step.held;
    if (other.next < steps.size() && other.entered <= flush && due(other) - round_trip > flush) {
      other.clock += step.flushes * interrupted;
    }
    r.clock = r.entered = now + step.served;
  }
  return both[0].waited + both[1].waited;
}

TEST_CASE("two vCPUs that fork at once wait for one lock as a hand calculation says") {
  StepRecorder alone;
  CHECK(run_forks(1, LockKind::Coarse, &alone) == 0);
  REQUIRE(alone.steps.size() > 1000);
  const u64 exit = exit_cost(kDefaultCpu).cycles;
  const u64 interrupt = 200;  // the price of that name
  const u64 predicted = waited_by_hand(alone.steps, exit, exit + interrupt);
  const u64 coarse = run_forks(2, LockKind::Coarse), fine = run_forks(2, LockKind::Fine);
  MESSAGE("waited: " << coarse << " cycles, by hand " << predicted
                     << ", with a lock for each table " << fine);
  REQUIRE(predicted > 0);
  const double ratio = static_cast<double>(coarse) / static_cast<double>(predicted);
  CHECK(ratio > 0.95);
  CHECK(ratio < 1.05);
  CHECK(fine * 20 < coarse);
}

}  // namespace
}  // namespace mmuscope
