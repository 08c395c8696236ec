#include "tests/workloads/guest_audit.h"

#include <doctest/doctest.h>

#include <set>

#include "core/native_pager.h"

namespace mmuscope {

namespace {

class Audit {
 public:
  explicit Audit(Kernel& kernel)
      : kernel_(kernel), machine_(kernel.machine()), frames_(kernel.memory().frames()) {}

  void run() {
    std::set<AddressSpace*> seen;
    for (const auto& p : kernel_.processes()) {
      if (p->memory) own_table(p->stack);
      if (p->memory && seen.insert(p->memory.get()).second) check_space(*p->memory);
    }
    for (const auto& [key, frame] : kernel_.memory().page_cache()) ++references_[frame];
    for (const Gfn frame : kernel_.memory().balloon().pages()) ++references_[frame];
    if (const auto zeros = kernel_.memory().huge_zero()) ++references_[*zeros];
    u64 frames = tables_.size();
    for (const auto& [frame, count] : references_) {
      CHECK(frames_.references(frame) == count);
      frames += frames_.is_large(frame) ? kEntriesPerTable : 1;
    }
    CHECK(frames_.in_use() == frames);
    for (const Gfn frame : written_) CHECK(mappings_[frame] == 1);
    const Reclaim& reclaim = kernel_.memory().reclaim();
    CHECK(reclaim.slots_in_use() == swapped_.size());
    for (const auto& [entry, count] : swapped_) CHECK(reclaim.users(entry) == count);
    for (const auto& [frame, count] : private_) {
      if (reclaim.on() && !frames_.is_large(frame)) CHECK(reclaim.mappings(frame) == count);
    }
  }

 private:
  void own_table(Gfn frame) {
    CHECK(tables_.insert(frame).second);
    CHECK(references_.count(frame) == 0);
    CHECK(frames_.references(frame) == 1);
    CHECK_FALSE(frames_.is_large(frame));
  }

  void check_space(AddressSpace& space) {
    space_ = &space;
    table_pages_ = 0;
    check_table(space.root, machine_.config().guest_levels, Gva(0));
    const Gpa kernel_user_root = kernel_.boot_image().user_root;
    REQUIRE((space.user_root != Gpa(0)) == (kernel_user_root != Gpa(0)));
    if (space.user_root != Gpa(0)) check_user_root(space);
    for (const auto& [va, table] : space.spare_tables) {
      own_table(table.frame());
      ++table_pages_;
      CHECK(huge_.count({&space, va}) == 1);
    }
    CHECK(space.table_pages == table_pages_);
  }

  /// User mode's root has the same user half, which only it may run, and the entry code.
  void check_user_root(const AddressSpace& space) {
    CHECK(space.user_root == space.root + kPageBytes);
    CHECK(space.root.raw() % (2 * kPageBytes) == 0);
    own_table(space.user_root.frame());
    ++table_pages_;
    for (unsigned i = 0; i < kEntriesPerTable; ++i) {
      const u64 user = machine_.host_read(space.user_root + 8 * i);
      const u64 kernel = machine_.host_read(space.root + 8 * i);
      if (i >= kFirstKernelEntry) {
        CHECK(user == machine_.host_read(kernel_.boot_image().user_root + 8 * i));
      } else {
        constexpr u64 kSetByCpu = x86::kAccessed;
        CHECK((user & ~kSetByCpu) == (kernel & ~(kSetByCpu | x86::kNoExec)));
        CHECK(((kernel & x86::kNoExec) != 0) == (kernel != 0));
      }
    }
  }

  void check_table(Gpa table, unsigned level, Gva base) {
    own_table(table.frame());
    ++table_pages_;
    const u64 reach = u64{1} << (kPageShift + 9 * (level - 1));
    for (unsigned i = 0; i < kEntriesPerTable; ++i) {
      const u64 entry = machine_.host_read(table + 8 * i);
      if (level == machine_.config().guest_levels && i >= kFirstKernelEntry) {
        CHECK(entry == machine_.host_read(kernel_.boot_image().root + 8 * i));
        continue;
      }
      if (entry == 0) continue;
      const Gva va = base + i * reach;
      if (level == 1 || (entry & x86::kLarge)) {
        check_leaf(entry, level, va);
      } else {
        CHECK((entry & 7) == 7);
        CHECK_FALSE(space_->vmas.is_free(va, va + reach));
        check_table(Gpa(entry & x86::kAddressMask), level - 1, va);
      }
    }
  }

