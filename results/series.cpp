#include "results/series.h"

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace mmuscope {

void Series::on_sample(Machine& machine, std::span<const ProcessView> alive,
                       const ProcessView* leaving, u64 guest_table_pages_in_all) {
  accounts_.on_sample(machine, alive, leaving, guest_table_pages_in_all);
  const Counters counters = machine.counters();
  const Gauges gauges = machine.pager().gauges();
  last_ = {machine.accesses(),
           alive.size(),
           guest_table_pages_in_all * kPageBytes,
           gauges.table_bytes,
           gauges.pager_bytes,
           gauges.mmu_unsync,
           total_exits(counters),
           counters[Event::GuestPageFault]};
  const u64 due = samples_.empty() ? every_ : samples_.back().accesses + every_;
  if (last_.accesses >= due) keep(last_);
}

u64 Series::sample_period() const { return std::min(every_, ProcessListener::sample_period()); }

std::vector<SeriesSample> Series::take() {
  if (samples_.empty() || !(samples_.back() == last_)) keep(last_);
  return std::exchange(samples_, {});
}

void Series::keep(const SeriesSample& sample) {
  constexpr std::size_t kMost = 1'000'000;
  if (samples_.size() == kMost) {
    throw RunError("series.csv would have more than 1,000,000 rows: a larger series-every is due");
  }
  samples_.push_back(sample);
}

}  // namespace mmuscope
