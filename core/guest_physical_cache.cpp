#include "core/guest_physical_cache.h"

namespace mmuscope {

namespace {

bool maps(const NestedTlb::Entry& e, Gpa a) {
  return e.context != kNoContext && a.align_down(e.size) == e.base;
}

}  // namespace

const NestedTlb::Entry* NestedTlb::find(Gpa a, Context context) {
  for (Entry& e : entries_) {
    if (e.context != context || !maps(e, a)) continue;
    e.stamp = ++now_;
    return &e;
  }
  return nullptr;
}

void NestedTlb::insert(const Entry& entry) {
  if (entries_.empty()) return;
  Entry* victim = &entries_.front();
  for (Entry& e : entries_) {
    if (e.context == entry.context && e.base == entry.base && e.size == entry.size) {
      victim = &e;
      break;
    }
    if (e.stamp < victim->stamp) victim = &e;  // a free entry has stamp 0
  }
  *victim = entry;
  victim->stamp = ++now_;
}

void NestedTlb::invalidate(const FlushMatch& match) {
  for (Entry& e : entries_) {
    if (e.context != kNoContext && match.covers(e.context)) e = Entry{};
  }
}

void NestedTlb::invalidate_address(Gpa a, const FlushMatch& match) {
  for (Entry& e : entries_) {
    if (maps(e, a) && match.covers(e.context)) e = Entry{};
  }
}

}  // namespace mmuscope
