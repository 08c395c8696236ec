// What `host` reads out of machines of several kinds, whose files are planted in a folder.

#include "results/live/host.h"

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "results/catalog.h"

namespace mmuscope {
namespace {

namespace fs = std::filesystem;

/// A machine's files, removed at the end.
class PlantedMachine {
 public:
  PlantedMachine()
      : source_{fs::temp_directory_path() / fmt::format("mmuscope_host_{}", getpid()), {}} {
    fs::remove_all(source_.root);
    write("proc/sys/kernel/osrelease", "6.1.0-18-amd64\n");
  }
  PlantedMachine(const PlantedMachine&) = delete;
  PlantedMachine& operator=(const PlantedMachine&) = delete;
  ~PlantedMachine() { fs::remove_all(source_.root); }

  PlantedMachine& write(const std::string& file, const std::string& text) {
    const fs::path path = source_.root / file;
    fs::create_directories(path.parent_path());
    std::ofstream(path) << text;
    return *this;
  }
  PlantedMachine& cpu(const std::string& ids, const std::string& lists) {
    return write("proc/cpuinfo", "processor\t: 0\n" + ids + lists +
                                     "\n\nprocessor\t: 1\nflags\t\t: svm npt ept vpid\n");
  }
  PlantedMachine& parameter(const std::string& module, const std::string& name,
                            const std::string& value) {
    return write("sys/module/" + module + "/parameters/" + name, value + "\n");
  }
  HostSource& source() { return source_; }
  HostFacts host() const { return read_host(source_); }

