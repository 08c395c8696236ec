// Any bytes as each source that is text, by the first byte: a trace's text form, a log of strace, a
// list of perf. Refused with InputError, or made into a trace that can be read and written as text.
#include "workloads/trace/text.h"

#include <unistd.h>

#include <cstdint>

#include "core/error.h"
#include "tests/workloads/trace_files.h"
#include "workloads/trace/coarse.h"
#include "workloads/trace/tools.h"

using namespace mmuscope;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::string base =
      (std::filesystem::temp_directory_path() / ("mmuscope-fuzz-text-" + std::to_string(getpid())))
          .string();
  static std::FILE* const nowhere = std::fopen("/dev/null", "w");
  if (size == 0) return 0;
  const std::filesystem::path log = base + ".log";
  const std::filesystem::path out = base + ".mmt";
  std::ofstream(log, std::ios::binary)
      .write(reinterpret_cast<const char*>(data) + 1, static_cast<std::streamsize>(size - 1));
  bool imported = true;
  try {
    if (data[0] % 3 == 0) import_text(log, out, 1);
    if (data[0] % 3 == 1) import_strace(log, out, 1);
    if (data[0] % 3 == 2) import_perf(log, out, 1);
  } catch (const InputError&) {
    imported = false;
  }
  if (imported) {
    (void)trace_description(out);
    trace_dump(out, nowhere);
  }
  std::filesystem::remove(log);
  std::filesystem::remove(out);
  return 0;
}
