#include "results/live/kvm_machine.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bitset>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstring>
#include <utility>

#include "core/address.h"
#include "core/error.h"

namespace mmuscope {

namespace {

/// A descriptor of a statistic up to its name: in C++ the name, a flexible array, gives it padding.
constexpr std::size_t kDescriptorBytes = offsetof(kvm_stats_desc, bucket_size) + sizeof(u32);
/// kvm_cpuid2 without its flexible array, whose padding in C++ would get into the requests'
/// numbers.
struct CpuidHead {
  u32 count, padding;
};
constexpr unsigned long kGetSupportedCpuid = _IOWR(KVMIO, 0x05, CpuidHead);
constexpr unsigned long kSetCpuid = _IOW(KVMIO, 0x90, CpuidHead);
constexpr u32 kLeaves = 256;  // of CPUID: as many as KVM may want to tell of

[[noreturn]] void refuse(const std::string& what) {
  throw InputError(fmt::format("{}: {}", what, std::strerror(errno)));
}

template <class Argument>
int control(const Descriptor& fd, unsigned long request, const char* name, Argument argument) {
  const int result = ioctl(fd.get(), request, argument);
  if (result < 0) {
    const bool forbidden = errno == EPERM || errno == EACCES || errno == ENOSYS;
    refuse(fmt::format("this host's KVM refuses {}{}", name,
                       forbidden ? " (a sandbox may forbid it: leave that)" : ""));
  }
  return result;
}

Descriptor open_kvm() {
  const int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
  if (fd >= 0) return Descriptor(fd);
  const int why = errno;
  const char* help = "run on a host or in a VM whose kernel has KVM (modules kvm_intel, kvm_amd)";
  if (why == EACCES || why == EPERM)
    help = "become a member of the group kvm, or leave the sandbox";
  throw InputError(fmt::format("/dev/kvm cannot be opened: {}; {}", std::strerror(why), help));
}

// --- stubs ---------------------------------------------------------------------------------------

struct StubCode {
  Stub stub;
  bool supervisor;
  std::array<u8, 4> code;  // up to `out dx, al`, which gives control back
};
constexpr std::array kStubs = {
    StubCode{Stub::Fetch, false, {0xee}},
    StubCode{Stub::Read, false, {0x48, 0x8b, 0x03, 0xee}},   // mov rax, [rbx]
    StubCode{Stub::Write, false, {0x48, 0x89, 0x03, 0xee}},  // mov [rbx], rax
    StubCode{Stub::Cr3, true, {0x0f, 0x22, 0xd8, 0xee}},     // mov cr3, rax
    StubCode{Stub::Invlpg, true, {0x0f, 0x01, 0x3b, 0xee}},  // invlpg [rbx]
    StubCode{Stub::Cr0, true, {0x0f, 0x22, 0xc0, 0xee}},     // mov cr0, rax
    StubCode{Stub::Cr4, true, {0x0f, 0x22, 0xe0, 0xee}},     // mov cr4, rax
};
constexpr u64 kStubBytes = 16;
constexpr u16 kPort = 0x12;  // in the task state's bitmap
constexpr u64 kIopl3 = 3 << 12, kFlagAc = 1 << 18, kFlagOne = 2;

u64 address_of(Stub stub) { return kStubPage + kStubBytes * static_cast<u64>(stub); }

// --- delivery of faults --------------------------------------------------------------------------

// SDM vol. 3, "64-Bit Mode IDT", "Task Management in 64-bit Mode", "64-Bit Mode Stack Frame".
constexpr u8 kGeneralProtection = 13, kPageFaultVector = 14;
constexpr u64 kIdt = kStubPage + 0x100, kGdt = kStubPage + 0x200, kHandlers = kStubPage + 0x280;
constexpr u64 kTaskState = kStubPage + 0x300;
constexpr u16 kIdtLimit = 16 * (kPageFaultVector + 1) - 1;
/// Behind the task state stands a bitmap of ports, all permitted: a KVM that emulates CPL 0 may ask
/// it in spite of IOPL 3.
constexpr u16 kPortBitmap = 0x68, kTaskStateLimit = kPortBitmap + 32;
constexpr u16 kSupervisorCode = 0x08, kSupervisorData = 0x10, kUserCode = 0x18, kUserData = 0x20;
constexpr u16 kTask = 0x28;
/// Of the frame that the CPU pushes: SS, RSP, RFLAGS, CS, RIP and, last, the error code.
constexpr u64 kErrorCode = kHandlerStack - 6 * sizeof(u64);
constexpr u8 kFaultPort = 0x80;  // plus the vector

constexpr std::array<u64, 5> kDescriptors = {0, 0x00af'9b00'0000'ffff, 0x00cf'9300'0000'ffff,
                                             0x00af'fb00'0000'ffff, 0x00cf'f300'0000'ffff};

void put(const Mapping& memory, u64 gpa, u64 word) {
  std::memcpy(memory.data() + gpa, &word, sizeof word);
}

void lay_out_delivery(const Mapping& memory) {
  for (std::size_t i = 0; i < kDescriptors.size(); ++i) put(memory, kGdt + 8 * i, kDescriptors[i]);
  put(memory, kTaskState + 4, kHandlerStack);  // RSP0
  std::memcpy(memory.data() + kTaskState + 0x66, &kPortBitmap, sizeof kPortBitmap);
  for (const u8 vector : {kGeneralProtection, kPageFaultVector}) {
    const u64 handler = kHandlers + u64{16} * vector - u64{16} * kGeneralProtection;
    const std::array<u8, 2> out = {0xe6, static_cast<u8>(kFaultPort + vector)};  // out imm8, al
    std::memcpy(memory.data() + handler, out.data(), out.size());
    constexpr u64 kInterruptGate = 0x8e;
    const u64 gate = (handler & 0xffff) | u64{kSupervisorCode} << 16 | kInterruptGate << 40 |
                     (handler >> 16 & 0xffff) << 48;
    put(memory, kIdt + u64{16} * vector, gate);
  }
}

// --- registers -----------------------------------------------------------------------------------

kvm_segment segment(u16 selector, u8 type, bool supervisor) {
  kvm_segment s{};
  s.limit = 0xffff'ffff;
  s.selector = static_cast<u16>(selector | (supervisor ? 0 : 3));
  s.type = type;
  s.present = s.s = s.g = 1;
  s.dpl = supervisor ? 0 : 3;
  return s;
}

void set_segments(kvm_sregs& state, bool supervisor) {
  state.cs = segment(supervisor ? kSupervisorCode : kUserCode, 11, supervisor);
  state.cs.l = 1;
  state.ds = segment(supervisor ? kSupervisorData : kUserData, 3, supervisor);
  state.ds.db = 1;
  state.es = state.fs = state.gs = state.ss = state.ds;
}

void set_tables(kvm_sregs& state) {
  state.gdt.base = kGdt;
  state.gdt.limit = 8 * kDescriptors.size() - 1;
  state.idt.base = kIdt;
  state.idt.limit = kIdtLimit;
  state.tr = {};
  state.tr.base = kTaskState;
  state.tr.limit = kTaskStateLimit;
  state.tr.selector = kTask;
  state.tr.type = 11;  // a busy 64-bit task state
  state.tr.present = 1;
}

}  // namespace

bool runs_as_supervisor(Stub stub) { return kStubs[static_cast<std::size_t>(stub)].supervisor; }

// --- what is closed ------------------------------------------------------------------------------

Descriptor::~Descriptor() {
  if (fd_ >= 0) close(fd_);
}

Mapping::Mapping(std::size_t bytes) : bytes_(bytes) {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) refuse(fmt::format("no {} bytes of memory for the guest", bytes));
  data_ = static_cast<std::byte*>(p);
  madvise(p, bytes, MADV_NOHUGEPAGE);
  std::memset(p, 0, bytes);
}

