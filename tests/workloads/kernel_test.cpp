#include <doctest/doctest.h>

#include "core/error.h"
#include "core/native_pager.h"
#include "tests/workloads/guest_audit.h"

using namespace mmuscope;

namespace {

constexpr u8 kReadWrite = prot::kRead | prot::kWrite;
constexpr Gva kAt{0x10000000};

/// Runs the closures as one process, with an audit after each.
void run_steps(Guest& guest, std::vector<Steps::Step> steps) {
  for (auto& step : steps) {
    step = [inner = std::move(step)](Kernel& k, Vcpu& v) {
      inner(k, v);
      audit(k);
    };
  }
  guest.kernel.spawn("steps", std::make_unique<Steps>(std::move(steps)));
  guest.kernel.run();
  audit(guest.kernel);
}

u64 entry_of(Kernel& k, Vcpu& v, Gva va) {
  Gpa table = k.current(v).memory->root;
  for (unsigned level = 4;; --level) {
    const u64 entry = k.machine().host_read(table + 8 * table_index(va, level));
    if (level == 1 || !(entry & x86::kPresent) || (entry & x86::kLarge)) return entry;
    table = Gpa(entry & x86::kAddressMask);
  }
}

}  // namespace

TEST_CASE("demand paging sets what Linux sets") {
  Guest guest;
  run_steps(guest, {[](Kernel& k, Vcpu& v) {
              REQUIRE(k.mmap(v, kAt, 8 * kPageBytes, kReadWrite) == kAt);
              CHECK(entry_of(k, v, kAt) == 0);
              CHECK(v.load(kAt) == 0);
              // The zero page, read-only.
              CHECK(pte::frame_of(entry_of(k, v, kAt)) == k.memory().zero_page());
              CHECK((entry_of(k, v, kAt) & (x86::kWrite | x86::kAccessed)) == x86::kAccessed);
              v.store<u64>(kAt, 7);
              CHECK(v.load(kAt) == 7);
              CHECK(v.load(kAt + 8) == 0);
              const u64 all = x86::kPresent | x86::kWrite | x86::kUser | x86::kAccessed |
                              x86::kDirty | x86::kNoExec;
              CHECK((entry_of(k, v, kAt) & ~x86::kAddressMask) == all);
              v.store<u64>(kAt + kPageBytes, 8);
              CHECK((entry_of(k, v, kAt + kPageBytes) & ~x86::kAddressMask) == all);
              CHECK(v.load(kAt) == 7);
            }});
  CHECK(guest.kernel.statistics().first_touches == 2);
  CHECK(guest.kernel.statistics().copies == 1);
  CHECK(guest.machine.counters()[Event::GuestPageFault] == 3);
  CHECK(guest.kernel.memory().frames().in_use() == 0);
}

TEST_CASE("frames are reused in the opposite order of their freeing") {
  FrameAllocator frames(Gfn(3), Gfn(2048));
  const Gfn a = frames.allocate(), b = frames.allocate();
  CHECK(a == Gfn(3));
  CHECK(b == Gfn(4));
  frames.release(a);
  frames.release(b);
  CHECK(frames.allocate() == b);
  CHECK(frames.allocate() == a);
  frames.share(a);
  frames.release(a);
  CHECK(frames.references(a) == 1);
  CHECK(frames.allocate(PageSize::k2M) == Gfn(1536));
}

TEST_CASE("all memory can be given out, once") {
  for (const u64 end : {u64{100}, u64{512}, u64{1024}, u64{1600}}) {
    FrameAllocator frames(Gfn(7), Gfn(end));
    std::vector<bool> given(end);
    for (u64 i = 7; i < end; ++i) {
      const Gfn f = frames.allocate();
      REQUIRE(f.raw() >= 7);
      REQUIRE(f.raw() < end);
      CHECK_FALSE(given[f.raw()]);
      given[f.raw()] = true;
    }
    CHECK_THROWS_AS(frames.allocate(), RunError);
    CHECK(frames.in_use() == end - 7);
  }
  FrameAllocator frames(Gfn(7), Gfn(1024));
  const Gfn large = frames.allocate(PageSize::k2M);
  CHECK_THROWS_AS(frames.allocate(PageSize::k2M), RunError);
  frames.release(large);
  for (u64 i = 7; i < 1024; ++i) frames.allocate();
  CHECK_THROWS_AS(frames.allocate(), RunError);
}

