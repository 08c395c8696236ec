// A plugin of QEMU's user mode (TCG plugin interface, version 1) that writes what a program
// executes, loads, stores and asks of the kernel about memory and processes; qemu_log.h is the
// format. results/record compiles it and runs QEMU with it:
//
//   qemu-x86_64 -0 ARG0 -plugin PLUGIN,dir=FOLDER PROGRAM ARGS...
//
// Processes made by fork go on in files of their own. A program that is executed would leave the
// emulation, so the plugin itself executes QEMU, with itself, on that program instead.
//
// No Debian package has the interface's header, so what is used of it is declared here, after
// QEMU's documentation, *QEMU TCG Plugins*.

#include <elf.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "workloads/trace/qemu_log.h"

#define EXPORTED extern "C" __attribute__((visibility("default")))

using u64 = std::uint64_t;
using u32 = std::uint32_t;

extern "C" {
struct qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
void qemu_plugin_register_vcpu_tb_trans_cb(u64 id, void (*callback)(u64 id, qemu_plugin_tb*));
void qemu_plugin_register_vcpu_tb_exec_cb(qemu_plugin_tb*, void (*callback)(unsigned, void*),
                                          int flags, void* data);
void qemu_plugin_register_vcpu_mem_cb(qemu_plugin_insn*,
                                      void (*callback)(unsigned, u32, u64, void*), int flags,
                                      int direction, void* data);
void qemu_plugin_register_vcpu_syscall_cb(u64 id,
                                          void (*callback)(u64 id, unsigned, std::int64_t, u64, u64,
                                                           u64, u64, u64, u64, u64, u64));
void qemu_plugin_register_vcpu_syscall_ret_cb(u64 id, void (*callback)(u64 id, unsigned,
                                                                       std::int64_t, std::int64_t));
std::size_t qemu_plugin_tb_n_insns(const qemu_plugin_tb*);
qemu_plugin_insn* qemu_plugin_tb_get_insn(const qemu_plugin_tb*, std::size_t index);
u64 qemu_plugin_insn_vaddr(const qemu_plugin_insn*);
std::size_t qemu_plugin_insn_size(const qemu_plugin_insn*);
unsigned qemu_plugin_mem_size_shift(u32 info);
bool qemu_plugin_mem_is_store(u32 info);
}

EXPORTED int qemu_plugin_version;
int qemu_plugin_version = 1;

namespace {

using namespace mmuscope::qemu_log;

constexpr int kNoRegisters = 0;
constexpr int kReadsAndWrites = 3;
constexpr std::size_t kChunkWords = kChunkBytes / 8;

[[noreturn]] void die(const char* what, const char* name) {
  std::fprintf(stderr, "record: %s %s: %s\n", what, name, std::strerror(errno));
  _exit(125);
}

u64 now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<u64>(t.tv_sec) * 1000000000 + static_cast<u64>(t.tv_nsec);
}

/// A file of words that grows by chunks. It holds no descriptor: programs close and count theirs.
struct Stream {
  std::string path;
  u64* at = nullptr;
  u64* end = nullptr;  ///< of the chunk
  std::size_t chunks = 0;

  void next_chunk() {
    if (end != nullptr) munmap(end - kChunkWords, kChunkBytes);
    const int file = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    const std::size_t from = chunks++ * kChunkBytes;
    if (file < 0 || posix_fallocate(file, static_cast<off_t>(from), kChunkBytes) != 0) {
      die("cannot write", path.c_str());
    }
    void* map = mmap(nullptr, kChunkBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file,
                     static_cast<off_t>(from));
    if (map == MAP_FAILED) die("cannot map", path.c_str());
    close(file);
    at = static_cast<u64*>(map);
    end = at + kChunkWords;
  }
  void reserve(std::size_t words) {
    if (at + words > end) next_chunk();
  }
  void text(const std::string& s) {
    std::memset(at, 0, 8 * words_of(s.size()));
    std::memcpy(at, s.data(), s.size());
    at += words_of(s.size());
  }
};

/// One thread's log.
struct Log {
  Stream out;
  u64* limit = nullptr;  ///< where the next stamp or the next chunk is due
  u64 entered = 0;       ///< when the system call under way began
  u64 args[6] = {};
};

/// The process. It is copied by fork.
struct Recorder {
  std::string folder, plugin, qemu;
  std::string command;  ///< of the program
  pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
  Stream code;
  u64 code_stamp = 0;
  u64 blocks = 0;
  Start start = Start::Exec;  ///< how the next log's thread began
};

