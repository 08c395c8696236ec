#include "workloads/guest/boot.h"

#include <string>

#include "core/error.h"
#include "workloads/guest/direct_map.h"

namespace mmuscope {

namespace {

constexpr u64 kKernelTable = x86::kPresent | x86::kWrite | x86::kAccessed | x86::kDirty;
constexpr u64 kKernelPage = kKernelTable | x86::kGlobal | x86::kNoExec;

class DirectMapWriter {
 public:
  explicit DirectMapWriter(Machine& machine)
      : machine_(machine), memory_(machine.config().memory_bytes & ~(kPageBytes - 1)) {}

  Gpa new_table() {
    if ((next_ + 1).base().raw() > memory_) {
      throw RunError("guest memory of " + std::to_string(memory_) +
                     " bytes is too small for the kernel's tables");
    }
    const Gpa table = next_.base();
    next_ = next_ + 1;
    return table;
  }

  /// Fills the table of `level` with the map of physical memory from `from` on, as far as it and
  /// the table reach. `first` is the entry for `from`.
  void fill(Gpa table, unsigned level, unsigned first, u64 from) {
    const u64 step = u64{1} << (kPageShift + 9 * (level - 1));
    for (unsigned i = first; i < kEntriesPerTable && from < memory_; ++i, from += step) {
      u64 entry;
      if (can_be_leaf(level) && from + step <= memory_) {
        entry = from | kKernelPage | (level > 1 ? x86::kLarge : 0);
      } else {
        const Gpa below = new_table();
        fill(below, level - 1, 0, from);
        entry = below.raw() | kKernelTable;
      }
      machine_.host_write(table + 8 * i, entry);
    }
  }

  Gfn next() const { return next_; }

 private:
  bool can_be_leaf(unsigned level) const {
    return level <= 2 || (level == 3 && machine_.cpu().pages_1g);
  }

  Machine& machine_;
  u64 memory_;
  Gfn next_{1};  // frame 0 stays unused: an entry that points to it is a mistake
};

}  // namespace

BootImage write_boot_image(Machine& machine) {
  DirectMapWriter writer(machine);
  BootImage image;
  image.root = writer.new_table();
  Gpa table = image.root;
  for (unsigned level = machine.config().guest_levels; level > 4; --level) {
    const Gpa below = writer.new_table();
    machine.host_write(table + 8 * table_index(Gva(kDirectMapBase), level),
                       below.raw() | kKernelTable);
    table = below;
  }
  writer.fill(table, 4, table_index(Gva(kDirectMapBase), 4), 0);
  image.table_pages = writer.next() - image.root.frame();
  image.zero_page = writer.new_table().frame();
  image.first_free = writer.next();
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

}  // namespace mmuscope