TEST_CASE("fork shares, writes copy, the last owner keeps the page") {
  Guest guest;
  u64 in_child = 0;
  run_steps(guest, {
                       [](Kernel& k, Vcpu& v) {
                         REQUIRE(k.mmap(v, kAt, 4 * kPageBytes, kReadWrite) == kAt);
                         for (u64 i = 0; i < 4; ++i) v.store<u64>(kAt + i * kPageBytes, i + 1);
                       },
                       [&](Kernel& k, Vcpu& v) {
                         const u64 before = v.accesses();
                         k.fork(v, std::make_unique<Steps>(
                                       std::vector<Steps::Step>{[&in_child](Kernel&, Vcpu& child) {
                                         in_child = child.load(kAt);
                                         child.store<u64>(kAt, 50);
                                         in_child += child.load(kAt);
                                       }}));
                         CHECK(v.accesses() > before);
                         CHECK((entry_of(k, v, kAt) & x86::kWrite) == 0);
                         v.store<u64>(kAt + kPageBytes, 60);
                         k.wait(v);
                       },
                       [](Kernel& k, Vcpu& v) {
                         CHECK(k.processes().size() == 1);
                         CHECK(v.load(kAt) == 1);
                         CHECK(v.load(kAt + kPageBytes) == 60);
                         v.store<u64>(kAt, 70);
                         CHECK(v.load(kAt) == 70);
                         CHECK(v.load(kAt + 2 * kPageBytes) == 3);
                       },
                   });
  CHECK(in_child == 51);
  CHECK(guest.kernel.statistics().copies == 2);  // the parent's second page, the child's first
  CHECK(guest.kernel.statistics().reuses == 1);  // the parent's first
}

TEST_CASE("flushes page by page up to 33 pages and everything above") {
  Guest guest;
  const auto touch = [](Kernel& k, Vcpu& v, u64 pages) {
    REQUIRE(k.mmap(v, kAt, pages * kPageBytes, kReadWrite) == kAt);
    for (u64 i = 0; i < pages; ++i) v.store<u64>(kAt + i * kPageBytes, i);
  };
  run_steps(guest, {[&](Kernel& k, Vcpu& v) {
                      touch(k, v, 40);
                      REQUIRE(k.munmap(v, kAt, 33 * kPageBytes));
                      CHECK(k.statistics().page_flushes == 33);
                      CHECK(k.statistics().full_flushes == 0);
                    },
                    [&](Kernel& k, Vcpu& v) {
                      touch(k, v, 40);
                      CHECK(k.statistics().page_flushes == 33 + 7);  // mmap replaced the rest
                      REQUIRE(k.munmap(v, kAt, 34 * kPageBytes));
                      CHECK(k.statistics().page_flushes == 33 + 7);
                      CHECK(k.statistics().full_flushes == 1);
                    },
                    [&](Kernel& k, Vcpu& v) {
                      // Nothing mapped, nothing to flush.
                      REQUIRE(k.munmap(v, kAt, 4 * kPageBytes));
                      CHECK(k.statistics().page_flushes == 33 + 7);
                    }});
}

TEST_CASE("mprotect takes rights away at once and gives them back lazily or not") {
  Guest guest;
  run_steps(guest, {[](Kernel& k, Vcpu& v) {
                      REQUIRE(k.mmap(v, kAt, 2 * kPageBytes, kReadWrite) == kAt);
                      v.store<u64>(kAt, 1);
                      REQUIRE(k.mprotect(v, kAt, 2 * kPageBytes, prot::kRead));
                      CHECK((entry_of(k, v, kAt) & x86::kWrite) == 0);
                      CHECK(k.statistics().page_flushes == 1);
                      REQUIRE(k.mprotect(v, kAt, 2 * kPageBytes, kReadWrite));
                      CHECK((entry_of(k, v, kAt) & x86::kWrite) != 0);
                      CHECK(k.statistics().page_flushes == 1);
                      v.store<u64>(kAt, 2);
                      REQUIRE(k.mprotect(v, kAt, kPageBytes, prot::kNone));
                      CHECK((entry_of(k, v, kAt) & x86::kPresent) == 0);
                      REQUIRE(k.mprotect(v, kAt, kPageBytes, prot::kRead));
                      CHECK(v.load(kAt) == 2);
                      CHECK_FALSE(k.mprotect(v, kAt, 3 * kPageBytes, prot::kRead));
                    },
                    [](Kernel& k, Vcpu& v) {
                      v.store<u64>(kAt, 3);
                      CHECK(k.current(v).killed);
                    }});
  CHECK(guest.kernel.statistics().segfaults == 1);
}

