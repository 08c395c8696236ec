#include "workloads/synthetic/programs.h"

#include "core/error.h"
#include "core/random.h"

namespace mmuscope {

namespace {

constexpr u64 kGiB = u64{1} << 30;

/// Data, tables for it, and the kernel's own.
u64 memory_for(u64 processes, u64 bytes_each) {
  const u64 each = bytes_each + bytes_each / 256 + (u64{1} << 20);
  return processes * each + (u64{32} << 20);
}

}  // namespace

ProgramsWorkload::ProgramsWorkload(std::string name, const Params& params, u64 bytes_each, u64 seed,
                                   MakeProgram make)
    : name_(std::move(name)),
      processes_(params.count("processes")),
      memory_bytes_(params.count("memory")),
      seed_(seed),
      make_(std::move(make)) {
  if (memory_bytes_ != 0) return;
  // Whole GiBs, as virtual machines have: what is not used costs nothing.
  memory_bytes_ = (memory_for(processes_, bytes_each) + kGiB - 1) / kGiB * kGiB;
}

void ProgramsWorkload::run(Machine& machine, ProcessListener* listener) {
  Kernel kernel(machine, listener);
  Random seeds(seed_);
  for (u64 i = 0; i < processes_; ++i) kernel.spawn(name_, make_(seeds.next()));
  kernel.run();
  if (kernel.statistics().segfaults > 0) throw RunError(name_ + ": a process was killed");
}

Source source_of(const Params& params) {
  return params.text("guest-page") == "2m" ? Source::huge() : Source::anonymous();
}

PageSize page_of(const Source& source) {
  return source.kind == Source::Kind::Huge ? PageSize::k2M : PageSize::k4K;
}

u64 whole_pages(u64 bytes, PageSize size) {
  return (bytes + page_bytes(size) - 1) & ~(page_bytes(size) - 1);
}

Gva map_or_throw(Kernel& kernel, Vcpu& vcpu, u64 bytes, Source source) {
  const auto at = kernel.mmap(vcpu, std::nullopt, bytes, prot::kRead | prot::kWrite, source);
  if (!at) throw RunError("no room for " + std::to_string(bytes) + " bytes in an address space");
  return *at;
}

void write_every_page(Vcpu& vcpu, Gva start, u64 bytes, PageSize size) {
  for (u64 at = 0; at < bytes; at += page_bytes(size)) vcpu.store<u64>(start + at, at);
}

}  // namespace mmuscope
