#include "core/memory.h"

#include <sys/mman.h>

#include "core/error.h"

namespace mmuscope {

namespace {

constexpr u64 kFramesPer1G = page_bytes(PageSize::k1G) / kPageBytes;
constexpr u64 kFramesPer2M = page_bytes(PageSize::k2M) / kPageBytes;
/// Above this a guest is taken to be sparse: large pages of the emulator's own would then cost
/// memory that nobody touches.
constexpr u64 kDenseGuest = u64{4} << 30;

u64 round_up(u64 value, u64 to) { return (value + to - 1) / to * to; }

}  // namespace

PhysicalMemory::PhysicalMemory(u64 backing_bytes, u64 table_bytes) {
  backing_end_ = round_up(backing_bytes, page_bytes(PageSize::k1G)) / kPageBytes;
  next_table_ = backing_end_;
  table_end_ = backing_end_ + round_up(table_bytes, page_bytes(PageSize::k2M)) / kPageBytes;
  bytes_ = table_end_ * kPageBytes;
  void* p = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) {
    throw RunError("cannot reserve " + std::to_string(bytes_ >> 20) +
                   " MiB of address space for the machine's memory: give it less memory, or raise "
                   "the limits (ulimit -v, vm.overcommit_memory)");
  }
  base_ = static_cast<std::byte*>(p);
  // Advice only: a kernel without large pages is slower, not wrong.
  const u64 backing = backing_end_ * kPageBytes;
  (void)madvise(base_, backing, backing_bytes <= kDenseGuest ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
  (void)madvise(base_ + backing, bytes_ - backing, MADV_HUGEPAGE);
}

PhysicalMemory::~PhysicalMemory() { munmap(base_, bytes_); }

Hfn PhysicalMemory::allocate_table() {
  Hfn frame;
  if (!free_tables_.empty()) {
    frame = free_tables_.back();
    free_tables_.pop_back();
    zero_bytes(at(frame.base()), kPageBytes);
  } else {
    if (next_table_ == table_end_) throw RunError("no host memory left for the pager's tables");
    frame = Hfn(next_table_++);
  }
  ++tables_in_use_;
  return frame;
}

void PhysicalMemory::free_table(Hfn frame) {
  free_tables_.push_back(frame);
  --tables_in_use_;
}

void PhysicalMemory::free_backing(Hfn frame, PageSize size) {
  for (u64 at = 0; at < page_bytes(size); at += kPageBytes) {
    zero_bytes(this->at(frame.base() + at), kPageBytes);
  }
  free_backing_[static_cast<unsigned>(size)].push_back(frame);
}

Hfn PhysicalMemory::allocate_backing(PageSize size) {
  if (auto& freed = free_backing_[static_cast<unsigned>(size)]; !freed.empty()) {
    const Hfn frame = freed.back();
    freed.pop_back();
    return frame;
  }
  const auto take = [this](u64& next, u64& end, u64 frames, PageSize from) {
    if (next == end) {
      next = allocate_backing(from).raw();
      end = next + page_bytes(from) / kPageBytes;
    }
    const Hfn frame(next);
    next += frames;
    return frame;
  };
  switch (size) {
    case PageSize::k4K:
      return take(next_4k_, end_4k_, 1, PageSize::k2M);
    case PageSize::k2M:
      return take(next_2m_, end_2m_, kFramesPer2M, PageSize::k1G);
    case PageSize::k1G:
      break;
  }
  if (next_1g_ + kFramesPer1G > backing_end_) throw RunError("no host memory left for the guest");
  const Hfn frame(next_1g_);
  next_1g_ += kFramesPer1G;
  return frame;
}

void zero_bytes(std::byte* where, u64 bytes) {
  static constexpr std::byte kZero[64] = {};
  const u64 head = bytes < sizeof kZero ? bytes : sizeof kZero;
  if (std::memcmp(where, kZero, head) == 0 && std::memcmp(where, where + head, bytes - head) == 0) {
    return;  // the first bytes are zero and every byte equals the one `head` bytes earlier
  }
  std::memset(where, 0, bytes);
}

}  // namespace mmuscope