TEST_CASE("files share their pages until they are written") {
  Guest guest;
  run_steps(guest, {[](Kernel& k, Vcpu& v) {
              REQUIRE(k.mmap(v, kAt, 32 * kPageBytes, kReadWrite, Source::of_file(5, 0)) == kAt);
              REQUIRE(k.mmap(v, kAt + (1 << 24), 32 * kPageBytes, prot::kRead | prot::kExec,
                             Source::of_file(5, 16 * kPageBytes)));
              for (u64 i = 16; i < 20; ++i) v.load(kAt + i * kPageBytes);
              CHECK(k.memory().page_cache().size() == 4);
              // One fault maps the page and its three neighbours that are cached.
              const u64 faults = v.counters[Event::GuestPageFault];
              for (u64 i = 0; i < 4; ++i) v.fetch(kAt + (1 << 24) + i * kPageBytes);
              CHECK(v.counters[Event::GuestPageFault] == faults + 1);
              CHECK(k.statistics().mapped_around == 3);
              v.store<u64>(kAt + 16 * kPageBytes, 9);
              CHECK(v.load(kAt + (1 << 24)) == 0);
              CHECK(k.statistics().copies == 1);
            }});
  CHECK(guest.kernel.memory().frames().in_use() == 4);  // the page cache
}

TEST_CASE("large pages") {
  Guest guest;
  constexpr u64 kLarge = page_bytes(PageSize::k2M);
  run_steps(guest, {[](Kernel& k, Vcpu& v) {
                      REQUIRE(k.mmap(v, kAt, 2 * kLarge, kReadWrite, Source::huge()) == kAt);
                      v.store<u64>(kAt + kLarge - 8, 3);
                      CHECK((entry_of(k, v, kAt) & x86::kLarge) != 0);
                      CHECK_FALSE(k.munmap(v, kAt, kPageBytes));
                      CHECK_FALSE(k.mprotect(v, kAt + kPageBytes, kPageBytes, prot::kRead));
                      k.fork(v, std::make_unique<Steps>(std::vector<Steps::Step>{
                                    [](Kernel&, Vcpu& child) { child.store<u64>(kAt, 1); }}));
                      k.wait(v);
                    },
                    [](Kernel& k, Vcpu& v) {
                      CHECK(v.load(kAt + kLarge - 8) == 3);
                      CHECK(v.load(kAt) == 0);
                      REQUIRE(k.munmap(v, kAt, kLarge));
                      REQUIRE(k.mmap(v, kAt, kLarge, kReadWrite) == kAt);
                      v.store<u64>(kAt, 5);
                      CHECK((entry_of(k, v, kAt) & x86::kLarge) == 0);
                    }});
  CHECK(guest.kernel.statistics().copies == 1);
  CHECK(guest.kernel.memory().frames().in_use() == 0);
}

TEST_CASE("mremap moves pages, brk moves the heap, execve empties") {
  Guest guest;
  run_steps(guest, {[](Kernel& k, Vcpu& v) {
                      REQUIRE(k.mmap(v, kAt, 2 * kPageBytes, kReadWrite) == kAt);
                      v.store<u64>(kAt, 11);
                      REQUIRE(k.mmap(v, kAt + 2 * kPageBytes, kPageBytes, prot::kRead));
                      const auto to = k.mremap(v, kAt, 2 * kPageBytes, 4 * kPageBytes);
                      REQUIRE(to);
                      CHECK(*to != kAt);
                      CHECK(v.load(*to) == 11);
                      CHECK(entry_of(k, v, kAt) == 0);
                      CHECK(k.mremap(v, *to, 4 * kPageBytes, kPageBytes) == to);
                      CHECK(k.mremap(v, *to, kPageBytes, 3 * kPageBytes) == to);
                      v.store<u64>(*to + 2 * kPageBytes, 12);
                      CHECK(k.mremap(v, *to, 3 * kPageBytes, 3 * kPageBytes, kAt) == kAt);
                      CHECK(v.load(kAt) == 11);
                      CHECK(v.load(kAt + 2 * kPageBytes) == 12);
                    },
                    [](Kernel& k, Vcpu& v) {
                      REQUIRE(k.brk(v, kHeapStart + 100));
                      REQUIRE(k.brk(v, kHeapStart + 3 * kPageBytes));
                      v.store<u64>(kHeapStart + kPageBytes, 1);
                      REQUIRE(k.brk(v, kHeapStart + 200));
                      CHECK(k.current(v).memory->vmas.find(kHeapStart + kPageBytes) == nullptr);
                      CHECK_FALSE(k.brk(v, kHeapStart));
                    },
                    [](Kernel& k, Vcpu& v) {
                      k.execve(v, "other");
                      CHECK(k.current(v).name == "other");
                      CHECK(k.current(v).memory->vmas.all().empty());
                      CHECK(k.memory().frames().in_use() == 2);  // the root and the kernel stack
                      v.load(kAt);
                    }});
  CHECK(guest.kernel.statistics().segfaults == 1);
}

