#include "workloads/guest/balloon.h"

#include <algorithm>

namespace mmuscope {

namespace {
constexpr u64 kFramesInCall = 256;
constexpr std::size_t kBlocksInCall = 32;
constexpr u64 kBlockFrames = page_bytes(PageSize::k2M) / kPageBytes;
}  // namespace

u64 Balloon::inflate(Vcpu& vcpu, u64 frames, u64 kept) {
  // Linux, fill_balloon and tell_host.
  const GuestLock::Hold lock(vcpu, lock_);
  u64 taken = 0;
  for (bool more = true; more && taken < frames;) {
    std::vector<Gfn> batch;
    while (batch.size() < std::min(kFramesInCall, frames - taken) && frames_.free() > kept) {
      batch.push_back(frames_.allocate());
      write_page_struct(vcpu, frames_, batch.back());
    }
    for (std::size_t i = 0; i < batch.size(); ++i) vcpu.offer_frames(batch[i], 1, i > 0);
    pages_.insert(pages_.end(), batch.begin(), batch.end());
    taken += batch.size();
    more = batch.size() == kFramesInCall;
  }
  return taken;
}

u64 Balloon::deflate(Vcpu& vcpu, u64 frames) {
  // Linux, leak_balloon: the host is told before anybody uses them.
  const GuestLock::Hold lock(vcpu, lock_);
  const u64 due = std::min<u64>(frames, pages_.size());
  for (u64 left = due; left > 0;) {
    const u64 batch = std::min(kFramesInCall, left);
    vcpu.offer_frames(Gfn(0), 0);
    for (u64 i = 0; i < batch; ++i) {
      const Gfn frame = pages_.back();
      pages_.pop_back();
      frames_.release(frame);
      write_page_struct(vcpu, frames_, frame);
    }
    left -= batch;
  }
  return due;
}

u64 Balloon::report_free(Vcpu& vcpu) {
  u64 offered = 0;
  for (;;) {
    const std::vector<Gfn> blocks = frames_.take_unreported(kBlocksInCall);
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      vcpu.offer_frames(blocks[i], kBlockFrames, i > 0);
      offered += kBlockFrames;
    }
    if (blocks.size() < kBlocksInCall) return offered;
  }
}

}  // namespace mmuscope
