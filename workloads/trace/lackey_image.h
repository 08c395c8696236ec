#pragma once

#include <array>
#include <map>
#include <vector>

#include "core/address.h"
#include "workloads/trace/format.h"
#include "workloads/trace/lackey_log.h"

namespace mmuscope {

/// PROT_READ, PROT_WRITE, PROT_EXEC of Linux.
namespace linux_prot {
inline constexpr u8 kRead = 1, kWrite = 2, kExec = 4;
}  // namespace linux_prot

/// A mapping that the loader must have made: [start, end) with these rights.
struct ImageRegion {
  u64 start = 0;
  u64 end = 0;
  u8 prot = 0;
};

/// Pages of one program that are used, or change their rights, though no call mapped them; with the
/// rights that were used.
using ImagePages = std::map<u64, u8>;
inline constexpr std::size_t kMaxImagePages = std::size_t{1} << 20;
inline constexpr u64 kMaxImageGap = 256;  ///< pages between two parts of one region

std::vector<ImageRegion> image_regions(const ImagePages& pages);

/// What the calls of a process explain: the mappings that it has at a point of its log. Copied at
/// a fork.
class Mappings {
 public:
  /// Follows a call that succeeded.
  void apply(const LackeyCall& call);
  bool contains(u64 address) const;

 private:
  void add(u64 start, u64 bytes);
  void remove(u64 start, u64 bytes);

  std::map<u64, u64> ends_;  // by start
  u64 break_start_ = 0;
  u64 break_ = 0;
};

/// Finds the image pages of a log, access by access.
class ImageFinder {
 public:
  ImageFinder(Mappings mappings, ImagePages& image)
      : mappings_(std::move(mappings)), image_(image) {}

  /// Both: false if the image has become larger than kMaxImagePages.
  bool access(const Record& record);
  bool apply(const LackeyCall& call);
  const Mappings& mappings() const { return mappings_; }

 private:
  bool explain(u64 page, u8 used);

  struct Known {
    u64 page = ~u64{0};
    u8 used = 0;
  };
  Mappings mappings_;
  ImagePages& image_;
  std::array<Known, 256> known_{};  // pages of which these uses are settled, by their low bits
};

}  // namespace mmuscope
