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
    CHECK(space.table_pages == table_pages_);
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
      CHECK(kernel_.memory().frames().references(frame) == 1);
    }
  }

  Kernel& kernel_;
  Machine& machine_;
  AddressSpace* space_ = nullptr;
  u64 table_pages_ = 0;
  std::set<Gfn> tables_, large_;
  std::map<Gfn, u32> references_;
};

MachineConfig native_config(unsigned vcpus, u64 memory, u64 quantum) {
  MachineConfig config;
  config.memory_bytes = memory;
  config.vcpus = vcpus;
  config.quantum = quantum;
  config.virtualized = false;
  return config;
}

}  // namespace

void audit(Kernel& kernel) { Audit(kernel).run(); }

Guest::Guest(unsigned vcpus, u64 memory, u64 quantum, ProcessListener* listener)
    : machine(native_config(vcpus, memory, quantum), make_native_pager),
      kernel(machine, listener) {}

}  // namespace mmuscope