Mapping::Mapping(int fd, std::size_t bytes) : bytes_(bytes) {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (p == MAP_FAILED) refuse("the vCPU's state cannot be mapped");
  data_ = static_cast<std::byte*>(p);
}

Mapping::Mapping(Mapping&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}

Mapping::~Mapping() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

// --- statistics ----------------------------------------------------------------------------------

KvmStats::KvmStats(Descriptor file) : file_(std::move(file)) {
  const auto take = [&](void* to, std::size_t bytes, std::size_t at) {
    const ssize_t got = pread(file_.get(), to, bytes, static_cast<off_t>(at));
    if (got != static_cast<ssize_t>(bytes)) refuse("KVM's statistics cannot be read");
  };
  kvm_stats_header header{};
  take(&header, sizeof header, 0);
  data_offset_ = header.data_offset;
  const std::size_t stride = kDescriptorBytes + header.name_size;
  std::vector<char> raw(stride);
  std::size_t words = 0;
  for (u32 i = 0; i < header.num_desc; ++i) {
    take(raw.data(), stride, header.desc_offset + i * stride);
    kvm_stats_desc desc{};
    std::memcpy(&desc, raw.data(), kDescriptorBytes);
    words = std::max(words, desc.offset / sizeof(u64) + desc.size);
    const char* name = raw.data() + kDescriptorBytes;
    const u32 type = desc.flags & KVM_STATS_TYPE_MASK, unit = desc.flags & KVM_STATS_UNIT_MASK;
    const bool counts = type == KVM_STATS_TYPE_CUMULATIVE || type == KVM_STATS_TYPE_INSTANT;
    if (!counts || unit != KVM_STATS_UNIT_NONE || desc.exponent != 0 || desc.size != 1) continue;
    entries_.push_back({std::string(name, strnlen(name, header.name_size)),
                        type == KVM_STATS_TYPE_INSTANT, desc.offset / sizeof(u64)});
  }
  data_.resize(words);
  read();
}

