// A machine's trace whose checksums hold, with any operations: the first byte says under which
// pager it is replayed, two more how many operations there are, the rest is the bytes of one block.
// It has to be refused with InputError, or run, or end with RunError.
#include <unistd.h>

#include <cstdint>

#include "core/error.h"
#include "results/catalog.h"
#include "tests/workloads/trace_blocks.h"
#include "tests/workloads/trace_files.h"
#include "workloads/trace/machine_replay.h"

using namespace mmuscope;

namespace {

constexpr u64 kMemory = u64{1} << 20;

TraceInfo info() {
  TraceInfo info;
  info.machine = true;
  info.vcpus = 2;
  info.memory_bytes = kMemory;
  return info;
}

void replay(const std::filesystem::path& path, const PagerInfo& pager) {
  const Params params("pager " + std::string(pager.name), pager.params());
  MachineConfig config;
  config.memory_bytes = kMemory;
  config.vcpus = 2;
  config.virtualized = pager.virtualized;
  Machine machine(config, [&](Machine& m) { return pager.make(m, params); });
  MachineReplay(path).run(machine, nullptr);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::filesystem::path path = std::filesystem::temp_directory_path() /
                                            ("mmuscope-fuzz-machine-" + std::to_string(getpid()));
  static const Blocks frame = [] {
    MachineTraceWriter(path, info(), 1).finish();
    return unpack(file_bytes(path));
  }();
  if (size < 3 || size > kMaxBlockBytes) return 0;
  const auto pagers = pager_catalog();
  BlockHeader header;
  header.kind = BlockKind::Machine;
  header.records = data[1] | static_cast<u32>(data[2]) << 8;
  const std::string raw(reinterpret_cast<const char*>(data) + 3, size - 3);
  Blocks blocks = {frame[0], {header, raw}, frame[1]};
  blocks[2].first.first_record = header.records;
  std::ofstream(path, std::ios::binary) << pack(blocks);
  try {
    replay(path, pagers[data[0] % pagers.size()]);
  } catch (const InputError&) {
  } catch (const RunError&) {
  }
  return 0;
}
