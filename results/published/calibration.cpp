#include "results/published/calibration.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "results/cost_model.h"

namespace mmuscope {
namespace {

constexpr Load kGetpid = {"micro:op=getpid,operations=OPS", 200, 2200, 1, "kpti=off"};
constexpr Load kGetpidKpti = {"micro:op=getpid,operations=OPS", 200, 2200, 1, "kpti=on"};
constexpr Load kProtection = {"micro:op=protection-fault,operations=OPS", 200, 2200, 1, "kpti=off"};
constexpr Load kPteWrite = {"ptemod:op=flag,operations=OPS", 200, 2200, 1, "kpti=off"};
constexpr Load kFreshPage = {"churn:block=1m,bytes=OPSm", 4, 20, 1, "kpti=on"};
constexpr std::string_view kHypervisor = "cycles_exit+cycles_vmm";

Figure ratio(const Load& load, std::string_view pager, std::string_view of, std::string_view over) {
  return {"", {load, pager, of}, {load, pager, over}};
}

Component component(std::string_view what, double published, const Load& load,
                    std::string_view pager, std::string_view cycles, std::string_view each,
                    std::string_view constant, std::string_view paid_for) {
  return {what, published, ratio(load, pager, cycles, each), constant,
          ratio(load, pager, paid_for, each)};
}

u64 price_of(std::string_view name, std::span<const PriceChange> changes) {
  for (const PriceChange& c : changes) {
    if (c.name == name) return c.cycles;
  }
  for (const Cost& c : costs()) {
    if (c.name == name) return c.cycles;
  }
  return exit_cost("cascade-lake").cycles;
}

}  // namespace

// All are the PVM paper's times at 2.5 GHz.
std::span<const Component> components() {
  static const std::vector<Component> kComponents = {
      component("system call, EPT, no KPTI: 0.06 us", 150, kGetpid, "nested", "cycles_elapsed",
                "guest_syscalls", "guest_syscall", "guest_syscalls"),
      component("system call, EPT, KPTI: 0.22 us", 550, kGetpidKpti, "nested", "cycles_elapsed",
                "guest_syscalls", "guest_cr3", "cr3_writes"),
      component("hypercall: 0.46 us", 1150, kGetpidKpti, "shadow-unsync", "cycles_exit", "exits",
                "exit", "exits"),
      component("CR3 write that exits, root cached: 0.94 us", 2340, kGetpidKpti, "shadow-unsync",
                kHypervisor, "exits_cr3", "control_register", "exits_cr3"),
      component("page fault intercepted and reflected: 0.64 us", 1600, kProtection, "shadow-unsync",
                kHypervisor, "pf_guest", "reflect", "pf_guest"),
      component("exit, emulation and injection, 1.66 us, less injection", 3700, kPteWrite, "shadow",
                kHypervisor, "mmu_pte_write", "emulate_write", "mmu_pte_write"),
      component("what shadow paging adds to a fresh page", 9700, kFreshPage, "shadow-unsync",
                kHypervisor, "guest_page_faults", "fill", "pf_fixed"),
      component("the guest's own cost of a fresh page", 8600, kFreshPage, "nested",
                "cycles_elapsed", "guest_page_faults", "guest_frame", "guest_frames"),
  };
  return kComponents;
}

std::optional<std::vector<Calibrated>> calibrate(const Measuring& how) {
  std::vector<Figure> figures;
  for (const Component& c : components()) {
    figures.push_back(c.measured);
    figures.push_back(c.paid);
  }
  const auto values = measure(figures, how);
  if (!values) return std::nullopt;
  const auto changes = how.prices == "none" ? std::vector<PriceChange>{} : read_prices(how.prices);
  std::vector<Calibrated> all;
  for (std::size_t i = 0; i < components().size(); ++i) {
    const Component& c = components()[i];
    Calibrated& made = all.emplace_back();
    made.component = &c;
    made.ours = (*values)[2 * i];
    made.constant = price_of(c.constant, changes);
    const auto paid = (*values)[2 * i + 1];
    if (!made.ours || !paid || *paid == 0) continue;
    const double fitted = static_cast<double>(made.constant) + (c.published - *made.ours) / *paid;
    made.fitted = static_cast<u64>(std::max(0.0, std::round(fitted)));
  }
  return all;
}

std::vector<CsvRow> calibration_rows(std::span<const Calibrated> all) {
  std::vector<CsvRow> rows = {
      {"component", "published", "ours", "off by", "constant", "stands at", "fitted"}};
  for (const Calibrated& c : all) {
    rows.push_back(
        {std::string(c.component->what), fmt::format("{:.0f}", c.component->published),
         c.ours ? fmt::format("{:.0f}", *c.ours) : "",
         c.ours ? fmt::format("{:+.1f} %", 100 * (*c.ours / c.component->published - 1)) : "",
         std::string(c.component->constant), std::to_string(c.constant), std::to_string(c.fitted)});
  }
  return rows;
}

}  // namespace mmuscope
