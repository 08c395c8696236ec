#include "shadow/shadow_cache.h"

#include <cassert>

namespace mmuscope {

namespace {

constexpr std::size_t kFirstBuckets = 4096;  // as many as KVM has, which never grows

}  // namespace

ShadowCache::ShadowCache(PhysicalMemory& memory)
    : memory_(memory),
      buckets_(kFirstBuckets),
      hash_(Hash::bucket_traits(buckets_.data(), buckets_.size())) {}

ShadowCache::~ShadowCache() {
  by_age_.clear();
  hash_.clear();
  for (ShadowPage& p : arena_) p.parents.clear();
}

ShadowPage* ShadowCache::find(Gfn gfn, const Role& role) {
  const auto [begin, end] = hash_.equal_range(gfn);
  for (auto it = begin; it != end; ++it) {
    if (it->role == role) return &*it;
  }
  return nullptr;
}

std::vector<ShadowPage*> ShadowCache::shadows_of(Gfn gfn) const {
  std::vector<ShadowPage*> found;
  const auto [begin, end] = hash_.equal_range(gfn);
  for (auto it = begin; it != end; ++it) {
    // The hash owns no page, so that looking them up in a constant one yields pages to change.
    if (it->has_guest_table()) found.push_back(const_cast<ShadowPage*>(&*it));
  }
  return found;
}

ShadowPage& ShadowCache::create(Gfn gfn, const Role& role) {
  const Hfn table = memory_.allocate_table();
  ShadowPage* page;
  if (unused_.empty()) {
    page = &arena_.emplace_back();
  } else {
    page = unused_.back();
    unused_.pop_back();
  }
  page->gfn = gfn;
  page->role = role;
  page->table = table;
  page->entries = memory_.at(table.base());
  page->invalid = page->unsync = false;
  page->writes_emulated = page->unsync_children = 0;
  page->unsync_child.reset();
  if (hash_.size() >= buckets_.size()) grow();
  hash_.insert(*page);
  by_age_.push_back(*page);
  return *page;
}

void ShadowCache::retire(ShadowPage& page) {
  by_age_.erase(by_age_.iterator_to(page));
  hash_.erase(hash_.iterator_to(page));
}

void ShadowCache::release(ShadowPage& page) {
  assert(!page.age_hook.is_linked() && !page.frame_hook.is_linked());
  assert(page.parents.empty() && page.root_count == 0);
  memory_.free_table(page.table);
  unused_.push_back(&page);
}

void ShadowCache::grow() {
  std::vector<Hash::bucket_type> more(2 * buckets_.size());
  hash_.rehash(Hash::bucket_traits(more.data(), more.size()));
  buckets_ = std::move(more);
}

}  // namespace mmuscope
