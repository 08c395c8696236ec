#include "core/data_caches.h"

namespace mmuscope {

LineCache::LineCache(const LineCacheGeometry& g)
    : sets_((u64{g.kib} << 10 >> kLineShift) / g.ways), ways_(g.ways), lines_(sets_ * g.ways) {}

bool LineCache::touch(u64 line) {
  Line* const set = lines_.data() + line % sets_ * ways_;
  Line* victim = set;
  for (Line* l = set; l < set + ways_; ++l) {
    if (l->number == line) {
      l->stamp = ++now_;
      return true;
    }
    if (l->stamp < victim->stamp) victim = l;  // a free one has stamp 0
  }
  *victim = {line, ++now_};
  return false;
}

}  // namespace mmuscope