Recorder* recorder;
// initial-exec: the plain form costs a call for each record.
__attribute__((tls_model("initial-exec"))) thread_local Log* log_of_thread = nullptr;

std::string file_name(const char* form, u64 a, u64 b, u64 c) {
  char name[96];
  std::snprintf(name, sizeof name, form, a, b, c);
  return recorder->folder + "/" + name;
}

void open_code(u64 from_pid, u64 from_stamp, u64 inherited) {
  Recorder& r = *recorder;
  r.code_stamp = now();
  r.code = Stream{};
  r.code.path =
      file_name("%" PRIu64 ".%" PRIu64 ".code", static_cast<u64>(getpid()), r.code_stamp, 0);
  r.code.next_chunk();
  for (const u64 word : {kCodeMagic, from_pid, from_stamp, inherited}) *r.code.at++ = word;
}

void set_limit(Log& log) {
  log.limit = std::min(log.out.at + kWordsPerStamp, log.out.end - kMaxRecordWords);
}

void stamp(Log& log) {
  log.out.reserve(2 + kMaxRecordWords);
  const u64 cpu = static_cast<u64>(std::max(sched_getcpu(), 0)) & 0xffffff;
  *log.out.at++ = static_cast<u64>(Other::Stamp) | cpu << 8;
  *log.out.at++ = now();
  set_limit(log);
}

void put_call(Log& log, Other kind, u64 number, u64 time, u64 result, const u64* args,
              std::string text) {
  text.resize(std::min(text.size(), kMaxTextBytes));
  log.out.reserve(kMaxRecordWords);
  *log.out.at++ = static_cast<u64>(kind) | static_cast<u64>(text.size()) << 16 | number << 32;
  *log.out.at++ = time;
  *log.out.at++ = result;
  for (int i = 0; i < 6; ++i) *log.out.at++ = args[i];
  log.out.text(text);
}

// --- the image that the loader made --------------------------------------------------------------

/// A mapping of /proc/self/maps.
struct Mapping {
  u64 start = 0, end = 0, offset = 0;
  char rights[5] = {};
  std::string file;
};

std::vector<Mapping> own_mappings() {
  std::vector<Mapping> all;
  std::FILE* maps = std::fopen("/proc/self/maps", "re");
  if (maps == nullptr) die("cannot read", "/proc/self/maps");
  char line[4200];
  while (std::fgets(line, sizeof line, maps) != nullptr) {
    Mapping m;
    int path = 0;
    if (std::sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %*s %*s %n", &m.start, &m.end,
                    m.rights, &m.offset, &path) < 4) {
      continue;
    }
    m.file = line + path;
    if (!m.file.empty() && m.file.back() == '\n') m.file.pop_back();
    all.push_back(std::move(m));
  }
  std::fclose(maps);
  return all;
}

/// A part of a file, [start, end).
struct Range {
  u64 start, end;
};

/// The parts of an ELF file that its program header lets be executed, in whole pages: the emulator
/// maps the guest's code as data.
std::vector<Range> code_of(const std::string& path) {
  std::vector<Range> code;
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return code;
  Elf64_Ehdr header;
  if (pread(file, &header, sizeof header, 0) == sizeof header &&
      std::memcmp(header.e_ident, ELFMAG, SELFMAG) == 0) {
    for (unsigned i = 0; i < header.e_phnum; ++i) {
      Elf64_Phdr part;
      const auto at = static_cast<off_t>(header.e_phoff + i * sizeof part);
      if (pread(file, &part, sizeof part, at) != sizeof part) break;
      if (part.p_type != PT_LOAD || (part.p_flags & PF_X) == 0) continue;
      code.push_back(
          {part.p_offset & ~u64{0xfff}, (part.p_offset + part.p_filesz + 0xfff) & ~u64{0xfff}});
    }
  }
  close(file);
  return code;
}

void put_mapping(Log& log, const Mapping& m, bool code) {
  const u64 rights = (m.rights[0] == 'r' ? PROT_READ : 0) | (m.rights[1] == 'w' ? PROT_WRITE : 0) |
                     (code || m.rights[2] == 'x' ? PROT_EXEC : 0);
  const bool file = !m.file.empty() && m.file[0] == '/';
  const u64 flags = MAP_PRIVATE | MAP_FIXED | (file ? 0 : MAP_ANONYMOUS);
  const u64 args[6] = {m.start, m.end - m.start, rights, flags, ~u64{0}, file ? m.offset : 0};
  put_call(log, Other::Image, SYS_mmap, now(), m.start, args, file ? m.file : "");
  set_limit(log);
}

