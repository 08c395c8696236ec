#include "workloads/guest/kernel.h"

#include <algorithm>
#include <cassert>
#include <exception>
#include <stdexcept>

namespace mmuscope {

namespace {

/// What a signal's frame takes of the stack, about: registers and floating point state. Linux,
/// struct rt_sigframe, xsave without AVX-512.
constexpr u64 kSignalFrame = 1024;

}  // namespace

/// In the kernel for a scope: a system call, a fault or an interrupt.
class Kernel::Mode {
 public:
  enum class Why : u8 { SystemCall, Exception };
  Mode(Kernel& kernel, Vcpu& vcpu, Why why = Why::SystemCall)
      : kernel_(kernel),
        vcpu_(vcpu),
        from_user_(vcpu.privilege() == Privilege::User),
        // An interrupt may come amid the kernel's entry and exit code, too.
        from_user_root_(kernel.memory_->tlb().is_on_user_root(vcpu)),
        exceptions_(std::uncaught_exceptions()) {
    if (why == Why::SystemCall) vcpu.note(Event::GuestEntry);
    if (from_user_) {
      kernel.enter_from_user(vcpu);
    } else if (from_user_root_) {
      kernel.memory_->tlb().enter_kernel(vcpu);
    }
  }
  ~Mode() noexcept(false) {
    if (std::uncaught_exceptions() > exceptions_) return;
    if (from_user_) {
      kernel_.return_to_user(vcpu_);
    } else if (from_user_root_) {
      kernel_.memory_->tlb().leave_kernel(vcpu_);
    }
  }
  Mode(const Mode&) = delete;
  Mode& operator=(const Mode&) = delete;

