#pragma once

#include <functional>
#include <string>

#include "workloads/guest/kernel.h"
#include "workloads/synthetic/patterns.h"

namespace mmuscope {

/// Keys that every synthetic workload has, to end its list with.
inline constexpr ParamInfo kProcessesParam = {"processes",
                                              ParamInfo::Kind::Count,
                                              "1",
                                              "processes",
                                              "independent copies of the program",
                                              1,
                                              4096,
                                              ""};
inline constexpr ParamInfo kMemoryParam = {
    "memory", ParamInfo::Kind::Bytes, "0", "bytes", "guest memory; 0 is as much as it needs",
    0,        double(u64{1} << 46),   ""};
inline constexpr ParamInfo kGuestPageParam = {
    "guest-page", ParamInfo::Kind::Choice, "4k", "", "page size that the guest maps", 0, 0,
    "4k|2m"};

/// Runs copies of one program, each a process with a seed of its own.
class ProgramsWorkload final : public Workload {
 public:
  using MakeProgram = std::function<std::unique_ptr<Program>(u64 seed)>;
  /// Takes the keys `processes` and `memory` from the parameters; `bytes_each` is what a process
  /// needs for its data at most.
  ProgramsWorkload(std::string name, const Params& params, u64 bytes_each, u64 seed,
                   MakeProgram make);

  u64 memory_bytes() const override { return memory_bytes_; }
  void run(Machine& machine, ProcessListener* listener) override;

 private:
  std::string name_;
  u64 processes_;
  u64 memory_bytes_;
  u64 seed_;
  MakeProgram make_;
};

/// What guest-page names, as the source of a mapping and as a size.
Source source_of(const Params& params);
PageSize page_of(const Source& source);
/// Rounds up to whole pages.
u64 whole_pages(u64 bytes, PageSize size);

/// mmap of fresh memory that must succeed; throws RunError.
Gva map_or_throw(Kernel& kernel, Vcpu& vcpu, u64 bytes, Source source = {});
/// Writes one word in every page.
void write_every_page(Vcpu& vcpu, Gva start, u64 bytes, PageSize size);

/// `count` accesses to words that the pattern chooses, of which `stores` decides the kind.
template <class Pattern>
inline void access_words(Vcpu& vcpu, Gva start, u64 count, Pattern& pattern, StoreShare& stores,
                         u64 work = 0) {
  // Copies, so that their state stays in registers: what a store writes could be anything.
  Pattern next = pattern;
  StoreShare is_store = stores;
  for (u64 i = 0; i < count; ++i) {
    const Gva at = start + next.next();
    if (is_store.next()) {
      vcpu.store<u64>(at, i);
    } else {
      vcpu.load<u64>(at);
    }
  }
  pattern = next;
  stores = is_store;
  vcpu.compute(count * work);
}

}  // namespace mmuscope