 private:
  HostSource source_;
};

const char* kSkylake =
    "vendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 85\n"
    "model name\t: Intel(R) Xeon(R) Gold 6148\nstepping\t: 4\n";
const char* kSkylakeLists =
    "flags\t\t: fpu pse lm nx pdpe1gb pcid invpcid vmx ept vpid\n"
    "vmx flags\t: vnmi invvpid ept_ad ept_1gb ept vpid pml\n";
const char* kRome =
    "vendor_id\t: AuthenticAMD\ncpu family\t: 23\nmodel\t\t: 49\n"
    "model name\t: AMD EPYC 7742\nstepping\t: 0\n";
const char* kRomeLists = "flags\t\t: fpu pse lm nx pdpe1gb svm npt flushbyasid\n";

std::string value(const HostFacts& host, const std::string& item) {
  for (const HostFacts::Fact& f : host.facts) {
    if (f.item == item) return f.value;
  }
  return "no such item";
}

/// The pager is one that the emulator has, with keys that it knows.
void check_pager(const HostFacts& host) {
  const Spec spec = parse_spec(host.pager);
  const PagerInfo& info = find_pager(spec.name);
  Params params("pager " + spec.name, info.params());
  CHECK_NOTHROW(params.set_list(spec.list));
}

TEST_CASE("host: Intel with EPT") {
  PlantedMachine m;
  m.cpu(kSkylake, kSkylakeLists).write("dev/kvm", "");
  m.parameter("kvm_intel", "ept", "Y").parameter("kvm_intel", "eptad", "Y");
  m.parameter("kvm_intel", "pml", "Y").parameter("kvm_intel", "vpid", "Y");
  m.parameter("kvm", "tdp_mmu", "Y");
  const HostFacts host = m.host();
  CHECK(host.paging == HostFacts::Paging::Ept);
  CHECK(host.native_supervisor);
  CHECK(host.pager == "nested:format=ept,page=1g,ad=on");
  CHECK(host.cpu == "skylake");
  for (const char* item : {"vmx", "ept", "vpid", "ept_ad", "ept_1gb", "pml", "nested_paging"}) {
    CHECK(value(host, item) == "yes");
  }
  CHECK(value(host, "svm") == "no");  // the second processor's words are not the first's
  CHECK(value(host, "npt") == "no");
  CHECK(value(host, "in_a_vm") == "no");
  CHECK(value(host, "asids") == "65535");
  CHECK(value(host, "page_sizes") == "4k 2m 1g");
  CHECK(value(host, "kvm_intel.vpid") == "Y");
  CHECK(value(host, "kvm.tdp_mmu") == "Y");
  CHECK(value(host, "kvm_amd.npt") == "none");
  CHECK(value(host, "dev_kvm") == "opens");
  CHECK(host.text() ==
        "Linux 6.1.0-18-amd64, KVM with two-dimensional paging, CPL 0 on the CPU: beside it "
        "nested:format=ept,page=1g,ad=on");
  check_pager(host);
}

TEST_CASE("host: Intel with EPT without large pages and A/D flags") {
  PlantedMachine m;
  m.cpu(kSkylake, "flags\t\t: lm vmx ept vpid\n").parameter("kvm_intel", "ept", "1");
  m.parameter("kvm_intel", "eptad", "N");
  CHECK(m.host().pager == "nested:format=ept,page=2m,ad=off");
  CHECK(value(m.host(), "page_sizes") == "4k 2m");
  CHECK(value(m.host(), "dev_kvm") == "No such file or directory");
}

TEST_CASE("host: Intel with EPT switched off is shadow paging with CPL 0 on the CPU") {
  PlantedMachine m;
  m.cpu(kSkylake, kSkylakeLists).parameter("kvm_intel", "ept", "N").write("dev/kvm", "");
  const HostFacts host = m.host();
  CHECK(host.paging == HostFacts::Paging::Shadow);
  CHECK(host.native_supervisor);
  CHECK(host.pager == "shadow-unsync:zap-unsync-children=on");
  CHECK(value(host, "ept") == "yes");
  CHECK(value(host, "cpl0") == "on the CPU");
  check_pager(host);
}

TEST_CASE("host: AMD with NPT") {
  PlantedMachine m;
  m.cpu(kRome, kRomeLists).parameter("kvm_amd", "npt", "1").write("dev/kvm", "");
  CHECK(value(m.host(), "asids") == "unknown");
  m.source().cpuid = [](u32 leaf) {
    return leaf == 0x8000'000a ? CpuidWords{1, 32'768, 0, 1} : CpuidWords{};
  };
  const HostFacts host = m.host();
  CHECK(host.paging == HostFacts::Paging::Npt);
  CHECK(host.pager == "nested:format=npt,page=1g");
  CHECK(host.cpu == "zen2");
  CHECK(value(host, "asids") == "32768");
  CHECK(value(host, "npt") == "yes");
  CHECK(value(host, "flushbyasid") == "yes");
  CHECK(value(host, "ept") == "no");
  check_pager(host);
}

TEST_CASE("host: no KVM module and no device") {
  PlantedMachine m;
  m.cpu(kSkylake, kSkylakeLists);
  const HostFacts host = m.host();
  CHECK(host.paging == HostFacts::Paging::None);
  CHECK(host.pager.empty());
  CHECK(value(host, "kvm_modules") == "none");
  CHECK(value(host, "pager") == "none");
  CHECK(host.text() == "Linux 6.1.0-18-amd64, no KVM");
}

TEST_CASE("host: neither vmx nor svm, and KVM opens all the same") {
  PlantedMachine m;
  m.cpu("vendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 143\nstepping\t: 8\n",
        "flags\t\t: lm hypervisor\n");
  m.parameter("kvm", "eager_zap_unsync_children", "N").parameter("kvm_pvm", "force", "N");
  m.write("dev/kvm", "");
  const HostFacts host = m.host();
  CHECK(host.paging == HostFacts::Paging::Shadow);
  CHECK_FALSE(host.native_supervisor);
  CHECK(host.pager == "shadow-unsync");
  CHECK(host.cpu == "sapphire-rapids");
  CHECK(value(host, "kvm_modules") == "kvm kvm_pvm");
  CHECK(value(host, "in_a_vm") == "yes");
  m.parameter("kvm", "eager_zap_unsync_children", "Y");
  CHECK(m.host().pager == "shadow-unsync:zap-unsync-children=on");
}

TEST_CASE("host: an empty machine has the same items, and no CPU model") {
  PlantedMachine m;
  const HostFacts empty = m.host(), here = read_host(this_host());
  REQUIRE(empty.facts.size() == here.facts.size());
  for (std::size_t i = 0; i < empty.facts.size(); ++i) {
    CHECK(empty.facts[i].item == here.facts[i].item);
  }
  CHECK(empty.cpu.empty());
  CHECK(host_rows(empty).size() == empty.facts.size() + 1);
}

}  // namespace
}  // namespace mmuscope