 private:
  Kernel& kernel_;
  Vcpu& vcpu_;
  bool from_user_, from_user_root_;
  int exceptions_;
};

Kernel::Kernel(Machine& machine, ProcessListener* listener)
    : machine_(machine),
      listener_(listener),
      image_(write_boot_image(machine)),
      memory_(std::make_unique<MemoryManager>(machine, image_, statistics_)),
      cpus_(machine.vcpu_count()),
      next_sample_(listener != nullptr ? listener->sample_period() : 0),
      next_collapse_(machine.config().khugepaged) {
  for (unsigned i = 0; i < machine.vcpu_count(); ++i) {
    Vcpu& vcpu = machine.vcpu(i);
    vcpu.set_controls(kernel_controls(machine.config().guest_levels));
    vcpu.set_cr3(image_.root.raw());
    vcpu.set_privilege(Privilege::Supervisor);
    vcpu.set_handler(this);
  }
}

Kernel::~Kernel() {
  for (unsigned i = 0; i < machine_.vcpu_count(); ++i) machine_.vcpu(i).set_handler(nullptr);
}

// --- kernel and user mode -----------------------------------------------------------------------

void Kernel::boot(Vcpu& vcpu) {
  Cpu& c = cpu(vcpu);
  if (c.booted) return;
  c.booted = true;
  if (!kernel_uses_pcid(machine_)) return;
  Controls controls = vcpu.controls();
  controls.pcide = true;
  vcpu.write_controls(controls);
}

void Kernel::enter_from_user(Vcpu& vcpu) {
  // Linux, entry_64.S: the entry code begins on the CPU's own entry stack, changes to the kernel's
  // tables, then to the thread's stack, where it saves the registers.
  vcpu.set_privilege(Privilege::Supervisor);
  vcpu.fetch(kEntryText);
  vcpu.store<u64>(cpu_entry_area(vcpu.index()), 0);
  memory_->tlb().enter_kernel(vcpu);
  vcpu.store<u64>(stack_top(current(vcpu)), 0);
  vcpu.fetch(kKernelText);
}

void Kernel::return_to_user(Vcpu& vcpu) {
  const Process* p = cpu(vcpu).current;
  if (p == nullptr) return;  // it has exited: the vCPU stays in the kernel
  vcpu.load(stack_top(*p));
  vcpu.fetch(kEntryText);
  memory_->tlb().leave_kernel(vcpu);
  vcpu.set_privilege(Privilege::User);
}

Gva Kernel::stack_top(const Process& p) {
  constexpr u64 kRegisters = 21 * 8;  // struct pt_regs
  return direct_map(p.stack.base()) + kPageBytes - kRegisters;
}

// --- processes -----------------------------------------------------------------------------------

Process& Kernel::add_process(std::string name, std::unique_ptr<Program> program, unsigned vcpu) {
  processes_.push_back(std::make_unique<Process>());
  Process& p = *processes_.back();
  p.pid = next_pid_++;
  p.name = std::move(name);
  p.program = std::move(program);
  p.leader = &p;
  p.vcpu = vcpu;
  cpus_[vcpu].queue.push_back(&p);
  return p;
}

Process& Kernel::spawn(std::string name, std::unique_ptr<Program> program) {
  Process& p = add_process(std::move(name), std::move(program), next_vcpu_);
  next_vcpu_ = (next_vcpu_ + 1) % machine_.vcpu_count();
  p.state = Process::State::Runnable;
  return p;
}

unsigned Kernel::least_loaded(unsigned preferred) const {
  unsigned best = preferred;
  for (unsigned i = 0; i < cpus_.size(); ++i) {
    if (cpus_[i].queue.size() < cpus_[best].queue.size()) best = i;
  }
  return best;
}

Process& Kernel::current(const Vcpu& vcpu) {
  Process* p = cpu(vcpu).current;
  assert(p != nullptr && "a system call without a process");
  return *p;
}

Process& Kernel::fork(Vcpu& vcpu, std::unique_ptr<Program> program) {
  const Mode mode(*this, vcpu);
  vcpu.note(Event::GuestTask);
  Process& parent = current(vcpu);
  Process& child = add_process(parent.name, std::move(program), least_loaded(parent.vcpu));
  child.parent = &parent;
  ++parent.children;
  change_task_list(vcpu);
  child.stack = memory_->new_stack(vcpu);
  child.memory = memory_->create(vcpu);
  memory_->copy(vcpu, *parent.memory, *child.memory);
  wake(vcpu, child);
  return child;
}

Process& Kernel::vfork(Vcpu& vcpu, std::unique_ptr<Program> program) {
  const Mode mode(*this, vcpu);
  vcpu.note(Event::GuestTask);
  Process& parent = current(vcpu);
  Process& child = add_process(parent.name, std::move(program), least_loaded(parent.vcpu));
  child.parent = child.vfork_parent = &parent;
  ++parent.children;
  change_task_list(vcpu);
  child.stack = memory_->new_stack(vcpu);
  child.memory = parent.memory;
  ++child.memory->users;
  parent.state = Process::State::Waiting;
  wake(vcpu, child);
  return child;
}

void Kernel::wake_vfork_parent(Vcpu& vcpu, Process& child) {
  if (child.vfork_parent == nullptr) return;
  wake(vcpu, *child.vfork_parent);
  child.vfork_parent = nullptr;
}

Process& Kernel::clone_thread(Vcpu& vcpu, std::unique_ptr<Program> program) {
  const Mode mode(*this, vcpu);
  vcpu.note(Event::GuestTask);
  Process& leader = *current(vcpu).leader;
  Process& thread = add_process(leader.name, std::move(program), least_loaded(leader.vcpu));
  thread.leader = thread.parent = &leader;
  ++leader.children;
  ++leader.threads;
  change_task_list(vcpu);
  thread.stack = memory_->new_stack(vcpu);
  thread.memory = leader.memory;
  ++thread.memory->users;
  wake(vcpu, thread);
  return thread;
}

/// Whoever comes into the world or leaves it, one at a time. Linux, tasklist_lock.
void Kernel::change_task_list(Vcpu& vcpu) {
  constexpr u64 kListCycles = 500;  // attaching or releasing a task and its pid, assumed
  const GuestLock::Hold tasks(vcpu, task_list_lock_);
  vcpu.compute(kListCycles);
}

void Kernel::wait(Vcpu& vcpu) {
  Process& p = current(vcpu);
  if (p.children > 0) p.state = Process::State::Waiting;
}

void Kernel::wake(Vcpu& vcpu, Process& process) {
  process.state = Process::State::Runnable;
  // A halted vCPU sleeps until an interrupt comes. Linux, ttwu_queue.
  if (cpus_[process.vcpu].idle) vcpu.send_ipi(machine_.vcpu(process.vcpu));
}

void Kernel::execve(Vcpu& vcpu, std::string name) {
  const Mode mode(*this, vcpu);
  Process& p = current(vcpu);
  assert(p.threads == 0 && p.leader == &p);
  const std::shared_ptr<AddressSpace> old = p.memory;
  p.memory = memory_->create(vcpu);
  p.name = std::move(name);
  memory_->tlb().load(vcpu, *p.memory);
  if (--old->users == 0) memory_->destroy(vcpu, *old);
  wake_vfork_parent(vcpu, p);
}

void Kernel::exit(Vcpu& vcpu) {
  const Mode mode(*this, vcpu);
  Process& p = current(vcpu);
  assert(p.threads == 0);
  p.done = true;
  if (p.leader == &p) sample(&p);
  if (--p.memory->users == 0) {
    memory_->destroy(vcpu, *p.memory);
  } else {
    memory_->tlb().rest(vcpu);
  }
  wake_vfork_parent(vcpu, p);
  change_task_list(vcpu);
  memory_->free_stack(vcpu, p.stack);
  account(vcpu);
  cpu(vcpu).current = nullptr;
  remove_process(vcpu, p);
}

void Kernel::remove_process(Vcpu& vcpu, Process& process) {
  for (const auto& other : processes_) {
    if (other->parent == &process) other->parent = nullptr;
    if (other->vfork_parent == &process) other->vfork_parent = nullptr;
  }
  Process* parent = process.parent;
  if (parent != nullptr) {
    --parent->children;
    if (process.leader == parent) --parent->threads;
    const unsigned awaited = parent->done ? parent->threads : parent->children;
    if (parent->state == Process::State::Waiting && awaited == 0) wake(vcpu, *parent);
  }
  Cpu& c = cpus_[process.vcpu];
  const auto at = std::find(c.queue.begin(), c.queue.end(), &process);
  // What ran last is then the one before, so that the next turn is the one after.
  if (static_cast<std::size_t>(at - c.queue.begin()) <= c.turn && c.turn > 0) --c.turn;
  c.queue.erase(at);
  processes_.erase(std::find_if(processes_.begin(), processes_.end(),
                                [&](const auto& p) { return p.get() == &process; }));
}

// --- scheduling ----------------------------------------------------------------------------------

void Kernel::run() {
  machine_.run([this](Vcpu& vcpu) { run_vcpu(vcpu); });
  sample();
}

void Kernel::run_vcpu(Vcpu& vcpu) {
  boot(vcpu);
  // As long as tables may be torn down, whoever has them loaded answers.
  while (!processes_.empty() || held_spaces_ > 0) {
    if (Process* p = next_runnable(cpu(vcpu))) {
      switch_to(vcpu, *p);
      run_slice(vcpu, *p);
      khugepaged_if_due(vcpu);
    } else {
      idle(vcpu);
    }
    sample_if_due();
  }
}

Process* Kernel::next_runnable(Cpu& c) {
  for (std::size_t i = 1; i <= c.queue.size(); ++i) {
    const std::size_t at = (c.turn + i) % c.queue.size();
    if (c.queue[at]->state != Process::State::Runnable) continue;
    c.turn = at;
    return c.queue[at];
  }
  return nullptr;
}

void Kernel::run_slice(Vcpu& vcpu, Process& process) {
  if (!process.done && !process.killed) process.done = !process.program->step(*this, vcpu);
  process.done |= process.killed;
  enter_from_user(vcpu);
  if (!process.done) return;
  if (process.threads > 0) {
    process.state = Process::State::Waiting;
  } else {
    exit(vcpu);
  }
}

void Kernel::idle(Vcpu& vcpu) {
  if (machine_.vcpu_count() == 1) throw std::logic_error("every process of the guest waits");
  Cpu& c = cpu(vcpu);
  if (vcpu.privilege() == Privilege::User) enter_from_user(vcpu);
  account(vcpu);
  c.current = nullptr;
  memory_->tlb().rest(vcpu);
  const bool was_in_guest = vcpu.in_guest();
  c.idle = true;
  if (was_in_guest) vcpu.set_halted(true);
  vcpu.give_way();
  if (was_in_guest) vcpu.set_halted(false);
  c.idle = false;
}

void Kernel::switch_to(Vcpu& vcpu, Process& process) {
  boot(vcpu);
  if (vcpu.privilege() == Privilege::User) enter_from_user(vcpu);
  Cpu& c = cpu(vcpu);
  if (c.current != &process) {
    account(vcpu);
    vcpu.note(Event::GuestSwitch);
  }
  c.current = &process;
  if (!process.memory) {
    process.stack = memory_->new_stack(vcpu);
    process.memory = memory_->create(vcpu);
  }
  memory_->tlb().load(vcpu, *process.memory);
  return_to_user(vcpu);
}

// --- the kernel's own threads --------------------------------------------------------------------

std::shared_ptr<AddressSpace> Kernel::hold_space(u64 from) {
  std::shared_ptr<AddressSpace> first;
  for (const auto& p : processes_) {
    if (!p->memory || p->memory->users == 0 || p->memory->id < from) continue;
    if (!first || p->memory->id < first->id) first = p->memory;
  }
  if (!first) return first;
  ++first->users;
  ++held_spaces_;
  return first;
}

void Kernel::put_space(Vcpu& vcpu, const std::shared_ptr<AddressSpace>& space) {
  if (--space->users == 0) memory_->destroy(vcpu, *space);
  --held_spaces_;
}

/// Linux, khugepaged: 4096 pages a pass (pages_to_scan), round all address spaces. It sleeps 10 s
/// between two passes (scan_sleep_millisecs); here so many accesses as the machine's key says, so
/// that it does the same whatever the time takes.
void Kernel::khugepaged_if_due(Vcpu& vcpu) {
  const u64 period = machine_.config().khugepaged;
  if (period == 0 || machine_.accesses() < next_collapse_) return;
  next_collapse_ = machine_.accesses() + period;
  unsigned left = 4096 / kEntriesPerTable;
  for (bool wrapped = false; left > 0;) {
    const auto space = hold_space(collapse_at_.first);
    if (!space) {
      if (wrapped) return;
      wrapped = true;
      collapse_at_ = {0, Gva(0)};
      continue;
    }
    if (space->id != collapse_at_.first) collapse_at_ = {space->id, Gva(0)};
    const auto next = memory_->collapse_next(vcpu, *space, collapse_at_.second);
    collapse_at_ = next ? std::pair(space->id, *next) : std::pair(space->id + 1, Gva(0));
    left -= next.has_value();
    put_space(vcpu, space);
  }
}

void Kernel::account(const Vcpu& vcpu) {
  Cpu& c = cpu(vcpu);
  if (c.current != nullptr) c.current->leader->counters += vcpu.counters - c.mark;
  c.mark = vcpu.counters;
}

void Kernel::sample_if_due() {
  if (listener_ == nullptr || machine_.accesses() < next_sample_) return;
  next_sample_ = machine_.accesses() + listener_->sample_period();
  sample();
}

void Kernel::sample(const Process* leaving) {
  if (listener_ == nullptr) return;
  for (unsigned i = 0; i < machine_.vcpu_count(); ++i) account(machine_.vcpu(i));
  std::vector<ProcessView> alive;
  std::size_t leaving_at = processes_.size();
  u64 table_pages = image_.table_pages;
  for (const auto& p : processes_) {
    if (p->leader != p.get()) continue;
    if (p.get() == leaving) leaving_at = alive.size();
    ProcessView view{p->pid, p->name, {}, 0, p->counters};
    if (p->memory && p->vfork_parent == nullptr) {
      view.roots.push_back(p->memory->root);
      if (p->memory->user_root != Gpa(0)) view.roots.push_back(p->memory->user_root);
      view.guest_table_pages = p->memory->table_pages;
      table_pages += p->memory->table_pages;
    }
    alive.push_back(std::move(view));
  }
  listener_->on_sample(machine_, alive, leaving != nullptr ? &alive[leaving_at] : nullptr,
                       table_pages);
}

// --- system calls on memory, faults, interrupts --------------------------------------------------

std::optional<Gva> Kernel::mmap(Vcpu& vcpu, std::optional<Gva> where, u64 bytes, u8 rights,
                                Source source) {
  const Mode mode(*this, vcpu);
  return memory_->map(vcpu, *current(vcpu).memory, where, bytes, rights, source);
}

bool Kernel::munmap(Vcpu& vcpu, Gva start, u64 bytes) {
  const Mode mode(*this, vcpu);
  return memory_->unmap(vcpu, *current(vcpu).memory, start, bytes);
}

bool Kernel::mprotect(Vcpu& vcpu, Gva start, u64 bytes, u8 rights) {
  const Mode mode(*this, vcpu);
  return memory_->protect(vcpu, *current(vcpu).memory, start, bytes, rights);
}

bool Kernel::discard(Vcpu& vcpu, Gva start, u64 bytes) {
  const Mode mode(*this, vcpu);
  return memory_->discard(vcpu, *current(vcpu).memory, start, bytes);
}

bool Kernel::advise_huge(Vcpu& vcpu, Gva start, u64 bytes, HugeAdvice advice) {
  const Mode mode(*this, vcpu);
  return memory_->advise_huge(vcpu, *current(vcpu).memory, start, bytes, advice);
}

bool Kernel::collapse(Vcpu& vcpu, Gva start, u64 bytes) {
  const Mode mode(*this, vcpu);
  return memory_->collapse(vcpu, *current(vcpu).memory, start, bytes);
}

bool Kernel::brk(Vcpu& vcpu, Gva end) {
  const Mode mode(*this, vcpu);
  return memory_->set_heap_end(vcpu, *current(vcpu).memory, end);
}

std::optional<Gva> Kernel::mremap(Vcpu& vcpu, Gva start, u64 old_bytes, u64 new_bytes,
                                  std::optional<Gva> to) {
  const Mode mode(*this, vcpu);
  return memory_->remap(vcpu, *current(vcpu).memory, start, old_bytes, new_bytes, to);
}

bool Kernel::toggle_software_bit(Vcpu& vcpu, Gva va) {
  const Mode mode(*this, vcpu);
  return memory_->toggle_software_bit(vcpu, *current(vcpu).memory, va);
}

u64 Kernel::inflate_balloon(Vcpu& vcpu, u64 pages) {
  const Mode mode(*this, vcpu);
  return memory_->balloon().inflate(vcpu, pages, memory_->reclaim().watermark());
}

u64 Kernel::deflate_balloon(Vcpu& vcpu, u64 pages) {
  const Mode mode(*this, vcpu);
  return memory_->balloon().deflate(vcpu, pages);
}

u64 Kernel::report_free_pages(Vcpu& vcpu) {
  const Mode mode(*this, vcpu);
  return memory_->balloon().report_free(vcpu);
}

void Kernel::getpid(Vcpu& vcpu) { const Mode mode(*this, vcpu); }

void Kernel::read_zeros(Vcpu& vcpu, Gva to, u64 bytes) {
  const Mode mode(*this, vcpu);
  vcpu.zero(to, bytes);
}

void Kernel::write_null(Vcpu& vcpu, Gva from, u64 bytes) {
  const Mode mode(*this, vcpu);
  // Linux, write_null: takes nothing from the buffer, not even a look at it.
  (void)from, (void)bytes;
}

void Kernel::handle_segv(Vcpu& vcpu, Gva stack) {
  const Mode mode(*this, vcpu);
  current(vcpu).signal_stack = stack;
}

void Kernel::sigreturn(Vcpu& vcpu) {
  const Mode mode(*this, vcpu);
  vcpu.load(current(vcpu).signal_stack - kSignalFrame);
}

/// The kernel's own access to user memory has faulted: no change of roots or stacks.
bool Kernel::fault_in_kernel(Vcpu& vcpu, const GuestFault& fault) {
  Process* p = cpu(vcpu).current;
  vcpu.fetch(kEntryText);
  vcpu.fetch(kKernelText);
  if (p == nullptr || fault.kind != GuestFault::Kind::PageFault || fault.address >= kUserEnd) {
    throw std::logic_error("the guest kernel faulted at address " +
                           std::to_string(fault.address.raw()));
  }
  return memory_->fault(vcpu, *p->memory, fault);
}

bool Kernel::on_fault(Vcpu& vcpu, const GuestFault& fault) {
  if (vcpu.privilege() == Privilege::Supervisor) return fault_in_kernel(vcpu, fault);
  const Mode mode(*this, vcpu, Mode::Why::Exception);
  Process& p = current(vcpu);
  if (p.killed) return false;
  if (fault.kind == GuestFault::Kind::PageFault && memory_->fault(vcpu, *p.memory, fault)) {
    return true;
  }
  if (p.signal_stack != Gva(0)) {
    vcpu.store<u64>(p.signal_stack - kSignalFrame, 0);
    return false;
  }
  // A signal that nobody handles ends the process with all its threads.
  for (const auto& other : processes_) other->killed |= other->leader == p.leader;
  ++statistics_.segfaults;
  return false;
}

void Kernel::on_ipi(Vcpu& vcpu) {
  const bool halted = !vcpu.in_guest();
  vcpu.set_halted(false);
  {
    const Mode mode(*this, vcpu, Mode::Why::Exception);
    vcpu.fetch(kEntryText);
    vcpu.fetch(kKernelText);
    memory_->tlb().on_ipi(vcpu);
  }
  if (halted) vcpu.set_halted(true);
}

}  // namespace mmuscope
