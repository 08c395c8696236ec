#pragma once

#include <cstdio>
#include <filesystem>

#include "workloads/trace/format.h"

namespace mmuscope {

// The text form of a trace, a program's or a machine's: what it says is all that the file says, so
// a trace that is written as text and read again is the same. First lines "key: value" (what
// TraceInfo holds), then one line a record: its number, which task or vCPU runs ("-": none), and
//
//   instruction|load|store|modify ADDRESS BYTES
//   switch TASK
//   [synthesized] CALL [task NUMBER] ARGUMENT... = RESULT [NAME]      CALL as in kCallKindNames
//
// and of a machine the operation with its operands (MachineOp), "user" before an access in user
// mode. Number and task may be left out when reading. Numbers are decimal or hexadecimal (0x).

/// Writes a trace as text. Throws InputError as the readers do, after the records before the
/// damage.
void trace_dump(const std::filesystem::path& path, std::FILE* out);

/// Makes a trace of its text form. Throws InputError with file and line.
void import_text(const std::filesystem::path& text, const std::filesystem::path& out,
                 int compression = 3);

}  // namespace mmuscope
