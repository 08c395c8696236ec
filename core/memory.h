#pragma once

#include <cstring>
#include <vector>

#include "core/address.h"

namespace mmuscope {

/// Host-physical memory with real bytes in it. The whole range is reserved address space; the
/// operating system gives memory to the pages that are written, and the rest reads as zero, so the
/// cost follows what is touched.
///
/// Frames [0, backing) are for guests, the frames above for hypervisors' tables.
class PhysicalMemory {
 public:
  /// `backing_bytes` of guest memory (rounded up to 1 GiB) and `table_bytes` for tables.
  /// Throws RunError if the address space cannot be reserved.
  PhysicalMemory(u64 backing_bytes, u64 table_bytes);
  ~PhysicalMemory();
  PhysicalMemory(const PhysicalMemory&) = delete;
  PhysicalMemory& operator=(const PhysicalMemory&) = delete;

  u64 bytes() const { return bytes_; }
  bool contains(Hpa a, u64 bytes) const { return a.raw() < bytes_ && bytes <= bytes_ - a.raw(); }
  /// Where the byte lives in the emulator's own memory; pages are contiguous at any size.
  std::byte* at(Hpa a) const { return base_ + a.raw(); }
  u64 read(Hpa a) const {
    u64 value;
    std::memcpy(&value, at(a), sizeof value);
    return value;
  }
  void write(Hpa a, u64 value) { std::memcpy(at(a), &value, sizeof value); }

  /// A zeroed frame for a hypervisor's table; throws RunError when none is left.
  Hfn allocate_table();
  void free_table(Hfn frame);
  u64 tables_in_use() const { return tables_in_use_; }

  /// A naturally aligned host page for guest memory, zeroed; throws RunError when none is left.
  Hfn allocate_backing(PageSize size);
  /// Gives such a page back; it reads as zeros when it is next given out.
  void free_backing(Hfn frame, PageSize size);

 private:
  std::byte* base_ = nullptr;
  u64 bytes_ = 0;
  u64 next_table_ = 0, table_end_ = 0;  // frame numbers
  u64 backing_end_ = 0;
  /// Next free frame inside the 1 GiB and the 2 MiB block that smaller pages are cut from.
  u64 next_1g_ = 0, next_2m_ = 0, end_2m_ = 0, next_4k_ = 0, end_4k_ = 0;
  u64 tables_in_use_ = 0;
  std::vector<Hfn> free_tables_;
  std::vector<Hfn> free_backing_[kPageSizes];
};

/// Writes zeros without making memory of what is zero already: reading an untouched page costs
/// nothing that lasts, writing it does.
void zero_bytes(std::byte* where, u64 bytes);

}  // namespace mmuscope
