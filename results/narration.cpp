#include "results/narration.h"

#include <fmt/format.h>

#include "core/error.h"
#include "results/catalog.h"

namespace mmuscope {

namespace {

constexpr u64 kGiB = u64{1} << 30;
// Where narrate_access() lays out its guest.
constexpr Gpa kRoot{1 << 20}, kData{2 * kGiB};
constexpr u64 kGuestBytes = 4 * kGiB;

/// Events that are told as things of their own: never left to a Tlb or Hypervisor.
bool is_told_itself(Event e) {
  switch (e) {
    case Event::Walk:
    case Event::TableRefGuest:
    case Event::TableRefShadow:
    case Event::TableRefNested:
    case Event::WalkCacheHit:
    case Event::NestedCacheHit:
    case Event::NestedTlbHit:
      return true;
    default:
      return e >= Event::ExitPageFault && e <= Event::ExitHypercall;
  }
}

/// Events of the access and of the TLB, as opposed to the hypervisor's.
bool is_of_hardware(Event e) { return e < Event::ExitPageFault; }

Event event_of(TableKind table) {
  switch (table) {
    case TableKind::Guest:
      return Event::TableRefGuest;
    case TableKind::Shadow:
      return Event::TableRefShadow;
    default:
      return Event::TableRefNested;
  }
}

Event event_of(CacheUse::Kind kind) {
  switch (kind) {
    case CacheUse::Kind::PagingStructure:
    case CacheUse::Kind::PageEntry:
      return Event::WalkCacheHit;
    case CacheUse::Kind::SecondStructure:
    case CacheUse::Kind::SecondPageEntry:
      return Event::NestedCacheHit;
    default:
      return Event::NestedTlbHit;
  }
}

std::int64_t change(u64 from, u64 to) { return static_cast<std::int64_t>(to - from); }
u64 leaves(const Gauges& g) { return g.pages_4k + g.pages_2m + g.pages_1g; }

}  // namespace

Counters Narration::narrated() const {
  Counters sum;
  for (const Told& t : told) sum += t.counted;
  return sum;
}

u64 Narration::references() const {
  u64 sum = 0;
  for (const Told& t : told) sum += t.kind == Told::Kind::Entry;
  return sum;
}

// --- listening -----------------------------------------------------------------------------------

Narrator::Narrator(Machine& machine)
    : machine_(machine), seen_(machine.counters()), gauges_(machine.pager().gauges()) {
  for (unsigned i = 0; i < machine.vcpu_count(); ++i) machine.vcpu(i).set_listener(this);
}

Narrator::~Narrator() {
  for (unsigned i = 0; i < machine_.vcpu_count(); ++i) machine_.vcpu(i).set_listener(nullptr);
}

std::vector<Told> Narrator::take() {
  catch_up();
  return std::move(told_);
}

Told& Narrator::tell(Told::Kind kind, const Vcpu* vcpu) {
  if (vcpu != nullptr) vcpu_ = vcpu->index();
  Told& t = told_.emplace_back();
  t.kind = kind;
  t.vcpu = vcpu_;
  return t;
}

/// Tells of the events counted since the last time that nothing else stands for.
void Narrator::catch_up() {
  const Counters now = machine_.counters();
  const Counters passed = now - seen_;
  seen_ = now;
  Told hardware, hypervisor;
  hardware.kind = Told::Kind::Tlb;
  hypervisor.kind = Told::Kind::Hypervisor;
  hardware.vcpu = hypervisor.vcpu = vcpu_;
  for (const EventInfo& info : kEventInfo) {
    if (is_told_itself(info.event)) continue;
    Told& t = is_of_hardware(info.event) ? hardware : hypervisor;
    t.counted[info.event] = passed[info.event];
  }
  const Gauges gauges = machine_.pager().gauges();
  hypervisor.leaves = change(leaves(gauges_), leaves(gauges));
  hypervisor.table_pages = change(gauges_.table_pages, gauges.table_pages);
  hypervisor.unsync = change(gauges_.mmu_unsync, gauges.mmu_unsync);
  gauges_ = gauges;
  if (hardware.counted != Counters{}) told_.push_back(hardware);
  if (hypervisor.counted != Counters{} || hypervisor.leaves != 0 || hypervisor.table_pages != 0 ||
      hypervisor.unsync != 0) {
    told_.push_back(hypervisor);
  }
}

void Narrator::on_walk(Vcpu& vcpu, Gva, Access) {
  vcpu_ = vcpu.index();
  catch_up();
  ++tell(Told::Kind::Walk, &vcpu).counted[Event::Walk];
}

void Narrator::on_entry(const EntryRead& entry) {
  Told& t = tell(Told::Kind::Entry);
  t.entry = entry;
  ++t.counted[event_of(entry.table)];
}

void Narrator::on_cached(const CacheUse& use) {
  Told& t = tell(Told::Kind::Cached);
  t.cached = use;
  ++t.counted[event_of(use.kind)];
}

void Narrator::on_flags(const FlagsSet& set) { tell(Told::Kind::Flags).flags = set; }

void Narrator::on_translated(Vcpu& vcpu, const Translation& translation) {
  catch_up();
  tell(Told::Kind::Translated, &vcpu).page = translation;
}

void Narrator::on_fault(Vcpu& vcpu, const GuestFault& fault) {
  catch_up();
  tell(Told::Kind::Fault, &vcpu).fault = fault;
}

void Narrator::on_exit(Vcpu& vcpu, ExitReason reason, const VmExit* exit) {
  catch_up();
  Told& t = tell(Told::Kind::Exit, &vcpu);
  t.reason = reason;
  if (exit != nullptr) t.exit = *exit;
  ++t.counted[exit_event(reason)];
}

void Narrator::on_served(Vcpu& vcpu, const VmExit&, const Resume& resume) {
  vcpu_ = vcpu.index();
  catch_up();
  switch (resume.action) {
    case Resume::Action::Retry:
      tell(Told::Kind::Resumed, &vcpu);
      break;
    case Resume::Action::Completed:
      tell(Told::Kind::Emulated, &vcpu);
      break;
    case Resume::Action::ReflectFault:
      tell(Told::Kind::Reflected, &vcpu).fault = resume.fault;
      break;
  }
}

// --- narrating -----------------------------------------------------------------------------------

namespace {

std::string words(const ScenarioOp& op) {
  using Kind = ScenarioOp::Kind;
  switch (op.kind) {
    case Kind::Access: {
      const char* verb = op.access.is_write()   ? "store to"
                         : op.access.is_fetch() ? "fetch from"
                                                : "load from";
      return fmt::format("{} {:#x} by the {}", verb, op.address,
                         op.access.is_user() ? "user" : "kernel");
    }
    case Kind::Cr3:
      return fmt::format("MOV {:#x} to CR3", op.value);
    case Kind::Invlpg:
      return fmt::format("INVLPG of {:#x}", op.address);
    case Kind::Invpcid:
      return fmt::format("INVPCID type {} of PCID {}, {:#x}", static_cast<unsigned>(op.type),
                         op.pcid, op.address);
    case Kind::Cr0:
      return fmt::format("MOV {:#x} to CR0", op.value);
    case Kind::Cr4:
      return fmt::format("MOV {:#x} to CR4", op.value);
    case Kind::Peek:
      return fmt::format("a look at guest-physical {:#x} from outside", op.address);
    case Kind::DirtyLog:
      return op.value != 0 ? "the host starts its dirty log" : "the host ends its dirty log";
    case Kind::GetDirtyLog:
      return "the host harvests its dirty log";
    case Kind::ShadowPageLimit:
      return fmt::format("the host limits shadow pages to {}", op.value);
  }
  return {};
}

struct ChosenPager {
  const PagerInfo* info;
  Params params;
};

ChosenPager choose(const std::string& pager) {
  const Spec spec = parse_spec(pager);
  const PagerInfo& info = find_pager(spec.name);
  ChosenPager chosen{&info, Params("pager " + spec.name, info.params())};
  chosen.params.set_list(spec.list);
  return chosen;
}

ScenarioMachine machine_for(const Scenario& scenario, MachineConfig config,
                            const ChosenPager& pager) {
  config.virtualized = pager.info->virtualized;
  return {scenario, config, [&](Machine& m) { return pager.info->make(m, pager.params); }};
}

Gva beside(Gva va, PageSize size) { return Gva(va.raw() ^ page_bytes(size)); }

/// Tables one after another from kRoot, mapping two neighbouring pages, with nothing accessed yet.
Scenario lone_guest(const LoneAccess& a, unsigned levels) {
  constexpr u64 kTable = x86::kPresent | x86::kWrite | x86::kUser;
  Scenario s;
  s.name = "one access";
  s.cr3 = kRoot.raw();
  s.memory_bytes = kGuestBytes;
  s.controls.levels = static_cast<u8>(levels);
  Gpa table = kRoot;
  const unsigned leaf = leaf_level(a.guest_page);
  for (unsigned level = levels; level > leaf; --level) {
    s.memory.push_back(
        {(table + 8 * table_index(a.va, level)).raw(), (table + kPageBytes).raw() | kTable, 1, 0});
    table = table + kPageBytes;
  }
  const u64 large = a.guest_page == PageSize::k4K ? 0 : x86::kLarge;
  u64 at = kData.raw();
  for (const Gva va : {a.va, beside(a.va, a.guest_page)}) {
    s.memory.push_back({(table + 8 * table_index(va, leaf)).raw(), at | kTable | large, 1, 0});
    at += page_bytes(a.guest_page);
  }
  return s;
}

void prepare(ScenarioMachine& run, const LoneAccess& a) {
  if (a.before == Before::Nothing) return;
  Access access = a.access;
  if (a.before == Before::Read) access.kind = AccessKind::Read;
  const ScenarioOp op = access_op(0, access, a.va.raw());
  const ScenarioOp other = access_op(0, access, beside(a.va, a.guest_page).raw());
  // Twice: what the first time sets (a dirty flag, say) may be found by a second walk only.
  for (int i = 0; i < 2; ++i) {
    run.run(op);
    run.run(other);
  }
  Vcpu& vcpu = run.machine().vcpu(0);
  if (a.before == Before::Flushed) {
    ScenarioOp cr3;
    cr3.kind = ScenarioOp::Kind::Cr3;
    cr3.value = kRoot.raw();
    run.run(cr3);
  } else if (a.before != Before::Again) {
    run.machine().pager().flush(vcpu);
    if (a.before == Before::Near) run.run(other);
  }
}

}  // namespace

Narration narrate(ScenarioMachine& run, const ScenarioOp& op, const std::string& pager) {
  Machine& machine = run.machine();
  Narration n;
  n.what = words(op);
  n.pager = pager;
  n.cpu = machine.config().cpu;
  n.op = op;
  n.guest_levels = machine.vcpu(op.vcpu).controls().levels;
  const Counters before = machine.counters();
  const u64 accesses = machine.accesses();
  Narrator narrator(machine);
  run.run(op);
  n.told = narrator.take();
  n.counters = machine.counters() - before;
  n.accesses = machine.accesses() - accesses;
  n.ended = run.ended();
  return n;
}

Narration narrate_scenario(const Scenario& scenario, u64 number, const std::string& pager,
                           const MachineConfig& config) {
  ScenarioMachine run = machine_for(scenario, config, choose(pager));
  u64 at = 0;
  for (std::size_t s = 0; s < scenario.steps.size(); ++s) {
    const ScenarioStep& step = scenario.steps[s];
    for (std::size_t i = 0; i < step.ops.size(); ++i) {
      try {
        if (++at < number) {
          run.run(step.ops[i]);
          continue;
        }
        Narration n = narrate(run, step.ops[i], pager);
        n.what += fmt::format(" (step {}, {}; its op {})", s + 1, step.label, i + 1);
        return n;
      } catch (const std::runtime_error& e) {
        throw InputError(
            fmt::format("{}: step {}, op {}: {}", scenario.file, s + 1, i + 1, e.what()));
      }
    }
  }
  throw InputError(fmt::format("{}: no op {}; it has ops 1 to {}", scenario.file, number, at));
}

Narration narrate_access(const LoneAccess& a, const std::string& pager, MachineConfig config) {
  Scenario guest = lone_guest(a, config.guest_levels);
  guest.backing = config.backing;
  ScenarioMachine run = machine_for(guest, config, choose(pager));
  const ScenarioOp op = access_op(0, a.access, a.va.raw());
  prepare(run, a);
  return narrate(run, op, pager);
}

}  // namespace mmuscope