TEST_CASE("the direct map is in the largest pages that fit") {
  const auto pages = [](u64 memory, const char* cpu) {
    MachineConfig config;
    config.memory_bytes = memory;
    config.cpu = cpu;
    config.virtualized = false;
    Machine machine(config, [](Machine& m) { return make_native_pager(m); });
    return write_boot_image(machine).table_pages;
  };
  // PDPT and PD of the text, PDPT, PD and PT of the entry area, PDPT and PD of the page structs.
  constexpr u64 kRest = 7;
  CHECK(pages(u64{64} << 20, "cascade-lake") == kRest + 3);           // PML4, PDPT, PD
  CHECK(pages((u64{64} << 20) + 4096, "cascade-lake") == kRest + 4);  // and a PT for the last page
  CHECK(pages(u64{3} << 30, "cascade-lake") == kRest + 2);
  // Two PDPTs; 16 GiB of page structs, 15 PDs more.
  CHECK(pages(u64{1} << 40, "cascade-lake") == kRest + 3 + 15);
  CHECK(pages(u64{3} << 30, "nehalem") == kRest + 5);
}

TEST_CASE("a guest without memory says so") {
  // The kernel takes 6 MiB for its text and page structs, and some 10 frames.
  Guest guest(1, u64{8} << 20);
  guest.kernel.spawn("hungry",
                     std::make_unique<Steps>(std::vector<Steps::Step>{[](Kernel& k, Vcpu& v) {
                       const Gva at = *k.mmap(v, {}, u64{4} << 20, kReadWrite);
                       for (u64 i = 0; i < 600; ++i) {
                         v.store<u64>(at + i * kPageBytes, i);
                       }
                     }}));
  CHECK_THROWS_WITH_AS(guest.kernel.run(),
                       "the guest is out of memory: it has 2 MiB, of which 1 MiB are in use",
                       RunError);
}

namespace {

/// Notes the CR3 values and INVPCIDs that a guest loads.
class Cr3Log final : public AccessObserver {
 public:
  explicit Cr3Log(Vcpu& vcpu) : vcpu_(vcpu) { vcpu.set_observer(this); }
  ~Cr3Log() override { vcpu_.set_observer(nullptr); }
  void on_access(Vcpu&, const Seen&) override {}
  void on_cr3(Vcpu&, u64 value) override { values.push_back(value); }
  void on_invpcid(Vcpu&, InvpcidType type, u32 pcid, Gva va) override {
    CHECK(type == InvpcidType::Address);
    invpcid.emplace_back(pcid, va);
  }
  std::vector<u64> values;
  std::vector<std::pair<u32, Gva>> invpcid;

 private:
  Vcpu& vcpu_;
};

constexpr u64 kNoFlush = u64{1} << 63;
constexpr Gva kPageStructsAt{kPageStructs};

}  // namespace

