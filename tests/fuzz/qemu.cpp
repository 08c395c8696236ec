// Any words as what the QEMU plugin writes: the input is cut into a code file and two logs, at
// lengths that its first two bytes say. Refused with InputError, or made into a trace that can be
// read.
#include "workloads/trace/qemu.h"

#include <unistd.h>

#include <algorithm>
#include <cstdint>

#include "core/error.h"
#include "tests/workloads/trace_files.h"
#include "workloads/trace/tools.h"

using namespace mmuscope;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::filesystem::path folder = [] {
    const auto path =
        std::filesystem::temp_directory_path() / ("mmuscope-fuzz-qemu-" + std::to_string(getpid()));
    std::filesystem::create_directories(path);
    return path;
  }();
  if (size < 2) return 0;
  const std::size_t lengths[] = {std::size_t{data[0]} * 8, std::size_t{data[1]} * 8, size};
  const char* const names[] = {"1.1.code", "1.1.2.log", "1.2.3.log"};
  data += 2;
  size -= 2;
  for (int i = 0; i < 3; ++i) {
    const std::size_t length = std::min(lengths[i], size);
    std::ofstream(folder / names[i], std::ios::binary)
        .write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(length));
    data += length;
    size -= length;
  }
  bool imported = true;
  try {
    (void)import_qemu(folder, folder / "t");
  } catch (const InputError&) {
    imported = false;
  }
  if (imported) (void)trace_info(folder / "t");
  return 0;
}