void KvmStats::read() {
  const std::size_t bytes = data_.size() * sizeof(u64);
  const ssize_t got = pread(file_.get(), data_.data(), bytes, static_cast<off_t>(data_offset_));
  if (got != static_cast<ssize_t>(bytes)) refuse("KVM's statistics cannot be read");
}

std::optional<KvmStats::Figure> KvmStats::find(std::string_view name) const {
  for (const Entry& e : entries_) {
    if (e.name == name) return Figure{data_[e.at], e.gauge};
  }
  return std::nullopt;
}

// --- the machine ---------------------------------------------------------------------------------

KvmMachine::KvmMachine(const Config& config, Mapping& memory)
    : kvm_(open_kvm()),
      vm_(control(kvm_, KVM_CREATE_VM, "KVM_CREATE_VM", 0)),
      memory_(memory),
      alignment_check_(config.alignment_check) {
  if (ioctl(kvm_.get(), KVM_CHECK_EXTENSION, KVM_CAP_BINARY_STATS_FD) <= 0) {
    throw InputError("this host's KVM has no KVM_GET_STATS_FD: Linux 5.14 or later has it");
  }
  set_slot(0);
  for (const StubCode& s : kStubs) {
    std::memcpy(memory_.data() + address_of(s.stub), s.code.data(), s.code.size());
  }
  lay_out_delivery(memory_);
  cpus_.reserve(config.vcpus);
  for (unsigned i = 0; i < config.vcpus; ++i) add_vcpu(config, i);
  vm_stats_.emplace_back(Descriptor(control(vm_, KVM_GET_STATS_FD, "KVM_GET_STATS_FD", 0)));
}

