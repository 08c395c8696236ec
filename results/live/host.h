#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/types.h"
#include "results/csv.h"

namespace mmuscope {

/// The four registers that the CPUID instruction returns.
struct CpuidWords {
  u32 eax = 0, ebx = 0, ecx = 0, edx = 0;
};

/// Where host facts come from: a root directory with proc, sys and dev below it, and CPUID. Another
/// root than "/" is a copy of another machine's files, and has no CPUID.
struct HostSource {
  std::filesystem::path root = "/";
  std::function<CpuidWords(u32 leaf)> cpuid;  ///< empty: none
};
/// This machine.
HostSource this_host();

/// What of a machine decides how its KVM runs a guest's memory, and which pager corresponds.
struct HostFacts {
  struct Fact {
    std::string item, value, from;  ///< "ept", "yes", "/proc/cpuinfo"
  };
  /// How KVM translates a guest's addresses here.
  enum class Paging : u8 { None, Shadow, Ept, Npt };

  std::vector<Fact> facts;  ///< the same items in the same order on every machine
  std::string kernel;       ///< "Linux 6.1.0"
  Paging paging = Paging::None;
  /// CPL 0 runs on the CPU. If not, KVM emulates it and fetches in software.
  bool native_supervisor = false;
  std::string pager;  ///< SPEC; empty without KVM
  std::string cpu;    ///< of `list cpus`; empty if this CPU is none of them

  bool tdp() const { return paging == Paging::Ept || paging == Paging::Npt; }
  std::string text() const;  ///< one line for people
};
/// Reads a machine's files; what is missing is a fact too. Changes nothing, makes no VM.
HostFacts read_host(const HostSource& source);

/// Rows item,value,from under a header.
std::vector<CsvRow> host_rows(const HostFacts& host);

}  // namespace mmuscope