/// Writes a mapping in parts that are code or not.
void put_parts(Log& log, Mapping m) {
  for (const Range& code : code_of(m.file)) {
    const u64 end = m.offset + (m.end - m.start);
    if (code.start >= end || code.end <= m.offset) continue;
    Mapping part = m;
    const auto cut = [&](u64 to, bool is_code) {
      part.end = part.start + (to - part.offset);
      if (part.end > part.start) put_mapping(log, part, is_code);
      part.start = part.end;
      part.offset = to;
    };
    cut(std::max(code.start, m.offset), false);
    cut(std::min(code.end, end), true);
    m.start = part.start;
    m.offset = part.offset;
  }
  if (m.end > m.start) put_mapping(log, m, false);
}

/// Writes what is mapped for the guest, which is all that lies below the emulator itself.
void put_image(Log& log) {
  const std::vector<Mapping> all = own_mappings();
  u64 emulator = ~u64{0};
  for (const Mapping& m : all) {
    if (m.file == recorder->qemu) emulator = std::min(emulator, m.start);
  }
  for (const Mapping& m : all) {
    if (m.start < emulator) put_parts(log, m);
  }
}

// --- logs ----------------------------------------------------------------------------------------

Log* open_log() {
  Recorder& r = *recorder;
  pthread_mutex_lock(&r.lock);
  auto* log = new Log;
  log_of_thread = log;
  const Start start = r.start;
  r.start = Start::Thread;
  const u64 time = now();
  const u64 tid = static_cast<u64>(syscall(SYS_gettid));
  const u64 pid = static_cast<u64>(getpid());
  log->out.path = file_name("%" PRIu64 ".%" PRIu64 ".%" PRIu64 ".log", pid, tid, time);
  log->out.next_chunk();
  std::string command = r.command;
  command.resize(std::min(command.size(), kMaxTextBytes));
  for (const u64 word :
       {kLogMagic, pid | tid << 32, static_cast<u64>(start), r.code_stamp, time,
        static_cast<u64>(std::max(sched_getcpu(), 0)), static_cast<u64>(command.size())}) {
    *log->out.at++ = word;
  }
  log->out.text(command);
  if (start == Start::Exec) put_image(*log);
  stamp(*log);
  pthread_mutex_unlock(&r.lock);
  return log;
}

inline Log& own_log() {
  Log* log = log_of_thread;
  if (log == nullptr) [[unlikely]]
    log = open_log();
  return *log;
}

inline void put(Log& log, u64 word) {
  *log.out.at++ = word;
  if (log.out.at >= log.limit) [[unlikely]]
    stamp(log);
}

void on_block(unsigned, void* number) {
  put(own_log(), static_cast<u64>(Word::Execute) << kWordShift | reinterpret_cast<u64>(number));
}

void on_access(unsigned, u32 info, u64 address, void* insn) {
  const Word kind = qemu_plugin_mem_is_store(info) ? Word::Store : Word::Load;
  put(own_log(), static_cast<u64>(kind) << kWordShift | reinterpret_cast<u64>(insn) << kInsnShift |
                     u64{qemu_plugin_mem_size_shift(info)} << kSizeShift |
                     (address & kAddressMask));
}

void on_translate(u64, qemu_plugin_tb* tb) {
  Recorder& r = *recorder;
  const std::size_t count = std::min(qemu_plugin_tb_n_insns(tb), kMaxBlockInsns);
  pthread_mutex_lock(&r.lock);
  r.code.reserve(kMaxRecordWords);
  *r.code.at++ = kBlockMark | count;
  *r.code.at++ = qemu_plugin_insn_vaddr(qemu_plugin_tb_get_insn(tb, 0));
  for (std::size_t i = 0; i < count; ++i) {
    qemu_plugin_insn* insn = qemu_plugin_tb_get_insn(tb, i);
    if (i % 16 == 0) *r.code.at++ = 0;
    r.code.at[-1] |= u64{qemu_plugin_insn_size(insn)} << 4 * (i % 16);
    qemu_plugin_register_vcpu_mem_cb(insn, on_access, kNoRegisters, kReadsAndWrites,
                                     reinterpret_cast<void*>(i));
  }
  const u64 number = r.blocks++;
  pthread_mutex_unlock(&r.lock);
  qemu_plugin_register_vcpu_tb_exec_cb(tb, on_block, kNoRegisters, reinterpret_cast<void*>(number));
}