void KvmMachine::add_vcpu(const Config& config, unsigned index) {
  Descriptor fd(control(vm_, KVM_CREATE_VCPU, "KVM_CREATE_VCPU", index));
  const int bytes = control(kvm_, KVM_GET_VCPU_MMAP_SIZE, "KVM_GET_VCPU_MMAP_SIZE", 0);
  Mapping run(fd.get(), static_cast<std::size_t>(bytes));
  KvmStats stats(Descriptor(control(fd, KVM_GET_STATS_FD, "KVM_GET_STATS_FD", 0)));
  cpus_.push_back({std::move(fd), std::move(run), std::move(stats)});
  Cpu& cpu = cpus_.back();

  std::vector<std::byte> cpuid(sizeof(CpuidHead) + kLeaves * sizeof(kvm_cpuid_entry2));
  const CpuidHead head{kLeaves, 0};
  std::memcpy(cpuid.data(), &head, sizeof head);
  control(kvm_, kGetSupportedCpuid, "KVM_GET_SUPPORTED_CPUID", cpuid.data());
  control(cpu.fd, kSetCpuid, "KVM_SET_CPUID2", cpuid.data());

  control(cpu.fd, KVM_GET_SREGS, "KVM_GET_SREGS", &cpu.state);
  cpu.state.cr0 = config.cr0;
  cpu.state.cr3 = config.cr3;
  cpu.state.cr4 = config.cr4;
  cpu.state.efer = config.efer;
  set_segments(cpu.state, false);
  set_tables(cpu.state);
  control(cpu.fd, KVM_SET_SREGS, "KVM_SET_SREGS", &cpu.state);
}

void KvmMachine::set_slot(u32 flags) {
  kvm_userspace_memory_region slot{};
  slot.flags = flags;
  slot.memory_size = memory_.size();
  slot.userspace_addr = reinterpret_cast<u64>(memory_.data());
  control(vm_, KVM_SET_USER_MEMORY_REGION, "KVM_SET_USER_MEMORY_REGION", &slot);
}

void KvmMachine::set_privilege(Cpu& cpu, bool supervisor) {
  if (cpu.supervisor == supervisor) return;
  // Control registers as they are now: another value here would reset KVM's MMU.
  control(cpu.fd, KVM_GET_SREGS, "KVM_GET_SREGS", &cpu.state);
  set_segments(cpu.state, supervisor);
  control(cpu.fd, KVM_SET_SREGS, "KVM_SET_SREGS", &cpu.state);
  cpu.supervisor = supervisor;
}

AccessResult KvmMachine::run(unsigned index, Stub stub, u64 address, u64 value) {
  Cpu& cpu = cpus_[index];
  set_privilege(cpu, runs_as_supervisor(stub));
  kvm_regs regs{};
  regs.rip = stub == Stub::Fetch ? address : address_of(stub);
  regs.rax = value;
  regs.rbx = address;
  regs.rdx = kPort;
  regs.rflags = kFlagOne | kIopl3 | (alignment_check_ ? kFlagAc : 0);
  control(cpu.fd, KVM_SET_REGS, "KVM_SET_REGS", &regs);
  enter(cpu, index);
  return ending(cpu, index, stub);
}

void KvmMachine::enter(Cpu& cpu, unsigned index) {
  constexpr auto kPatience = std::chrono::seconds(5);
  const auto begin = std::chrono::steady_clock::now();
  const auto died = [&](const std::string& how) {
    throw RunError(fmt::format("the host's vCPU {} {}", index, how));
  };
  while (ioctl(cpu.fd.get(), KVM_RUN, 0) < 0) {
    if (errno != EINTR && errno != EAGAIN) {
      died(fmt::format("cannot be run: {}", std::strerror(errno)));
    }
    if (std::chrono::steady_clock::now() - begin > kPatience) died("did not come back within 5 s");
  }
}

