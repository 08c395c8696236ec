#include "results/suite/engine.h"

#include <fmt/format.h>

#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "core/error.h"
#include "results/suite/manifest.h"
#include "results/version.h"

namespace mmuscope {
namespace {

/// What the workers share with the thread that waits for them. Kept alive by all of them: workers
/// that are given up outlive the suite.
struct Shared {
  std::vector<Experiment> experiments;
  std::vector<u64> numbers;  // their cells' in the whole suite
  std::string suite;
  std::mutex mutex;
  std::condition_variable changed;
  std::size_t next = 0;                        // the experiment that the next free worker takes
  std::vector<std::optional<CellText>> cells;  // by experiment
  std::deque<std::size_t> finished;            // not yet seen by the waiting thread
  std::exception_ptr failure;
  bool stopping = false;
};

CellText run_cell(const Shared& shared, std::size_t index) {
  const Experiment& experiment = shared.experiments[index];
  const Result result = run_experiment(experiment);
  return cell_text(make_suite_row(shared.suite, shared.numbers[index], experiment, result));
}

void work(const std::shared_ptr<Shared>& shared) {
  std::unique_lock lock(shared->mutex);
  while (true) {
    while (shared->next < shared->cells.size() && shared->cells[shared->next]) ++shared->next;
    if (shared->next == shared->cells.size() || shared->stopping || shared->failure) return;
    const std::size_t index = shared->next++;
    lock.unlock();
    std::optional<CellText> cell;
    std::exception_ptr failure;
    try {
      cell = run_cell(*shared, index);
    } catch (...) {
      failure = std::current_exception();
    }
    lock.lock();
    if (failure) {
      shared->failure = failure;
    } else {
      shared->cells[index] = std::move(cell);
      shared->finished.push_back(index);
    }
    shared->changed.notify_one();
  }
}

/// Takes over finished cells; their numbers become those of this suite.
void take_over(Shared& shared, const Records& records) {
  const std::size_t suite = suite_column("suite"), number = suite_column("cell");
  for (std::size_t i = 0; i < shared.experiments.size(); ++i) {
    const auto found = records.find(identity(shared.experiments[i]));
    if (found == records.end()) continue;
    CellText cell = found->second;
    const std::string text = std::to_string(shared.numbers[i]);
    cell.suite[suite] = shared.suite;
    cell.suite[number] = text;
    for (CsvRow& row : cell.processes) row[0] = text;
    for (CsvRow& row : cell.vcpus) row[0] = text;
    for (CsvRow& row : cell.series) row[0] = text;
    shared.cells[i] = std::move(cell);
  }
}

void tell(const SuiteOptions& options, const SuiteProgress& progress) {
  if (options.progress) options.progress(progress);
}

/// Writes down what the workers finish until nothing is left or somebody stops it. Returns with the
/// lock held.
void watch(Shared& shared, std::unique_lock<std::mutex>& lock, Journal& journal,
           SuiteProgress progress, const SuiteOptions& options) {
  // A signal handler can only set the flag, so it is looked at now and then.
  constexpr auto kGlance = std::chrono::milliseconds(50);
  while (true) {
    for (; !shared.finished.empty(); shared.finished.pop_front()) {
      const std::size_t index = shared.finished.front();
      const CellText& cell = *shared.cells[index];
      journal.add(cell);
      ++progress.done;
      progress.experiment = &shared.experiments[index];
      progress.status = cell.suite[suite_column("status")];
      progress.accesses += std::strtoull(cell.suite[suite_column("accesses")].c_str(), nullptr, 10);
      tell(options, progress);
    }
    if (progress.done == progress.all || shared.failure) return;
    if (options.stop != nullptr && options.stop->load()) {
      shared.stopping = true;
      return;
    }
    shared.changed.wait_for(lock, kGlance);
  }
}

/// What another program counted is not mixed with what this one counts. Throws InputError.
void check_made_by_this_program(const std::filesystem::path& folder) {
  const Manifest m = read_manifest(folder);
  if (m.version == version() && m.digest == program_digest()) return;
  throw InputError(fmt::format(
      "{}: holds results of another build of mmuscope (version {}, digest {}); --resume takes over "
      "only what this one made ({}, {}): leave it out to run everything anew, or give another "
      "--out",
      folder.string(), m.version, m.digest.empty() ? "unknown" : m.digest, version(),
      program_digest()));
}

/// The part of the suite that is run, with what is taken over.
std::shared_ptr<Shared> begin(const Suite& suite, const SuiteOptions& options) {
  auto shared = std::make_shared<Shared>();
  shared->suite = suite.name;
  for (u64 number = 1; number <= suite.cells.size(); ++number) {
    if (!options.shard.has(number)) continue;
    shared->experiments.push_back(suite.cells[number - 1]);
    shared->numbers.push_back(number);
  }
  shared->cells.resize(shared->experiments.size());
  if (options.resume) {
    const Records records = read_records(options.out);
    if (!records.empty()) check_made_by_this_program(options.out);
    take_over(*shared, records);
  }
  return shared;
}

}  // namespace

SuiteOutcome run_suite(const Suite& suite, const SuiteOptions& options) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  std::error_code error;
  std::filesystem::create_directories(options.out, error);
  if (error) throw InputError(options.out.string() + ": cannot be made: " + error.message());

  const auto shared = begin(suite, options);
  std::vector<const CellText*> known;
  for (const auto& cell : shared->cells) {
    if (cell) known.push_back(&*cell);
  }
  Journal journal(options.out, known);
  Manifest manifest = begin_manifest(suite, options.shard, options.command);
  write_manifest(options.out, manifest);
  SuiteProgress progress{known.size(), shared->cells.size(), known.size(), 0, nullptr, {}};
  if (!known.empty()) tell(options, progress);

  std::vector<std::thread> workers;
  const std::size_t left = progress.all - progress.done;
  for (unsigned i = 0; i < options.jobs && i < left; ++i) workers.emplace_back(work, shared);
  std::unique_lock lock(shared->mutex);
  std::exception_ptr failure;
  try {
    watch(*shared, lock, journal, progress, options);
    failure = shared->failure;
  } catch (...) {
    shared->stopping = true;
    failure = std::current_exception();
  }
  SuiteOutcome outcome{shared->stopping && !failure, {}, progress.all};
  for (const auto& cell : shared->cells) {
    if (cell) outcome.cells.push_back(*cell);
  }
  lock.unlock();
  for (std::thread& worker : workers) outcome.interrupted ? worker.detach() : worker.join();
  if (failure) std::rethrow_exception(failure);

  fill_slowdown(outcome.cells);
  write_records(options.out, outcome.cells);
  manifest.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  manifest.finished = !outcome.interrupted;
  write_manifest(options.out, manifest);
  journal.finish();
  return outcome;
}

}  // namespace mmuscope
