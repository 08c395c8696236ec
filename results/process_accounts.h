#pragma once

#include <map>

#include "results/experiment.h"

namespace mmuscope {

/// Keeps, for each guest process, the most that it needed at any sample, and splits the pager's
/// tables into what is private to a process, shared, and left over by processes that are gone.
class ProcessAccounts : public ProcessListener {
 public:
  explicit ProcessAccounts(TableOwner tables) : tables_(tables) {}

  void on_sample(Machine& machine, std::span<const ProcessView> alive, const ProcessView* leaving,
                 u64 guest_table_pages_in_all) override;

  u64 guest_table_pages_peak() const { return guest_table_pages_peak_; }
  u64 processes_peak() const { return processes_peak_; }
  /// The rows, after the run: processes by pid; `shared`: tables that several processes use;
  /// `orphaned`: the pager's tables of no living process; `vm`: nested's tables, and the events
  /// that happened in no process. No table page, byte or event stands in two rows, but in
  /// table_pages_shared.
  std::vector<ProcessRow> rows(const Counters& total, const Gauges& gauges) const;

 private:
  struct Account {
    std::string name;
    u64 guest_table_pages = 0;
    TableUse::Share own;  // at its peak
    u64 shared_pages = 0;
    Counters counters;
  };
  void split_tables(Machine& machine, std::span<const ProcessView* const> present);

  TableOwner tables_;
  u64 guest_table_pages_peak_ = 0, guest_shared_pages_peak_ = 0, processes_peak_ = 0;
  TableUse::Share shared_, orphaned_;
  std::map<u32, Account> accounts_;
};

}  // namespace mmuscope
