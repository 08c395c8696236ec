#include <array>

#include "core/machine.h"
#include "workloads/synthetic/programs.h"
#include "workloads/synthetic/synthetic.h"

namespace mmuscope {

namespace {

using Kind = ParamInfo::Kind;

constexpr std::array<ParamInfo, 8> kParams = {{
    {"bytes", Kind::Bytes, "64m", "bytes", "memory of each process, all written before", kPageBytes,
     double(u64{1} << 45), ""},
    {"rounds", Kind::Count, "4", "rounds", "harvests of the dirty log while the guest runs", 1, 1e6,
     ""},
    {"accesses", Kind::Count, "100000", "accesses", "8-byte accesses of each process in a round", 1,
     1e12, ""},
    {"writes", Kind::Real, "0.2", "", "share of the accesses that are stores", 0, 1, ""},
    {"skew", Kind::Real, "0.6", "", "exponent of the popularity of pages (Zipf)", 0, 4, ""},
    kGuestPageParam,
    kProcessesParam,
    kMemoryParam,
}};

/// The host's migration thread, told by the guest how far it has come: it starts the log when every
/// process has written its memory, harvests when all have done a round, stops it after the last.
class Migration {
 public:
  Migration(u64 processes, u64 rounds) : processes_(processes), left_(rounds + 1) {}

  /// A process is at the end of a round, its loading counted as one.
  void arrived(Vcpu& vcpu) {
    if (++arrived_ < processes_) return;
    arrived_ = 0;
    Pager& pager = vcpu.machine().pager();
    if (logging_) {
      ++vcpu.counters[Event::DirtyHarvest];
      vcpu.counters[Event::DirtyPage] += pager.harvest_dirty();
    } else {
      pager.log_dirty(true);
      logging_ = true;
    }
    if (--left_ == 0) pager.log_dirty(false);
  }

 private:
  u64 processes_, left_, arrived_ = 0;
  bool logging_ = false;
};

/// Writes its memory once, then accesses it at random, a round a slice. It does not wait for the
/// others: a round ends when as many slices have ended as there are processes.
class Migrated final : public Program {
 public:
  Migrated(const Params& params, u64 bytes, u64 seed, std::shared_ptr<Migration> migration)
      : params_(params),
        bytes_(bytes),
        left_(params.count("rounds")),
        writes_(params.real("writes")),
        pattern_(bytes, params.real("skew"), seed),
        migration_(std::move(migration)) {}

  bool step(Kernel& kernel, Vcpu& vcpu) override {
    if (start_ == Gva(0)) {
      const Source source = source_of(params_);
      start_ = map_or_throw(kernel, vcpu, bytes_, source);
      write_every_page(vcpu, start_, bytes_, page_of(source));
    } else {
      access_words(vcpu, start_, params_.count("accesses"), pattern_, writes_);
      --left_;
    }
    migration_->arrived(vcpu);
    return left_ > 0;
  }

 private:
  Params params_;
  u64 bytes_, left_;
  StoreShare writes_;
  ZipfPattern pattern_;
  std::shared_ptr<Migration> migration_;
  Gva start_;
};

}  // namespace

std::span<const ParamInfo> migrate_params() { return kParams; }

std::unique_ptr<Workload> make_migrate(const Params& params, u64 seed) {
  const u64 bytes = whole_pages(params.count("bytes"), page_of(source_of(params)));
  const auto migration =
      std::make_shared<Migration>(params.count("processes"), params.count("rounds"));
  return std::make_unique<ProgramsWorkload>(
      "migrate", params, bytes, seed,
      [params, bytes, migration](u64 own_seed) -> std::unique_ptr<Program> {
        return std::make_unique<Migrated>(params, bytes, own_seed, migration);
      });
}

}  // namespace mmuscope
