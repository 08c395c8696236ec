#include "workloads/guest/vma.h"

#include <algorithm>
#include <cassert>
#include <iterator>

#include "workloads/guest/direct_map.h"

namespace mmuscope {

namespace {

bool can_merge(const Vma& a, const Vma& b) {
  return a.end == b.start && a.rights == b.rights && a.source.kind == b.source.kind &&
         a.source.file == b.source.file && a.source.shared == b.source.shared &&
         a.has_copies == b.has_copies && a.advice == b.advice &&
         (a.source.kind != Source::Kind::File ||
          a.source.offset + (b.start - a.start) == b.source.offset);
}

/// The part of a mapping in [start, end).
Vma part_of(Vma vma, Gva start, Gva end) {
  if (vma.source.kind == Source::Kind::File) vma.source.offset += start - vma.start;
  vma.start = start;
  vma.end = end;
  return vma;
}

}  // namespace

VmaList::Vmas::const_iterator VmaList::first_after(Gva a) const {
  const auto next = vmas_.upper_bound(a);
  if (next == vmas_.begin()) return next;
  const auto before = std::prev(next);
  return before->second.end > a ? before : next;
}

Vma* VmaList::find(Gva a) {
  const auto next = vmas_.upper_bound(a);
  if (next == vmas_.begin()) return nullptr;
  Vma& vma = std::prev(next)->second;
  return vma.end > a ? &vma : nullptr;
}

void VmaList::merge_with_next(Vmas::iterator at) {
  const auto next = std::next(at);
  if (next == vmas_.end() || !can_merge(at->second, next->second)) return;
  at->second.end = next->second.end;
  vmas_.erase(next);
}

void VmaList::insert(const Vma& vma) {
  assert(vma.start < vma.end && is_free(vma.start, vma.end));
  const auto at = vmas_.emplace(vma.start, vma).first;
  merge_with_next(at);
  if (at != vmas_.begin()) merge_with_next(std::prev(at));
}

std::vector<Vma> VmaList::remove(Gva start, Gva end) {
  std::vector<Vma> removed, kept;
  full_from_ = std::max(full_from_, std::min(end, kMapTop));
  const auto first = first_after(start);
  auto last = first;
  for (; last != vmas_.end() && last->first < end; ++last) {
    const Vma& vma = last->second;
    const Gva from = std::max(vma.start, start), to = std::min(vma.end, end);
    removed.push_back(part_of(vma, from, to));
    if (vma.start < from) kept.push_back(part_of(vma, vma.start, from));
    if (to < vma.end) kept.push_back(part_of(vma, to, vma.end));
  }
  vmas_.erase(first, last);
  for (const Vma& vma : kept) vmas_.emplace(vma.start, vma);
  return removed;
}

std::vector<Vma> VmaList::parts(Gva start, Gva end) const {
  std::vector<Vma> inside_range;
  for (auto at = first_after(start); at != vmas_.end() && at->first < end; ++at) {
    const Vma& vma = at->second;
    inside_range.push_back(part_of(vma, std::max(vma.start, start), std::min(vma.end, end)));
  }
  return inside_range;
}

bool VmaList::is_free(Gva start, Gva end) const {
  const auto next = first_after(start);
  return end <= kTablesEnd && (next == vmas_.end() || next->first >= end);
}

bool VmaList::covers(Gva start, Gva end) const {
  for (auto at = first_after(start); at != vmas_.end() && at->first <= start; ++at) {
    start = at->second.end;
    if (start >= end) return true;
  }
  return start >= end;
}

Gva VmaList::find_free(u64 bytes, PageSize align) {
  Gva ceiling = full_from_;
  bool full = true;
  for (auto at = vmas_.lower_bound(ceiling);;) {
    // The gap below `ceiling` reaches down to the mapping before it.
    const bool last = at == vmas_.begin();
    const Gva floor = last ? Gva(page_bytes(align)) : std::prev(at)->second.end;
    full = full && floor >= ceiling;
    if (floor < ceiling && bytes <= ceiling - floor) {
      const Gva found = (ceiling - bytes).align_down(align);
      if (found >= floor) return found;
    }
    if (last) return Gva(0);
    --at;
    ceiling = std::min(ceiling, at->first);
    if (full) full_from_ = ceiling;
  }
}

Gva VmaList::end_before(Gva a) const {
  const auto next = first_after(a);
  if (next != vmas_.end() && next->first < a) return a;
  return next != vmas_.begin() ? std::prev(next)->second.end : Gva(0);
}

Gva VmaList::start_from(Gva a) const {
  const auto next = first_after(a);
  return next == vmas_.end() ? kTablesEnd : std::max(next->first, a);
}

}  // namespace mmuscope
