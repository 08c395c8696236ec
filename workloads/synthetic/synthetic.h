#pragma once

#include "workloads/workload.h"

namespace mmuscope {

// The synthetic workloads, one file each: their keys and what makes them of values for these.

std::span<const ParamInfo> touch_params();
std::unique_ptr<Workload> make_touch(const Params& params, u64 seed);

std::span<const ParamInfo> churn_params();
std::unique_ptr<Workload> make_churn(const Params& params, u64 seed);

std::span<const ParamInfo> fork_params();
std::unique_ptr<Workload> make_fork(const Params& params, u64 seed);

std::span<const ParamInfo> ptemod_params();
std::unique_ptr<Workload> make_ptemod(const Params& params, u64 seed);

std::span<const ParamInfo> switch_params();
std::unique_ptr<Workload> make_switch(const Params& params, u64 seed);

std::span<const ParamInfo> database_params();
std::unique_ptr<Workload> make_database(const Params& params, u64 seed);

std::span<const ParamInfo> migrate_params();
std::unique_ptr<Workload> make_migrate(const Params& params, u64 seed);

std::span<const ParamInfo> micro_params();
std::unique_ptr<Workload> make_micro(const Params& params, u64 seed);

std::span<const ParamInfo> kernel_build_params();
std::unique_ptr<Workload> make_kernel_build(const Params& params, u64 seed);

std::span<const ParamInfo> web_params();
std::unique_ptr<Workload> make_web(const Params& params, u64 seed);

std::span<const ParamInfo> java_params();
std::unique_ptr<Workload> make_java(const Params& params, u64 seed);

std::span<const ParamInfo> redis_snapshot_params();
std::unique_ptr<Workload> make_redis_snapshot(const Params& params, u64 seed);

std::span<const ParamInfo> container_start_params();
std::unique_ptr<Workload> make_container_start(const Params& params, u64 seed);

std::span<const ParamInfo> balloon_params();
std::unique_ptr<Workload> make_balloon(const Params& params, u64 seed);

std::span<const ParamInfo> ksm_params();
std::unique_ptr<Workload> make_ksm(const Params& params, u64 seed);

}  // namespace mmuscope