// --- fork ----------------------------------------------------------------------------------------

void before_fork() { pthread_mutex_lock(&recorder->lock); }
void in_parent() { pthread_mutex_unlock(&recorder->lock); }

/// What the child has mapped of the logs is its parent's to write.
void in_child() {
  Recorder& r = *recorder;
  r.lock = PTHREAD_MUTEX_INITIALIZER;
  log_of_thread = nullptr;
  r.start = Start::Fork;
  open_code(static_cast<u64>(getppid()), r.code_stamp, r.blocks);
}

// --- execve --------------------------------------------------------------------------------------

/// Reads the program's memory; false where it has none.
bool peek(u64 address, void* to, std::size_t bytes) {
  const iovec local{to, bytes};
  const iovec remote{reinterpret_cast<void*>(address), bytes};
  return process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == static_cast<ssize_t>(bytes);
}

bool peek_text(u64 address, std::string& text) {
  for (char c;; text.push_back(c), ++address) {
    if (!peek(address, &c, 1)) return false;
    if (c == '\0') return true;
  }
}

bool peek_texts(u64 address, std::vector<std::string>& texts) {
  if (address == 0) return true;
  for (;; address += 8) {
    u64 pointer = 0;
    if (!peek(address, &pointer, 8)) return false;
    if (pointer == 0) return true;
    if (!peek_text(pointer, texts.emplace_back())) return false;
  }
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> list;
  for (std::string& text : texts) list.push_back(text.data());
  list.push_back(nullptr);
  return list;
}

std::string first_bytes(const std::string& path) {
  struct stat status;
  std::string bytes(256, '\0');
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return {};
  const bool regular = fstat(file, &status) == 0 && S_ISREG(status.st_mode);
  const ssize_t got = regular ? read(file, bytes.data(), bytes.size()) : 0;
  close(file);
  bytes.resize(static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
  return bytes;
}

/// Replaces a script by its interpreter, as the kernel does; false if it is none.
bool unfold_script(std::string& path, std::vector<std::string>& args, const std::string& head) {
  if (head.compare(0, 2, "#!") != 0) return false;
  std::string line = head.substr(2, std::min(head.find('\n'), head.size()) - 2);
  const auto trim = [](std::string& s) {
    s.erase(0, std::min(s.find_first_not_of(" \t"), s.size()));
    s.erase(s.find_last_not_of(" \t") + 1);
  };
  trim(line);
  const std::size_t space = std::min(line.find_first_of(" \t"), line.size());
  std::string option = line.substr(space);
  trim(option);
  if (args.empty()) args.emplace_back();
  args[0] = path;
  if (!option.empty()) args.insert(args.begin(), option);
  path = line.substr(0, space);
  args.insert(args.begin(), path);
  return true;
}

/// Executes the program under QEMU with this plugin. Returns if it cannot be: the program's own
/// call then fails, or leaves the recording with a program for another kind of machine.
void execute(std::string path, std::vector<std::string> args,
             std::vector<std::string> environment) {
  for (int depth = 0; depth < 5; ++depth) {
    if (access(path.c_str(), X_OK) != 0) return;
    const std::string head = first_bytes(path);
    if (unfold_script(path, args, head)) continue;
    Elf64_Ehdr elf;
    if (head.size() < sizeof elf) return;
    std::memcpy(&elf, head.data(), sizeof elf);
    if (std::memcmp(elf.e_ident, ELFMAG, SELFMAG) != 0 || elf.e_ident[EI_CLASS] != ELFCLASS64 ||
        elf.e_machine != EM_X86_64) {
      return;
    }
    const Recorder& r = *recorder;
    std::vector<std::string> all = {
        r.qemu, "-0", args.empty() ? path : args[0], "-plugin", r.plugin + ",dir=" + r.folder,
        path};
    if (!args.empty()) all.insert(all.end(), args.begin() + 1, args.end());
    execve(r.qemu.c_str(), pointers(all).data(), pointers(environment).data());
    return;
  }
}

void on_execve(u64 path_at, u64 args_at, u64 environment_at) {
  std::string path;
  std::vector<std::string> args, environment;
  if (peek_text(path_at, path) && peek_texts(args_at, args) &&
      peek_texts(environment_at, environment)) {
    execute(std::move(path), std::move(args), std::move(environment));
  }
}

void on_execveat(u64 folder, u64 path_at, u64 args_at, u64 environment_at, u64 flags) {
  std::string path;
  std::vector<std::string> args, environment;
  if (!peek_text(path_at, path) || !peek_texts(args_at, args) ||
      !peek_texts(environment_at, environment)) {
    return;
  }
  const std::string base = "/proc/self/fd/" + std::to_string(static_cast<int>(folder));
  if (path.empty() && (flags & AT_EMPTY_PATH) != 0) {
    path = base;
  } else if (path[0] != '/' && static_cast<int>(folder) != AT_FDCWD) {
    path = base + "/" + path;
  }
  execute(std::move(path), std::move(args), std::move(environment));
}

// --- system calls --------------------------------------------------------------------------------

void on_syscall(u64, unsigned, std::int64_t number, u64 a0, u64 a1, u64 a2, u64 a3, u64 a4, u64 a5,
                u64, u64) {
  Log& log = own_log();
  log.entered = now();
  const u64 args[6] = {a0, a1, a2, a3, a4, a5};
  std::copy(args, args + 6, log.args);
  if (number == SYS_exit || number == SYS_exit_group) {
    put_call(log, Other::Call, static_cast<u64>(number), log.entered, 0, args, "");
    set_limit(log);
  } else if (number == SYS_execve) {
    on_execve(a0, a1, a2);
  } else if (number == SYS_execveat) {
    on_execveat(a0, a1, a2, a3, a4);
  }
}

/// The file behind a descriptor.
std::string file_of(u64 descriptor) {
  char path[4096];
  const std::string link = "/proc/self/fd/" + std::to_string(static_cast<int>(descriptor));
  const ssize_t length = readlink(link.c_str(), path, sizeof path);
  return length > 0 ? std::string(path, static_cast<std::size_t>(length)) : std::string();
}

/// A call that takes memory away, or makes a thread, counts from its beginning: others act on it
/// before it returns. One that gives memory counts from its end.
void on_return(u64, unsigned, std::int64_t number, std::int64_t result) {
  Log& log = own_log();
  const auto put_result = [&](u64 time, const std::string& text) {
    put_call(log, Other::Call, static_cast<u64>(number), time, static_cast<u64>(result), log.args,
             text);
  };
  switch (number) {
    case SYS_mmap:
      if (result >= 0) {
        put_result(now(), (log.args[3] & MAP_ANONYMOUS) != 0 ? "" : file_of(log.args[4]));
      }
      break;
    case SYS_mprotect:
    case SYS_brk:
    case SYS_mremap:
      if (result >= 0) put_result(now(), "");
      break;
    case SYS_munmap:
    case SYS_madvise:
      if (result >= 0) put_result(log.entered, "");
      break;
    case SYS_clone:
    case SYS_fork:
    case SYS_vfork:
      if (result > 0) put_result(log.entered, "");
      break;
    default:
      break;
  }
  stamp(log);
}

std::string own_path() {
  char path[4096];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof path);
  return std::string(path, static_cast<std::size_t>(std::max<ssize_t>(length, 0)));
}