AccessResult KvmMachine::ending(Cpu& cpu, unsigned index, Stub stub) {
  const auto died = [&](const std::string& how) {
    throw RunError(fmt::format("the host's vCPU {} {}", index, how));
  };
  AccessResult result;
  kvm_regs regs{};
  const auto* run = reinterpret_cast<const kvm_run*>(cpu.run.data());
  switch (run->exit_reason) {
    case KVM_EXIT_IO:
      if (run->io.direction != KVM_EXIT_IO_OUT) break;
      if (run->io.port == kFaultPort + kGeneralProtection ||
          run->io.port == kFaultPort + kPageFaultVector) {
        result.fault = delivered(cpu, static_cast<u8>(run->io.port - kFaultPort));
        return result;
      }
      if (run->io.port != kPort) break;
      result.done = true;
      if (stub != Stub::Read) return result;
      control(cpu.fd, KVM_GET_REGS, "KVM_GET_REGS", &regs);
      result.value = regs.rax;
      return result;
    case KVM_EXIT_SHUTDOWN:
      died("died (triple fault): the guest's tables forbid the page of the stubs or its handlers");
      break;
    case KVM_EXIT_INTERNAL_ERROR:
      died(fmt::format("met an instruction that KVM cannot emulate (suberror {})",
                       run->internal.suberror));
      break;
    case KVM_EXIT_MMIO:
      died(fmt::format("reached beyond its memory, guest-physical {:#x}", run->mmio.phys_addr));
      break;
    default:
      died(fmt::format("stopped with KVM's exit reason {}", run->exit_reason));
  }
  died(fmt::format("ran something else than its stub (port {})", unsigned{run->io.port}));
  return result;
}

GuestFault KvmMachine::delivered(Cpu& cpu, u8 vector) {
  control(cpu.fd, KVM_GET_SREGS, "KVM_GET_SREGS", &cpu.state);
  cpu.supervisor = true;
  u64 error_code = 0;
  std::memcpy(&error_code, memory_.data() + kErrorCode, sizeof error_code);
  GuestFault fault;
  fault.error_code = static_cast<u32>(error_code);
  if (vector == kGeneralProtection) {
    fault.kind = GuestFault::Kind::GeneralProtection;
  } else {
    fault.address = Gva(cpu.state.cr2);
  }
  return fault;
}

void KvmMachine::log_dirty(bool on) {
  set_slot(on ? KVM_MEM_LOG_DIRTY_PAGES : 0);
  logging_dirty_ = on;
}

u64 KvmMachine::harvest_dirty() {
  if (!logging_dirty_) return 0;
  std::vector<u64> bits((memory_.size() / kPageBytes + 63) / 64);
  kvm_dirty_log log{};
  log.dirty_bitmap = bits.data();
  control(vm_, KVM_GET_DIRTY_LOG, "KVM_GET_DIRTY_LOG", &log);
  u64 pages = 0;
  for (const u64 word : bits) pages += std::bitset<64>(word).count();
  return pages;
}

void KvmMachine::limit_shadow_pages(u64 pages) {
  control(vm_, KVM_SET_NR_MMU_PAGES, "KVM_SET_NR_MMU_PAGES", pages);
}

void KvmMachine::read_stats() {
  for (Cpu& cpu : cpus_) cpu.stats.read();
  vm_stats_.front().read();
}

std::optional<KvmStats::Figure> KvmMachine::stat(std::string_view name) const {
  if (const auto own = vm_stats_.front().find(name)) return own;
  std::optional<KvmStats::Figure> sum;
  for (const Cpu& cpu : cpus_) {
    const auto one = cpu.stats.find(name);
    if (!one) return std::nullopt;
    sum = KvmStats::Figure{one->value + (sum ? sum->value : 0), one->gauge};
  }
  return sum;
}

// --- the thread ----------------------------------------------------------------------------------

LiveThread::LiveThread() {
  sched_getaffinity(0, sizeof affinity_, &affinity_);
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(sched_getcpu(), &one);
  sched_setaffinity(0, sizeof one, &one);
  struct sigaction wake {};
  wake.sa_handler = [](int) {};  // without SA_RESTART: KVM_RUN returns
  sigaction(SIGALRM, &wake, &action_);
  const itimerval every{{1, 0}, {1, 0}};
  setitimer(ITIMER_REAL, &every, &timer_);
}

LiveThread::~LiveThread() {
  setitimer(ITIMER_REAL, &timer_, nullptr);
  sigaction(SIGALRM, &action_, nullptr);
  sched_setaffinity(0, sizeof affinity_, &affinity_);
}

}  // namespace mmuscope
