#include "results/live/host.h"

#include <cpuid.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

namespace mmuscope {

namespace {

namespace fs = std::filesystem;

constexpr u32 kSvmLeaf = 0x8000'000a;  // APM vol. 3, "SVM Revision and Feature Identification"

std::string trimmed(const std::string& text) {
  const auto first = text.find_first_not_of(" \t\n");
  if (first == std::string::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\n") - first + 1);
}

/// The first line of a file; empty if it cannot be read.
std::string first_line(const fs::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return trimmed(line);
}

bool is_on(const std::string& parameter) { return parameter == "Y" || parameter == "1"; }
const char* yes_no(bool is) { return is ? "yes" : "no"; }

// --- the CPU -------------------------------------------------------------------------------------

/// What /proc/cpuinfo says of the first processor.
class CpuInfo {
 public:
  explicit CpuInfo(const fs::path& file) {
    std::ifstream in(file);
    for (std::string line; std::getline(in, line) && !line.empty();) {
      const auto colon = line.find(':');
      if (colon == std::string::npos) continue;
      fields_.emplace(trimmed(line.substr(0, colon)), trimmed(line.substr(colon + 1)));
    }
    for (const char* list : {"flags", "vmx flags"}) {
      std::istringstream words(field(list));
      for (std::string word; words >> word;) flags_.insert(word);
    }
  }
  std::string field(const std::string& name) const {
    const auto found = fields_.find(name);
    return found == fields_.end() ? "" : found->second;
  }
  unsigned number(const std::string& name) const {
    return static_cast<unsigned>(std::strtoul(field(name).c_str(), nullptr, 10));
  }
  bool has(const std::string& flag) const { return flags_.count(flag) != 0; }

 private:
  std::map<std::string, std::string> fields_;
  std::set<std::string> flags_;
};

/// Family and model numbers of the CPUs that `list cpus` describes, as Linux's intel-family.h and
/// AMD's revision guides give them.
struct KnownCpu {
  const char* vendor;
  unsigned family, model, first_stepping, last_stepping;
  const char* name;
};
constexpr std::array kKnownCpus = {
    KnownCpu{"GenuineIntel", 6, 26, 0, 15, "nehalem"},
    KnownCpu{"GenuineIntel", 6, 63, 0, 15, "haswell"},
    KnownCpu{"GenuineIntel", 6, 85, 0, 4, "skylake"},
    KnownCpu{"GenuineIntel", 6, 85, 5, 7, "cascade-lake"},
    KnownCpu{"GenuineIntel", 6, 106, 0, 15, "ice-lake"},
    KnownCpu{"GenuineIntel", 6, 143, 0, 15, "sapphire-rapids"},
    KnownCpu{"AuthenticAMD", 16, 2, 0, 15, "barcelona"},
    KnownCpu{"AuthenticAMD", 23, 1, 0, 15, "zen1"},
    KnownCpu{"AuthenticAMD", 23, 49, 0, 15, "zen2"},
    KnownCpu{"AuthenticAMD", 25, 1, 0, 15, "zen3"},
    KnownCpu{"AuthenticAMD", 25, 17, 0, 15, "zen4"},
};

std::string known_cpu(const CpuInfo& cpu) {
  const unsigned stepping = cpu.number("stepping");
  for (const KnownCpu& k : kKnownCpus) {
    if (cpu.field("vendor_id") == k.vendor && cpu.number("cpu family") == k.family &&
        cpu.number("model") == k.model && stepping >= k.first_stepping &&
        stepping <= k.last_stepping) {
      return k.name;
    }
  }
  return {};
}

// --- all facts -----------------------------------------------------------------------------------

class Reader {
 public:
  explicit Reader(const HostSource& source) : source_(source), cpu_(source.root / "proc/cpuinfo") {}

  HostFacts read() {
    const std::string release = first_line(source_.root / "proc/sys/kernel/osrelease");
    host_.kernel = "Linux " + (release.empty() ? "of unknown release" : release);
    add("kernel", release.empty() ? "unknown" : release, "/proc/sys/kernel/osrelease");
    cpu_facts();
    asid_facts();
    kvm_facts();
    choose();
    return std::move(host_);
  }

 private:
  void add(const std::string& item, const std::string& value, const std::string& from) {
    host_.facts.push_back({item, value, from});
  }

  void cpu_facts() {
    const char* from = "/proc/cpuinfo";
    const std::string model = cpu_.field("model name");
    add("cpu", model.empty() ? "unknown" : model, from);
    add("in_a_vm", yes_no(cpu_.has("hypervisor")), from);
    for (const char* flag : {"vmx", "ept", "ept_ad", "ept_1gb", "ept_5level", "pml", "vpid", "svm",
                             "npt", "flushbyasid"}) {
      add(flag, yes_no(cpu_.has(flag)), from);
    }
    const bool nested_paging = cpu_.has("ept") || cpu_.has("npt");
    add("nested_paging", yes_no(nested_paging), from);
    for (const char* flag : {"pcid", "invpcid", "la57"}) add(flag, yes_no(cpu_.has(flag)), from);
    const bool long_mode = cpu_.has("lm");
    std::string sizes = cpu_.has("pse") || long_mode ? (long_mode ? "4k 2m" : "4k 4m") : "4k";
    if (cpu_.has("pdpe1gb")) sizes += " 1g";
    add("page_sizes", sizes, from);
  }

  /// How many address-space tags of VMs: AMD says, Intel's VPIDs are 16 bits wide.
  void asid_facts() {
    constexpr u32 kTagsOfVpid = 65'535;
    if (cpu_.has("vpid")) {
      add("asids", fmt::format("{}", kTagsOfVpid), "SDM vol. 3, Virtual-Processor Identifiers");
    } else if (!cpu_.has("svm")) {
      add("asids", "0", "/proc/cpuinfo");
    } else if (!source_.cpuid) {
      add("asids", "unknown", "CPUID 8000000Ah");
    } else {
      add("asids", fmt::format("{}", source_.cpuid(kSvmLeaf).ebx), "CPUID 8000000Ah");
    }
  }

  std::string parameter(const std::string& module, const std::string& name) {
    const std::string file = fmt::format("sys/module/{}/parameters/{}", module, name);
    const std::string value = first_line(source_.root / file);
    add(module + "." + name, value.empty() ? "none" : value, "/" + file);
    return value;
  }

  void kvm_facts() {
    std::vector<std::string> modules;
    std::error_code none;
    for (const auto& entry : fs::directory_iterator(source_.root / "sys/module", none)) {
      const std::string name = entry.path().filename();
      if (name == "kvm" || name.rfind("kvm_", 0) == 0) modules.push_back(name);
    }
    std::sort(modules.begin(), modules.end());
    std::string names;
    for (const std::string& m : modules) names += (names.empty() ? "" : " ") + m;
    add("kvm_modules", names.empty() ? "none" : names, "/sys/module");
    opens_ = device();
    intel_ = std::count(modules.begin(), modules.end(), "kvm_intel") != 0;
    amd_ = std::count(modules.begin(), modules.end(), "kvm_amd") != 0;
    ept_ = is_on(parameter("kvm_intel", "ept"));
    ept_ad_ = is_on(parameter("kvm_intel", "eptad"));
    parameter("kvm_intel", "pml");
    parameter("kvm_intel", "vpid");
    npt_ = is_on(parameter("kvm_amd", "npt"));
    parameter("kvm", "tdp_mmu");
    parameter("kvm", "nx_huge_pages");
    eager_zap_ = parameter("kvm", "eager_zap_unsync_children");
  }

  bool device() {
    const int fd = open((source_.root / "dev/kvm").c_str(), O_RDWR | O_CLOEXEC);
    add("dev_kvm", fd >= 0 ? "opens" : std::strerror(errno), "/dev/kvm");
    if (fd < 0) return false;
    close(fd);
    return true;
  }

  void choose() {
    host_.native_supervisor = intel_ || amd_;
    if (ept_ || npt_) {
      host_.paging = ept_ ? HostFacts::Paging::Ept : HostFacts::Paging::Npt;
      const bool large = cpu_.has(ept_ ? "ept_1gb" : "pdpe1gb");
      host_.pager =
          fmt::format("nested:format={},page={}", ept_ ? "ept" : "npt", large ? "1g" : "2m");
      if (ept_) host_.pager += ept_ad_ ? ",ad=on" : ",ad=off";
    } else if (intel_ || amd_ || opens_) {
      host_.paging = HostFacts::Paging::Shadow;
      host_.pager = "shadow-unsync";
      // Upstream takes the out-of-sync children of an upper page down with it, without asking.
      if (eager_zap_.empty() || is_on(eager_zap_)) host_.pager += ":zap-unsync-children=on";
    }
    host_.cpu = known_cpu(cpu_);
    add("kvm_paging", paging_name(), "all of the above");
    add("cpl0",
        host_.paging == HostFacts::Paging::None ? "none"
        : host_.native_supervisor               ? "on the CPU"
                                                : "emulated",
        "all of the above");
    add("pager", host_.pager.empty() ? "none" : "--pager " + host_.pager, "all of the above");
    add("cpu_model", host_.cpu.empty() ? "none of `list cpus`" : "--cpu " + host_.cpu,
        "/proc/cpuinfo");
  }

  const char* paging_name() const {
    switch (host_.paging) {
      case HostFacts::Paging::None:
        return "none";
      case HostFacts::Paging::Shadow:
        return "shadow";
      case HostFacts::Paging::Ept:
        return "two-dimensional (EPT)";
      case HostFacts::Paging::Npt:
        return "two-dimensional (NPT)";
    }
    return "";
  }

  const HostSource& source_;
  CpuInfo cpu_;
  HostFacts host_;
  bool opens_ = false, intel_ = false, amd_ = false, ept_ = false, ept_ad_ = false, npt_ = false;
  std::string eager_zap_;
};

}  // namespace

HostSource this_host() {
  HostSource source;
  source.cpuid = [](u32 leaf) {
    CpuidWords w;
    __get_cpuid(leaf, &w.eax, &w.ebx, &w.ecx, &w.edx);
    return w;
  };
  return source;
}

HostFacts read_host(const HostSource& source) { return Reader(source).read(); }

std::string HostFacts::text() const {
  if (paging == Paging::None) return kernel + ", no KVM";
  return fmt::format("{}, KVM with {} paging, CPL 0 {}: beside it {}", kernel,
                     tdp() ? "two-dimensional" : "shadow",
                     native_supervisor ? "on the CPU" : "emulated", pager);
}

std::vector<CsvRow> host_rows(const HostFacts& host) {
  std::vector<CsvRow> rows = {{"item", "value", "from"}};
  for (const HostFacts::Fact& f : host.facts) rows.push_back({f.item, f.value, f.from});
  return rows;
}

}  // namespace mmuscope