/// QEMU's own command line is: qemu -0 ARG0 -plugin PLUGIN PROGRAM ARGS...
void read_command() {
  std::FILE* file = std::fopen("/proc/self/cmdline", "re");
  if (file == nullptr) return;
  std::vector<std::string> args(1);
  for (int c; (c = std::fgetc(file)) != EOF;) {
    if (c == '\0') {
      args.emplace_back();
    } else {
      args.back().push_back(static_cast<char>(c));
    }
  }
  std::fclose(file);
  args.pop_back();
  if (args.size() < 6) return;
  recorder->plugin = args[4].substr(0, args[4].find(','));
  recorder->command = args[5];
  for (std::size_t i = 6; i < args.size(); ++i) recorder->command += " " + args[i];
}

}  // namespace

EXPORTED int qemu_plugin_install(u64 id, const qemu_info_t*, int argc, char** argv) {
  recorder = new Recorder;
  for (int i = 0; i < argc; ++i) {
    if (std::strncmp(argv[i], "dir=", 4) == 0) recorder->folder = argv[i] + 4;
  }
  if (recorder->folder.empty()) {
    std::fprintf(stderr, "record: the plugin needs dir=FOLDER\n");
    return 1;
  }
  recorder->qemu = own_path();
  read_command();
  open_code(0, 0, 0);
  pthread_atfork(before_fork, in_parent, in_child);
  qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate);
  qemu_plugin_register_vcpu_syscall_cb(id, on_syscall);
  qemu_plugin_register_vcpu_syscall_ret_cb(id, on_return);
  return 0;
}