  void check_leaf(u64 entry, unsigned level, Gva va) {
    const Vma* vma = space_->vmas.find(va);
    REQUIRE(vma != nullptr);
    const bool huge = level == 2 && vma->source.kind == Source::Kind::Anonymous;
    if (huge) {
      CHECK(vma->end - va >= page_bytes(PageSize::k2M));
      CHECK(space_->spare_tables.count(va) == 1);
      huge_.insert({space_, va});
    } else {
      CHECK(leaf_level(vma->page()) == level);
    }
    if (pte::is_swapped(entry)) {
      CHECK(level == 1);
      CHECK_FALSE(vma->source.shared);
      ++swapped_[entry];
      return;
    }
    const Gfn frame = pte::frame_of(entry);
    if (entry & pte::kSpecial) {
      CHECK(frame == (huge ? *kernel_.memory().huge_zero() : kernel_.memory().zero_page()));
      CHECK(vma->source.kind == Source::Kind::Anonymous);
    } else {
      ++references_[frames_.head(frame)];
      CHECK(tables_.count(frame) == 0);
      if (vma->source.kind == Source::Kind::Anonymous) ++private_[frame];
      if (level == 2) CHECK(frames_.head(frame) == frame);
      for (u64 i = 0; i < (level == 2 ? kEntriesPerTable : 1); ++i) ++mappings_[frame + i];
    }
    CHECK(((entry & x86::kPresent) != 0) == (vma->rights != prot::kNone));
    CHECK(((entry & pte::kNoRights) != 0) == (vma->rights == prot::kNone));
    if (!(entry & x86::kPresent)) return;
    CHECK((entry & x86::kUser) != 0);
    CHECK(((entry & x86::kNoExec) == 0) == ((vma->rights & prot::kExec) != 0));
    if (entry & x86::kWrite) {
      CHECK((vma->rights & prot::kWrite) != 0);
      CHECK_FALSE((entry & pte::kSpecial));
      if (!vma->source.shared) written_.insert(frame);
      if (!vma->source.shared && !frames_.is_large(frame)) CHECK(frames_.references(frame) == 1);
    }
  }

  Kernel& kernel_;
  Machine& machine_;
  AddressSpace* space_ = nullptr;
  u64 table_pages_ = 0;
  FrameAllocator& frames_;
  std::set<Gfn> tables_;
  std::set<std::pair<AddressSpace*, Gva>> huge_;  // transparent huge pages
  std::map<Gfn, u32> references_;                 // by the first frame of a large one
  std::map<Gfn, u32> mappings_;                   // by frame, of a large one each
  std::map<Gfn, u32> private_;                    // anonymous ones: entries that map them
  std::map<u64, u32> swapped_;                    // by swapped entry
  std::set<Gfn> written_;                         // private, and writable for someone
};

MachineConfig native_config(unsigned vcpus, u64 memory, u64 quantum, bool kpti, bool pcid) {
  MachineConfig config;
  config.kpti = kpti;
  config.pcid = pcid;
  config.memory_bytes = memory;
  config.vcpus = vcpus;
  config.quantum = quantum;
  config.virtualized = false;
  return config;
}

}  // namespace

void audit(Kernel& kernel) { Audit(kernel).run(); }

Guest::Guest(unsigned vcpus, u64 memory, u64 quantum, ProcessListener* listener, bool kpti,
             bool pcid)
    : machine(native_config(vcpus, memory, quantum, kpti, pcid), make_native_pager),
      kernel(machine, listener) {}

Guest::Guest(MachineConfig config)
    : machine((config.virtualized = false, config), make_native_pager), kernel(machine, nullptr) {}

}  // namespace mmuscope
