#include "workloads/trace/lackey_image.h"

#include <algorithm>

namespace mmuscope {

namespace {

constexpr u64 page_of(u64 address) { return address >> kPageShift; }
constexpr u64 round_up(u64 bytes) { return (bytes + kPageBytes - 1) & ~(kPageBytes - 1); }

u8 rights_used(RecordKind kind) {
  switch (kind) {
    case RecordKind::Instruction:
      return linux_prot::kRead | linux_prot::kExec;
    case RecordKind::Store:
    case RecordKind::Modify:
      return linux_prot::kRead | linux_prot::kWrite;
    default:
      return linux_prot::kRead;
  }
}

}  // namespace

std::vector<ImageRegion> image_regions(const ImagePages& pages) {
  std::vector<ImageRegion> regions;
  for (const auto& [page, prot] : pages) {
    const u64 start = page << kPageShift;
    if (regions.empty() || regions.back().prot != prot ||
        start - regions.back().end > kMaxImageGap * kPageBytes) {
      regions.push_back({start, start, prot});
    }
    regions.back().end = start + kPageBytes;
  }
  return regions;
}

void Mappings::add(u64 start, u64 bytes) {
  remove(start, bytes);
  ends_[start] = start + round_up(bytes);
}

void Mappings::remove(u64 start, u64 bytes) {
  const u64 end = start + round_up(bytes);
  auto at = ends_.upper_bound(start);
  if (at != ends_.begin() && std::prev(at)->second > start) --at;
  while (at != ends_.end() && at->first < end) {
    const auto [old_start, old_end] = *at;
    at = ends_.erase(at);
    if (old_start < start) ends_[old_start] = start;
    if (old_end > end) at = ends_.insert_or_assign(end, old_end).first;
  }
}

bool Mappings::contains(u64 address) const {
  const auto after = ends_.upper_bound(address);
  return after != ends_.begin() && address < std::prev(after)->second;
}

void Mappings::apply(const LackeyCall& call) {
  switch (call.number) {
    case linux_call::kMmap:
      return add(call.result, call.args[1]);
    case linux_call::kMunmap:
      return remove(call.args[0], call.args[1]);
    case linux_call::kMremap:
      remove(call.args[0], call.args[1]);
      return add(call.result, call.args[2]);
    case linux_call::kBrk:
      if (break_start_ == 0) break_start_ = break_ = round_up(call.result);
      if (break_ > break_start_) remove(break_start_, break_ - break_start_);
      break_ = std::max(round_up(call.result), break_start_);
      if (break_ > break_start_) add(break_start_, break_ - break_start_);
      return;
    default:
      return;
  }
}

bool ImageFinder::apply(const LackeyCall& call) {
  mappings_.apply(call);
  known_.fill({});
  if (call.number != linux_call::kMprotect) return true;
  const u64 end = page_of(call.args[0] + round_up(call.args[1]));
  if (end - page_of(call.args[0]) > kMaxImagePages) return false;
  for (u64 page = page_of(call.args[0]); page < end; ++page) {
    if (!explain(page, linux_prot::kRead)) return false;
  }
  return true;
}

bool ImageFinder::explain(u64 page, u8 used) {
  Known& known = known_[page % known_.size()];
  if (known.page == page && (known.used & used) == used) return true;
  if (known.page != page) known = {page, 0};
  known.used |= used;
  if (mappings_.contains(page << kPageShift)) return true;
  image_[page] |= used;
  return image_.size() <= kMaxImagePages;
}

bool ImageFinder::access(const Record& record) {
  const u8 used = rights_used(record.kind);
  const u64 first = page_of(record.address);
  const u64 last = page_of(record.address + record.size - 1);
  return explain(first, used) && (last == first || explain(last, used));
}

}  // namespace mmuscope
