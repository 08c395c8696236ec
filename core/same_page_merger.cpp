#include "core/same_page_merger.h"

namespace mmuscope {

u64 SamePageMerger::scan(Vcpu& vcpu, u64 frames) {
  const u64 end = machine_.map().bytes() / kPageBytes;
  u64 merged = 0;
  bool any = false;
  while (frames > 0) {
    if (next_.raw() == end) {
      end_round();
      if (!any) break;  // nothing has memory
      any = false;
    }
    const Gfn g = next_;
    next_ = next_ + 1;
    if (!machine_.map().find(g)) continue;
    any = true;
    --frames;
    merged += look_at(vcpu, g);
  }
  return merged;
}

void SamePageMerger::end_round() {
  next_ = Gfn(0);
  ++rounds_;
  unstable_.clear();
}

u64 SamePageMerger::checksum(Gfn g) const {
  // FNV-1a, a word at a time. Equal sums are compared before anything is done (Machine::merge).
  u64 sum = 0xcbf2'9ce4'8422'2325;
  const Hpa page = machine_.map().find(g)->frame.base();
  for (u64 at = 0; at < kPageBytes; at += 8) {
    sum = (sum ^ machine_.memory().read(page + at)) * 0x100'0000'01b3;
  }
  return sum;
}

bool SamePageMerger::look_at(Vcpu& vcpu, Gfn g) {
  if (machine_.map().is_merged(g)) return false;
  const u64 sum = checksum(g);
  if (const auto stable = stable_.find(sum); stable != stable_.end()) {
    if (machine_.merge(stable->second, g, &vcpu)) return true;
    // The frame has been written, or taken back, since others were merged with it.
    if (!machine_.map().is_merged(stable->second)) stable_.erase(stable);
  }
  const auto [seen, first_time] = seen_.try_emplace(g.raw(), sum);
  if (first_time || seen->second != sum) {
    seen->second = sum;
    return false;
  }
  const auto [other, alone] = unstable_.try_emplace(sum, g);
  if (alone || !machine_.merge(other->second, g, &vcpu)) return false;
  stable_.insert_or_assign(sum, other->second);
  unstable_.erase(other);
  return true;
}

}  // namespace mmuscope