TEST_CASE("KPTI loads CR3 on the way into the kernel and out of it") {
  for (const bool pcid : {false, true}) {
    CAPTURE(pcid);
    Guest guest(1, u64{64} << 20, 64, nullptr, true, pcid);
    run_steps(
        guest,
        {[](Kernel& k, Vcpu& v) { REQUIRE(k.mmap(v, kAt, 4 * kPageBytes, kReadWrite) == kAt); },
         [pcid](Kernel& k, Vcpu& v) {
           const AddressSpace& space = *k.current(v).memory;
           const u64 in = space.root.raw() | (pcid ? kNoFlush | 2 : 0);
           const u64 out = space.user_root.raw() | (pcid ? kNoFlush | 0x802 : 0);
           CHECK(v.cr3() == (out & ~kNoFlush));
           Cr3Log log(v);
           k.wait(v);  // does not enter the kernel here: it is noted
           CHECK(log.values.empty());
           v.store<u64>(kAt, 1);  // a fault
           CHECK(log.values == std::vector<u64>{in, out});
           REQUIRE(k.munmap(v, kAt, kPageBytes));  // and one page flushed, for both PCIDs
           CHECK(log.values == std::vector<u64>{in, out, in, out});
           CHECK(log.invpcid.size() == (pcid ? 1 : 0));
           if (pcid) CHECK(log.invpcid[0] == std::pair<u32, Gva>(0x802, kAt));
         },
         [pcid](Kernel& k, Vcpu& v) {
           // A full flush: the kernel's PCID at once, the user's on the way out.
           for (u64 i = 0; i < 40; ++i) {
             REQUIRE(k.mmap(v, kAt + i * kPageBytes, kPageBytes, kReadWrite));
             v.store<u64>(kAt + i * kPageBytes, 1);
           }
           const AddressSpace& space = *k.current(v).memory;
           Cr3Log log(v);
           REQUIRE(k.munmap(v, kAt, 40 * kPageBytes));
           REQUIRE(log.values.size() == 3);
           CHECK(log.values[1] == (space.root.raw() | (pcid ? 2 : 0)));
           CHECK(log.values[2] == (space.user_root.raw() | (pcid ? 0x802 : 0)));
         },
         [](Kernel& k, Vcpu& v) {
           // What the kernel has is out of user mode's reach, its entry code is not.
           CHECK(v.try_access(kKernelText, AccessKind::Fetch).fault.error_code ==
                 (pf::kUser | pf::kFetch));
           CHECK(v.try_access(kEntryText, AccessKind::Fetch).fault.error_code ==
                 (pf::kUser | pf::kFetch | pf::kPresent));
           CHECK(v.try_access(kPageStructsAt, AccessKind::Read).fault.error_code == pf::kUser);
           (void)k;
         }});
  }
}

TEST_CASE("address spaces keep their tags until six others came") {
  for (const unsigned processes : {5u, 7u}) {
    CAPTURE(processes);
    Guest guest;
    std::vector<Process*> all;
    Vcpu& v = guest.machine.vcpu(0);
    for (unsigned i = 0; i < processes; ++i) all.push_back(&guest.kernel.spawn("p"));
    for (Process* p : all) guest.kernel.switch_to(v, *p);
    Cr3Log log(v);
    for (Process* p : all) guest.kernel.switch_to(v, *p);
    REQUIRE(log.values.size() == processes);
    for (unsigned i = 0; i < processes; ++i) {
      // The kernel's own tables have the first tag to begin with.
      CHECK((log.values[i] & 0xfff) == (i + 1 + (processes == 7 ? 7 : 0)) % 6 + 1);
      CHECK((log.values[i] >> 63) == (processes == 5 ? 1 : 0));
    }
    for (Process* p : all) {
      guest.kernel.switch_to(v, *p);
      guest.kernel.exit(v);
    }
  }
}

