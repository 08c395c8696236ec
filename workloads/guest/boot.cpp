#include "workloads/guest/boot.h"

#include <string>

#include "core/error.h"
#include "workloads/guest/direct_map.h"

namespace mmuscope {

namespace {

constexpr u64 kTable = x86::kPresent | x86::kWrite | x86::kAccessed | x86::kDirty;
constexpr u64 kData = kTable | x86::kNoExec;
constexpr u64 kText = kTable & ~x86::kWrite;

/// Builds tables through the harness's door, out of frames from the bottom; memory for large pages
/// comes from the top.
class BootTables {
 public:
  explicit BootTables(Machine& machine)
      : machine_(machine),
        levels_(machine.config().guest_levels),
        memory_(machine.config().memory_bytes & ~(kPageBytes - 1)),
        end_(Gpa(memory_).frame()) {
    require(machine.config().swap_bytes < memory_);
    end_ = Gpa((memory_ - machine.config().swap_bytes) & ~(kPageBytes - 1)).frame();
  }

  Gfn new_frame() {
    require(next_ + 1 <= end_);
    next_ = next_ + 1;
    return Gfn(next_.raw() - 1);
  }
  /// Whole 2-MByte pages, naturally aligned.
  Gpa new_large(u64 bytes) {
    constexpr u64 kLarge = page_bytes(PageSize::k2M);
    const u64 top = end_.base().raw() / kLarge * kLarge;
    bytes = (bytes + kLarge - 1) / kLarge * kLarge;
    require(bytes < top && next_ <= Gpa(top - bytes).frame());
    end_ = Gpa(top - bytes).frame();
    return Gpa(top - bytes);
  }
  Gpa new_table() {
    ++tables_;
    return new_frame().base();
  }

  /// Where the entry of `level` for the address is, after making the tables that it lacks.
  Gpa slot(Gpa root, Gva va, unsigned level) {
    Gpa table = root;
    for (unsigned l = levels_; l > level; --l) {
      const Gpa where = table + 8 * table_index(va, l);
      u64 entry = machine_.host_read(where);
      if (entry == 0) {
        entry = new_table().raw() | kTable;
        machine_.host_write(where, entry);
      }
      table = Gpa(entry & x86::kAddressMask);
    }
    return table + 8 * table_index(va, level);
  }
  void map(Gpa root, Gva va, Gpa to, PageSize size, u64 flags) {
    const u64 large = size == PageSize::k4K ? 0 : x86::kLarge;
    machine_.host_write(slot(root, va, leaf_level(size)), to.raw() | flags | large);
  }
  void map_range(Gpa root, Gva va, Gpa to, u64 bytes, PageSize size, u64 flags) {
    for (u64 at = 0; at < bytes; at += page_bytes(size)) map(root, va + at, to + at, size, flags);
  }
  void map_memory(Gpa root, u64 flags) {
    const bool has_1g = machine_.cpu().pages_1g;
    for (u64 at = 0; at < memory_;) {
      const auto fits = [&](PageSize s) {
        return at % page_bytes(s) == 0 && at + page_bytes(s) <= memory_;
      };
      const PageSize size = has_1g && fits(PageSize::k1G) ? PageSize::k1G
                            : fits(PageSize::k2M)         ? PageSize::k2M
                                                          : PageSize::k4K;
      map(root, direct_map(Gpa(at)), Gpa(at), size, flags);
      at += page_bytes(size);
    }
  }
  /// User mode's root: of the kernel half it has the entry code and the CPUs' entry areas. Linux,
  /// pti_clone_user_shared and pti_clone_entry_text.
  void share_with_user(Gpa root, Gpa user_root, Gpa entry_text) {
    constexpr Gva kAreas(kCpuEntryAreas);
    machine_.host_write(slot(user_root, kAreas, 4), machine_.host_read(slot(root, kAreas, 4)));
    map(user_root, kEntryText, entry_text, PageSize::k2M, kText | x86::kGlobal);
  }

  u64 tables() const { return tables_; }
  Gfn next() const { return next_; }
  Gfn end() const { return end_; }
  u64 memory() const { return memory_; }

 private:
  void require(bool enough) const {
    if (enough) return;
    throw RunError("guest memory of " + std::to_string(memory_) +
                   " bytes is too small for the kernel's tables and text");
  }

  Machine& machine_;
  unsigned levels_;
  u64 memory_;
  Gfn next_{
      2};  // frame 0 stays unused: an entry that points to it is a mistake; roots are in pairs
  Gfn end_;
  u64 tables_ = 0;
};

}  // namespace

BootImage write_boot_image(Machine& machine) {
  BootTables tables(machine);
  BootImage image;
  const bool kpti = machine.config().kpti;
  const u64 global = kpti ? 0 : x86::kGlobal;
  image.root = tables.new_table();
  if (kpti) image.user_root = tables.new_table();
  tables.map_memory(image.root, kData | global);

  const u64 structs = tables.memory() / kPageBytes * kPageStructBytes;
  constexpr u64 kLarge = page_bytes(PageSize::k2M);
  const Gpa text = tables.new_large(2 * kLarge);
  tables.map_range(image.root, Gva(kPageStructs), tables.new_large(structs), structs, PageSize::k2M,
                   kData | global);
  tables.map(image.root, kKernelText, text, PageSize::k2M, kText | global);
  tables.map(image.root, kEntryText, text + kLarge, PageSize::k2M, kText | x86::kGlobal);
  for (unsigned i = 0; i < machine.vcpu_count(); ++i) {
    tables.map(image.root, cpu_entry_area(i), tables.new_frame().base(), PageSize::k4K,
               kData | x86::kGlobal);
  }
  if (kpti) tables.share_with_user(image.root, image.user_root, text + kLarge);
  image.swap = Gpa((tables.memory() - machine.config().swap_bytes) & ~(kPageBytes - 1)).frame();
  image.swap_pages = Gpa(tables.memory()).frame() - image.swap;
  image.table_pages = tables.tables();
  image.zero_page = tables.new_frame();
  image.first_free = tables.next();
  image.end_free = tables.end();
  return image;
}

Controls kernel_controls(unsigned levels) {
  Controls c;
  c.wp = true;
  c.nxe = true;
  c.smep = true;
  c.pge = true;
  c.levels = static_cast<u8>(levels);
  return c;
}

bool kernel_uses_pcid(const Machine& machine) {
  return machine.config().pcid && machine.cpu().pcid;
}

}  // namespace mmuscope
