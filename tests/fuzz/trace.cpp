// A trace whose checksums hold, with any records: the input is a count of records (2 bytes) and the
// bytes of one block. It has to be refused with InputError or read.
#include <unistd.h>

#include <cstdint>

#include "core/error.h"
#include "tests/workloads/trace_blocks.h"
#include "tests/workloads/trace_files.h"
#include "workloads/trace/tools.h"
#include "workloads/trace/writer.h"

using namespace mmuscope;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("mmuscope-fuzz-trace-" + std::to_string(getpid()));
  static const Blocks frame = [] {
    TraceWriter(path, {"fuzz", "fuzz", "nothing", {}}, 1).finish();
    return unpack(file_bytes(path));
  }();
  if (size < 2 || size > kMaxBlockBytes) return 0;
  BlockHeader header;
  header.kind = BlockKind::Records;
  header.records = data[0] | static_cast<u32>(data[1]) << 8;
  const std::string raw(reinterpret_cast<const char*>(data) + 2, size - 2);
  Blocks blocks = {frame[0], {header, raw}, frame[1]};
  blocks[2].first.first_record = header.records;
  std::ofstream(path, std::ios::binary) << pack(blocks);
  try {
    trace_info(path);
  } catch (const InputError&) {
  }
  std::filesystem::remove(path);
  return 0;
}
