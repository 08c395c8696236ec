#pragma once

#include <vector>

#include "core/cpu_model.h"

namespace mmuscope {

/// One level of data cache: 64-byte lines by host-physical address, least recently used replaced.
class LineCache {
 public:
  static constexpr unsigned kLineShift = 6;
  explicit LineCache(const LineCacheGeometry& g);

  /// True if the line was there; it is now.
  bool touch(u64 line);

 private:
  struct Line {
    u64 number = ~u64{0};
    u64 stamp = 0;
  };
  u64 sets_;
  unsigned ways_;
  u64 now_ = 0;
  std::vector<Line> lines_;
};

/// Where a line was found.
enum class Found : u8 { L1, L2, Llc, Memory };

/// The data caches that one vCPU's page walker reads through: its own first and second level, and
/// the last level, which it shares with the machine's other vCPUs. A line comes into every level
/// that lacked it and leaves each when it is the oldest there; vCPUs do not take lines from each
/// other.
class DataCaches {
 public:
  DataCaches(const CpuModel& cpu, LineCache& llc)
      : l1_(cpu.l1_lines), l2_(cpu.l2_lines), llc_(llc) {}

  Found read(Hpa a) {
    const u64 line = a.raw() >> LineCache::kLineShift;
    if (l1_.touch(line)) return Found::L1;
    if (l2_.touch(line)) return Found::L2;
    return llc_.touch(line) ? Found::Llc : Found::Memory;
  }

 private:
  LineCache l1_, l2_;
  LineCache& llc_;
};

}  // namespace mmuscope