TEST_CASE("shared file pages are one page for all, written in place") {
  Guest guest;
  run_steps(guest,
            {[](Kernel& k, Vcpu& v) {
               const Source file = Source::of_shared_file(7, 0);
               REQUIRE(k.mmap(v, kAt, 2 * kPageBytes, kReadWrite, file) == kAt);
               CHECK(v.load(kAt) == 0);
               // Writable at once, but not dirty: nobody has to be told of the first write.
               constexpr u64 kFlags = x86::kWrite | x86::kDirty;
               CHECK((entry_of(k, v, kAt) & kFlags) == x86::kWrite);
               v.store<u64>(kAt, 5);
               CHECK((entry_of(k, v, kAt) & kFlags) == kFlags);
               CHECK(v.counters[Event::GuestPageFault] == 1);
               REQUIRE(k.mprotect(v, kAt, kPageBytes, prot::kRead));
               CHECK((entry_of(k, v, kAt) & x86::kWrite) == 0);
               REQUIRE(k.mprotect(v, kAt, kPageBytes, kReadWrite));
               v.store<u64>(kAt, 6);
               k.fork(v, std::make_unique<Steps>(std::vector<Steps::Step>{[](Kernel&, Vcpu& child) {
                        CHECK(child.load(kAt) == 6);
                        child.store<u64>(kAt, 8);
                      }}));
               // Fork copied no entry of it.
               CHECK((entry_of(k, v, kAt) & x86::kWrite) != 0);
               k.wait(v);
             },
             [](Kernel& k, Vcpu& v) {
               CHECK(v.load(kAt) == 8);
               // A private mapping sees it until it writes.
               const Gva other = kAt + (1 << 24);
               REQUIRE(k.mmap(v, other, kPageBytes, kReadWrite, Source::of_file(7, 0)) == other);
               CHECK(v.load(other) == 8);
               v.store<u64>(other, 9);
               CHECK(v.load(kAt) == 8);
             }});
  CHECK(guest.kernel.statistics().copies == 1);
}

TEST_CASE("madvise drops pages and keeps tables and mappings") {
  Guest guest;
  run_steps(guest, {[](Kernel& k, Vcpu& v) {
              REQUIRE(k.mmap(v, kAt, 4 * kPageBytes, kReadWrite) == kAt);
              for (u64 i = 0; i < 4; ++i) v.store<u64>(kAt + i * kPageBytes, i + 1);
              const u64 frames = k.memory().frames().in_use();
              const u64 tables = k.current(v).memory->table_pages;
              REQUIRE(k.discard(v, kAt + kPageBytes, 2 * kPageBytes));
              CHECK(k.memory().frames().in_use() == frames - 2);
              CHECK(k.current(v).memory->table_pages == tables);
              CHECK(v.load(kAt) == 1);
              CHECK(v.load(kAt + kPageBytes) == 0);
              CHECK(v.load(kAt + 3 * kPageBytes) == 4);
              CHECK_FALSE(k.discard(v, kAt, 5 * kPageBytes));
            }});
}

TEST_CASE("a child of vfork has its parent's memory, which waits until it executes") {
  Guest guest;
  u64 order = 0, parent_resumed = 0, child_executed = 0;
  run_steps(guest, {[&](Kernel& k, Vcpu& v) {
                      REQUIRE(k.mmap(v, kAt, kPageBytes, kReadWrite) == kAt);
                      v.store<u64>(kAt, 1);
                      const u64 frames = k.memory().frames().in_use();
                      k.vfork(v, std::make_unique<Steps>(std::vector<Steps::Step>{
                                     [](Kernel&, Vcpu& child) { child.store<u64>(kAt, 2); },
                                     [&](Kernel& kernel, Vcpu& child) {
                                       kernel.execve(child, "program");
                                       child_executed = ++order;
                                     },
                                     [](Kernel&, Vcpu&) {}, [](Kernel&, Vcpu&) {}}));
                      CHECK(k.memory().frames().in_use() == frames + 1);  // its kernel stack
                    },
                    [&](Kernel& k, Vcpu& v) {
                      parent_resumed = ++order;
                      CHECK(v.load(kAt) == 2);
                      CHECK(k.processes().size() == 2);  // it did not wait for the exit
                    }});
  CHECK(child_executed == 1);
  CHECK(parent_resumed == 2);
}

TEST_CASE("the kernel reads and writes user memory, and signals are delivered") {
  Guest guest;
  run_steps(guest, {[](Kernel& k, Vcpu& v) {
              REQUIRE(k.mmap(v, kAt, 2 * kPageBytes, kReadWrite) == kAt);
              k.read_zeros(v, kAt, 8);  // a fault in the kernel
              CHECK(v.counters[Event::GuestPageFault] == 1);
              v.store<u64>(kAt, 7);
              k.read_zeros(v, kAt, 4);
              CHECK(v.load(kAt) == 0);
              k.handle_segv(v, kAt + 2 * kPageBytes);
              REQUIRE(k.mprotect(v, kAt, kPageBytes, prot::kRead));
              v.store<u64>(kAt, 9);
              CHECK(v.load(kAt) == 0);  // given up
              CHECK_FALSE(k.current(v).killed);
              k.sigreturn(v);
            }});
  CHECK(guest.kernel.statistics().segfaults == 0);
}
