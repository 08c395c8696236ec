#pragma once

#include <unordered_map>
#include <vector>

#include "core/machine.h"

namespace mmuscope {

/// The host's search for equal pages of its guest: Linux's ksmd, as far as it decides which frames
/// are merged. Round all of guest memory, a frame is merged with an equal one that was merged
/// before, or with one seen in the same round; one whose contents have changed since the last round
/// is left alone (mm/ksm.c, the stable and the unstable tree, checksums). Reads guest memory from
/// the host's side: no accesses.
class SamePageMerger {
 public:
  explicit SamePageMerger(Machine& machine) : machine_(machine) {}

  /// Looks at the next so many frames that have memory (pages_to_scan); how many were merged.
  /// `vcpu`: who counts.
  u64 scan(Vcpu& vcpu, u64 frames);
  u64 rounds() const { return rounds_; }

 private:
  u64 checksum(Gfn g) const;
  bool look_at(Vcpu& vcpu, Gfn g);
  void end_round();

  Machine& machine_;
  Gfn next_{0};
  u64 rounds_ = 0;
  std::unordered_map<u64, u64> seen_;  // frame to checksum, when it was last looked at
  /// Checksum to the frame that others are merged with: of merged ones, and of this round's.
  std::unordered_map<u64, Gfn> stable_, unstable_;
};

}  // namespace mmuscope
