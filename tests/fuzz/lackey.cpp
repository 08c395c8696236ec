// Any bytes as a log of lackey: refused with InputError, or made into a trace that can be read.
#include "workloads/trace/lackey.h"

#include <unistd.h>

#include <cstdint>

#include "core/error.h"
#include "tests/workloads/trace_files.h"
#include "workloads/trace/tools.h"

using namespace mmuscope;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::string base = (std::filesystem::temp_directory_path() /
                                   ("mmuscope-fuzz-lackey-" + std::to_string(getpid())))
                                      .string();
  const std::filesystem::path log = base + ".lk";
  const std::filesystem::path out = base + ".mmt";
  std::ofstream(log, std::ios::binary)
      .write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
  LackeyOptions options;
  options.compression = 1;
  bool imported = true;
  try {
    import_lackey({&log, 1}, out, options);
  } catch (const InputError&) {
    imported = false;
  }
  if (imported) trace_info(out);
  std::filesystem::remove(log);
  std::filesystem::remove(out);
  return 0;
}
