#include "workloads/guest/vma.h"

#include <algorithm>
#include <cassert>

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

std::size_t VmaList::first_after(Gva a) const {
  return static_cast<std::size_t>(
      std::upper_bound(vmas_.begin(), vmas_.end(), a,
                       [](Gva where, const Vma& v) { return where < v.end; }) -
      vmas_.begin());
}

Vma* VmaList::find(Gva a) {
  const std::size_t i = first_after(a);
  return i < vmas_.size() && vmas_[i].contains(a) ? &vmas_[i] : nullptr;
}

void VmaList::insert(const Vma& vma) {
  assert(vma.start < vma.end && is_free(vma.start, vma.end));
  std::size_t i = first_after(vma.start);
  vmas_.insert(vmas_.begin() + static_cast<std::ptrdiff_t>(i), vma);
  const auto merge_with_next = [this](std::size_t at) {
    if (at + 1 >= vmas_.size() || !can_merge(vmas_[at], vmas_[at + 1])) return;
    vmas_[at].end = vmas_[at + 1].end;
    vmas_.erase(vmas_.begin() + static_cast<std::ptrdiff_t>(at) + 1);
  };
  merge_with_next(i);
  if (i > 0) merge_with_next(i - 1);
}

std::vector<Vma> VmaList::remove(Gva start, Gva end) {
  std::vector<Vma> removed, kept;
  const auto first = vmas_.begin() + static_cast<std::ptrdiff_t>(first_after(start));
  auto last = first;
  for (; last != vmas_.end() && last->start < end; ++last) {
    const Gva from = std::max(last->start, start), to = std::min(last->end, end);
    removed.push_back(part_of(*last, from, to));
    if (last->start < from) kept.push_back(part_of(*last, last->start, from));
    if (to < last->end) kept.push_back(part_of(*last, to, last->end));
  }
  vmas_.insert(vmas_.erase(first, last), kept.begin(), kept.end());
  return removed;
}

std::vector<Vma> VmaList::parts(Gva start, Gva end) const {
  std::vector<Vma> inside_range;
  for (std::size_t i = first_after(start); i < vmas_.size() && vmas_[i].start < end; ++i) {
    inside_range.push_back(
        part_of(vmas_[i], std::max(vmas_[i].start, start), std::min(vmas_[i].end, end)));
  }
  return inside_range;
}

bool VmaList::is_free(Gva start, Gva end) const {
  return start_from(start) >= end && !inside(start);
}

bool VmaList::covers(Gva start, Gva end) const {
  for (std::size_t i = first_after(start); i < vmas_.size() && vmas_[i].start <= start; ++i) {
    start = vmas_[i].end;
    if (start >= end) return true;
  }
  return start >= end;
}

bool VmaList::inside(Gva a) const {
  const std::size_t i = first_after(a);
  return i < vmas_.size() && vmas_[i].contains(a);
}

Gva VmaList::find_free(u64 bytes, PageSize align, Gva top) const {
  Gva ceiling = top;
  for (std::size_t i = vmas_.size() + 1; i-- > 0;) {
    // The gap below `ceiling` reaches down to the mapping before it.
    const Gva floor = i > 0 ? vmas_[i - 1].end : Gva(page_bytes(align));
    if (floor < ceiling && bytes <= ceiling - floor) {
      const Gva at = (ceiling - bytes).align_down(align);
      if (at >= floor) return at;
    }
    if (i > 0) ceiling = std::min(ceiling, vmas_[i - 1].start);
  }
  return Gva(0);
}

Gva VmaList::end_before(Gva a) const {
  const std::size_t i = first_after(a);
  if (i < vmas_.size() && vmas_[i].start < a) return a;
  return i > 0 ? vmas_[i - 1].end : Gva(0);
}

Gva VmaList::start_from(Gva a) const {
  const std::size_t i = first_after(a);
  if (i == vmas_.size()) return kTablesEnd;
  return std::max(vmas_[i].start, a);
}

}  // namespace mmuscope
