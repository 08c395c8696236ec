#include "workloads/trace/feed.h"

namespace mmuscope {

TraceFeed::TraceFeed(const std::filesystem::path& path, unsigned vcpus, Placement placement)
    : reader_(path), placement_(placement), queues_(vcpus) {}

const TraceFeed::Item* TraceFeed::next(unsigned vcpu) {
  while (queues_[vcpu].empty()) {
    if (!decode()) return nullptr;
  }
  return &queues_[vcpu].front().item;
}

void TraceFeed::done(unsigned vcpu) {
  const Queued queued = queues_[vcpu].front();
  queues_[vcpu].pop_front();
  if (queued.item.task != kMaxProcesses) {
    Task& task = tasks_[queued.item.task];
    Process& process = processes_[queued.item.process];
    ++task.items_done;
    ++process.items_done;
    process.calls_done += queued.item.call;
  }
  if (--queued.slot->items_left == 0) free_.push_back(queued.slot);
}

bool TraceFeed::may_run(const Item& item) const {
  if (item.task == kMaxProcesses) return true;
  const Task& task = tasks_[item.task];
  const Process& process = processes_[item.process];
  return task.items_done == item.earlier && (item.call ? process.items_done == item.process_items
                                                       : process.calls_done == item.process_calls);
}

/// Decodes one more block; false if there is no room or nothing left.
bool TraceFeed::decode() {
  if (ended_) return false;
  if (free_.empty()) {
    if (slots_.size() == kWindowBlocks) return false;
    slots_.push_back(std::make_unique<Slot>());
    free_.push_back(slots_.back().get());
  }
  Slot& slot = *free_.back();
  if (!reader_.next(slot.block)) {
    ended_ = true;
    return false;
  }
  free_.pop_back();
  slot.items_left = 1;  // so that it is not free while it is being filled
  split(slot);
  if (--slot.items_left == 0) free_.push_back(&slot);
  return true;
}

void TraceFeed::split(Slot& slot) {
  const std::vector<Record>& records = slot.block.records;
  std::size_t from = 0;
  for (std::size_t at = 0; at < records.size(); ++at) {
    if (records[at].kind < RecordKind::Call) continue;
    if (at > from) add(slot, from, at, false);
    from = at + 1;
    if (records[at].kind == RecordKind::Switch) {
      running_ = static_cast<u32>(records[at].address);
      continue;
    }
    const Call& call = slot.block.calls[records[at].address];
    if (call.kind != CallKind::Cpu) add(slot, at, at + 1, true);
    note_call(call);
  }
  if (records.size() > from) add(slot, from, records.size(), false);
}

void TraceFeed::add(Slot& slot, std::size_t from, std::size_t to, bool call) {
  Item item{&slot.block, from, to, call, running_, 0, 0, 0, 0};
  unsigned vcpu = 0;
  if (running_ != kMaxProcesses) {
    Task& task = tasks_[running_];
    Process& process = processes_[task.process];
    vcpu = task.vcpu;
    item.process = task.process;
    item.earlier = task.items++;
    item.process_calls = process.calls;
    item.process_items = process.items++;
    process.calls += call;
  }
  ++slot.items_left;
  queues_[vcpu].push_back({item, &slot});
}

void TraceFeed::note_call(const Call& call) {
  const auto vcpus = static_cast<unsigned>(queues_.size());
  if (makes_task(call.kind)) {
    Task task;
    task.vcpu = static_cast<unsigned>(tasks_.size() % vcpus);
    if (call.kind == CallKind::Thread || call.kind == CallKind::Vfork) {
      task.process = tasks_[running_].process;
    } else {
      task.process = static_cast<u32>(processes_.size());
      processes_.emplace_back();
    }
    tasks_.push_back(task);
  } else if (call.kind == CallKind::Cpu && placement_ == Placement::Recorded) {
    tasks_[running_].vcpu = static_cast<unsigned>(call.args[0] % vcpus);
  } else if (call.kind == CallKind::Exec) {
    tasks_[running_].process = static_cast<u32>(processes_.size());
    processes_.emplace_back();
  }
  if (ends_turn(call.kind)) running_ = kMaxProcesses;
}

}  // namespace mmuscope
