#include "results/process_accounts.h"

#include <algorithm>

namespace mmuscope {

void ProcessAccounts::on_sample(Machine& machine, std::span<const ProcessView> alive,
                                const ProcessView* leaving, u64 guest_table_pages_in_all) {
  std::vector<const ProcessView*> present;
  for (const ProcessView& p : alive) present.push_back(&p);
  const auto is_leaving = [&](const ProcessView* p) { return p->pid == leaving->pid; };
  if (leaving != nullptr && std::none_of(present.begin(), present.end(), is_leaving)) {
    present.push_back(leaving);
  }

  u64 private_pages = 0;
  for (const ProcessView* p : present) {
    Account& account = accounts_[p->pid];
    account.name = p->name;
    account.guest_table_pages = std::max(account.guest_table_pages, p->guest_table_pages);
    account.counters = p->counters;
    private_pages += p->guest_table_pages;
  }
  processes_peak_ = std::max<u64>(processes_peak_, present.size());
  guest_table_pages_peak_ = std::max(guest_table_pages_peak_, guest_table_pages_in_all);
  guest_shared_pages_peak_ =
      std::max(guest_shared_pages_peak_, guest_table_pages_in_all - private_pages);
  if (tables_ == TableOwner::Process) split_tables(machine, present);
}

void ProcessAccounts::split_tables(Machine& machine, std::span<const ProcessView* const> present) {
  std::vector<Gpa> roots;
  for (const ProcessView* p : present) roots.insert(roots.end(), p->roots.begin(), p->roots.end());
  const TableUse use = machine.pager().table_use(roots);
  std::size_t root = 0;
  for (const ProcessView* p : present) {
    TableUse::Share own;
    u64 shared_pages = 0;
    for (std::size_t i = 0; i < p->roots.size(); ++i, ++root) {
      own.pages += use.by_root[root].pages;
      own.bytes += use.by_root[root].bytes;
      shared_pages = std::max(shared_pages, use.shared_pages[root]);
    }
    Account& account = accounts_[p->pid];
    if (own.bytes >= account.own.bytes) {
      account.own = own;
      account.shared_pages = shared_pages;
    }
  }
  if (use.shared.bytes > shared_.bytes) shared_ = use.shared;
  if (use.orphaned.bytes > orphaned_.bytes) orphaned_ = use.orphaned;
}

std::vector<ProcessRow> ProcessAccounts::rows(const Counters& total, const Gauges& gauges) const {
  const bool by_process = tables_ == TableOwner::Process;
  const auto if_by_process = [&](u64 value) {
    return by_process ? std::optional<u64>(value) : std::nullopt;
  };
  std::vector<ProcessRow> rows;
  Counters elsewhere = total;
  for (const auto& [pid, account] : accounts_) {
    rows.push_back({pid, account.name, account.guest_table_pages, if_by_process(account.own.pages),
                    if_by_process(account.shared_pages), if_by_process(account.own.bytes),
                    total_exits(account.counters), account.counters[Event::GuestPageFault]});
    elsewhere = elsewhere - account.counters;
  }
  rows.push_back({std::nullopt, "shared", guest_shared_pages_peak_, std::nullopt,
                  if_by_process(shared_.pages), if_by_process(shared_.bytes), std::nullopt,
                  std::nullopt});
  if (by_process) {
    rows.push_back({std::nullopt, "orphaned", std::nullopt, orphaned_.pages, std::nullopt,
                    orphaned_.bytes, std::nullopt, std::nullopt});
  }
  ProcessRow vm{
      std::nullopt, "vm",         std::nullopt,           std::nullopt,
      std::nullopt, std::nullopt, total_exits(elsewhere), elsewhere[Event::GuestPageFault]};
  if (tables_ == TableOwner::Vm) {
    vm.table_pages_private = gauges.table_bytes_peak / kPageBytes;
    vm.pager_bytes = gauges.pager_bytes_peak;
  }
  rows.push_back(std::move(vm));
  return rows;
}

}  // namespace mmuscope
