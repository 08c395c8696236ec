#include <algorithm>
#include <array>

#include "workloads/synthetic/programs.h"
#include "workloads/synthetic/synthetic.h"

namespace mmuscope {

namespace {

using Kind = ParamInfo::Kind;

constexpr std::array<ParamInfo, 10> kParams = {{
    {"bytes", Kind::Bytes, "256m", "bytes", "tables of each server, all written before", kPageBytes,
     double(u64{1} << 45), ""},
    {"accesses", Kind::Count, "2000000", "accesses", "8-byte accesses by each thread", 1, 1e12, ""},
    {"writes", Kind::Real, "0.05", "", "share of the accesses that are stores", 0, 1, ""},
    {"skew", Kind::Real, "0.99", "", "exponent of the popularity of pages (Zipf)", 0, 4, ""},
    {"work", Kind::Count, "100", "cycles",
     "of its own for each access: a row from the last-level cache, about 70, and 30 instructions",
     0, 1e9, ""},
    {"threads", Kind::Count, "1", "threads", "threads of a server, in one address space", 1, 256,
     ""},
    {"slice", Kind::Count, "50000", "accesses", "time slice of a thread on a vCPU with several", 1,
     1e12, ""},
    kGuestPageParam,
    kProcessesParam,
    kMemoryParam,
}};

/// Reads, and now and then writes, words of a large block at random.
class Client : public Program {
 public:
  Client(const Params& params, u64 bytes, Gva start, u64 seed)
      : left_(params.count("accesses")),
        slice_(params.count("slice")),
        work_(params.count("work")),
        writes_(params.real("writes")),
        pattern_(bytes, params.real("skew"), seed),
        start_(start) {}

  bool step(Kernel&, Vcpu& vcpu) override {
    const u64 now = std::min(left_, slice_);
    access_words(vcpu, start_, now, pattern_, writes_, work_);
    left_ -= now;
    return left_ > 0;
  }

 private:
  u64 left_, slice_, work_;
  StoreShare writes_;
  ZipfPattern pattern_;

 protected:
  Gva start_;
};

/// Loads the tables, starts the other threads, and is one of them.
class Server final : public Client {
 public:
  Server(const Params& params, u64 bytes, u64 seed)
      : Client(params, bytes, Gva(0), seed), params_(params), bytes_(bytes), seeds_(seed) {}

  bool step(Kernel& kernel, Vcpu& vcpu) override {
    if (start_ == Gva(0)) load(kernel, vcpu);
    return Client::step(kernel, vcpu);
  }

 private:
  void load(Kernel& kernel, Vcpu& vcpu) {
    const Source source = source_of(params_);
    start_ = map_or_throw(kernel, vcpu, bytes_, source);
    write_every_page(vcpu, start_, bytes_, page_of(source));
    for (u64 i = 1; i < params_.count("threads"); ++i) {
      kernel.clone_thread(vcpu, std::make_unique<Client>(params_, bytes_, start_, seeds_.next()));
    }
  }

  Params params_;
  u64 bytes_;
  Random seeds_;
};

}  // namespace

std::span<const ParamInfo> database_params() { return kParams; }

std::unique_ptr<Workload> make_database(const Params& params, u64 seed) {
  const u64 bytes = whole_pages(params.count("bytes"), page_of(source_of(params)));
  return std::make_unique<ProgramsWorkload>(
      "database", params, bytes, seed, [params, bytes](u64 own_seed) -> std::unique_ptr<Program> {
        return std::make_unique<Server>(params, bytes, own_seed);
      });
}

}  // namespace mmuscope
