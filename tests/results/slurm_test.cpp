#include <doctest/doctest.h>
#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>

#include "results/csv.h"
#include "tests/support/shell.h"

using namespace mmuscope;

TEST_CASE("slow: slurm: a job array on a real one-node Slurm, merged, is the local run") {
  const std::filesystem::path suite =
      std::filesystem::temp_directory_path() / fmt::format("mmuscope_slurm_{}.suite", getpid());
  write_file(suite.string(),
             "name = slurm\nworkload = churn:bytes=1m,block=256k\nworkload = fork:operations=5\n"
             "pager = native\npager = shadow\npager = shadow-unsync\npager = nested\n"
             "set = backing=4k\nset = backing=2m\nseed = 1,2\n");
  const Ran ran =
      shell(fmt::format("tests/results/slurm_one_node \"$mmuscope\" {} 4", suite.string()));
  std::filesystem::remove(suite);
  MESSAGE(ran.out);
  if (ran.status == 77) return;  // the message says why
  INFO(ran.err);
  CHECK(ran.status == 0);
  CHECK(ran.out.find("suite.csv: ") != std::string::npos);
  CHECK(ran.out.find(" bytes, the same\n") != std::string::npos);
  for (int task = 1; task <= 4; ++task) {
    CHECK(ran.out.find(fmt::format("ArrayTaskId={}", task)) != std::string::npos);
  }
}
