#pragma once

#include <filesystem>
#include <iosfwd>
#include <string>

#include "core/types.h"

namespace mmuscope {

/// How the single-access MMU cases of one file fared.
struct CasesResult {
  u64 cases = 0;
  u64 passed = 0;
  u64 failed() const { return cases - passed; }
};

/// Runs every case of a file of JSON lines (plain or gzip; the format is in
/// tests/truth/mmu/README.md) through the emulator's own walks, on a memory that holds the case's
/// table entries and nothing else. A case passes if its result is as recorded (as `expected_sdm`
/// says where that is there) and all table entries are afterwards what `post` says, accessed and
/// dirty flags included.
///
/// Each failed case is a line on `failures`, if that is not null. Throws InputError, with file and
/// line, for a file that cannot be read or a line that is no case.
CasesResult run_cases(const std::filesystem::path& file, std::ostream* failures);

/// "FILE: N cases, P passed, F failed".
std::string cases_line(const std::filesystem::path& file, const CasesResult& result);

}  // namespace mmuscope
