#include <array>

#include "workloads/synthetic/synthetic.h"
#include "workloads/trace/replay.h"
#include "workloads/workload.h"

namespace mmuscope {

std::span<const WorkloadInfo> workload_catalog() {
  static const std::array<WorkloadInfo, 16> kWorkloads = {{
      {"touch", "reads and writes one block of memory, in order or at random", touch_params(),
       make_touch},
      {"churn", "allocates a block, touches it page by page, releases it, again and again",
       churn_params(), make_churn},
      {"fork", "fork + exit + wait, again and again", fork_params(), make_fork},
      {"ptemod", "changes one page-table entry per operation", ptemod_params(), make_ptemod},
      {"switch", "processes that take turns, each touching its working set", switch_params(),
       make_switch},
      {"database", "skewed random reads and some writes over large tables that stay mapped",
       database_params(), make_database},
      {"migrate", "random accesses while the host, as for a live migration, harvests dirty pages",
       migrate_params(), make_migrate},
      {"micro", "one operation of the guest kernel again and again: LMbench's", micro_params(),
       make_micro},
      {"kernel-build", "make, gcc, cc1 and as: short processes over shared files",
       kernel_build_params(), make_kernel_build},
      {"web", "workers that map, read and unmap popular files", web_params(), make_web},
      {"java", "a heap that fills, is collected and given back", java_params(), make_java},
      {"redis-snapshot", "a server that writes while a forked child saves its data",
       redis_snapshot_params(), make_redis_snapshot},
      {"container-start", "containers started by their runtime, of images that share files",
       container_start_params(), make_container_start},
      {"balloon", "memory that is freed and given back to the host, and wanted again",
       balloon_params(), make_balloon},
      {"ksm", "processes with equal pages, which the host merges until they are written",
       ksm_params(), make_ksm},
      {"trace", "replays a recorded program", trace_params(), make_trace_workload},
  }};
  return kWorkloads;
}

}  // namespace mmuscope
