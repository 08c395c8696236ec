#include "tests/workloads/guest_audit.h"

#include <doctest/doctest.h>

#include <set>

#include "core/native_pager.h"

namespace mmuscope {

namespace {

class Audit {
 public:
  explicit Audit(Kernel& kernel) : kernel_(kernel), machine_(kernel.machine()) {}

  void run() {
    std::set<AddressSpace*> seen;
    for (const auto& p : kernel_.processes()) {
      if (p->memory) own_table(p->stack);
      if (p->memory && seen.insert(p->memory.get()).second) check_space(*p->memory);
    }
    for (const auto& [key, frame] : kernel_.memory().page_cache()) ++references_[frame];
    u64 frames = tables_.size();
    for (const auto& [frame, count] : references_) {
      CHECK(kernel_.memory().frames().references(frame) == count);
      frames += large_.count(frame) ? 512 : 1;
    }
    CHECK(kernel_.memory().frames().in_use() == frames);
  }

 private:
  void own_table(Gfn frame) {
    CHECK(tables_.insert(frame).second);
    CHECK(references_.count(frame) == 0);
    CHECK(kernel_.memory().frames().references(frame) == 1);
  }

  void check_space(AddressSpace& space) {
    space_ = &space;
    table_pages_ = 0;
    check_table(space.root, machine_.config().guest_levels, Gva(0));
    const Gpa kernel_user_root = kernel_.boot_image().user_root;
    REQUIRE((space.user_root != Gpa(0)) == (kernel_user_root != Gpa(0)));
    if (space.user_root != Gpa(0)) check_user_root(space);
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
    CHECK(leaf_level(vma->page()) == level);
    const Gfn frame = pte::frame_of(entry);
    if (entry & pte::kSpecial) {
      CHECK(frame == kernel_.memory().zero_page());
      CHECK(vma->source.kind == Source::Kind::Anonymous);
    } else {
      ++references_[frame];
      CHECK(tables_.count(frame) == 0);
      if (level == 2) large_.insert(frame);
    }
    CHECK(((entry & x86::kPresent) != 0) == (vma->rights != prot::kNone));
    CHECK(((entry & pte::kNoRights) != 0) == (vma->rights == prot::kNone));
    if (!(entry & x86::kPresent)) return;
    CHECK((entry & x86::kUser) != 0);
    CHECK(((entry & x86::kNoExec) == 0) == ((vma->rights & prot::kExec) != 0));
    if (entry & x86::kWrite) {
      CHECK((vma->rights & prot::kWrite) != 0);
      if (!vma->source.shared) CHECK(kernel_.memory().frames().references(frame) == 1);
    }
  }

  Kernel& kernel_;
  Machine& machine_;
  AddressSpace* space_ = nullptr;
  u64 table_pages_ = 0;
  std::set<Gfn> tables_, large_;
  std::map<Gfn, u32> references_;
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

}  // namespace mmuscope
