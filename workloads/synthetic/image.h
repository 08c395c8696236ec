#pragma once

#include <string>

#include "workloads/guest/kernel.h"

namespace mmuscope {

/// A program in memory after execve, in pages: what is mapped, and of it what a short run touches.
/// Defaults: dash on Debian 12 as `trace dump` of the recorded shell pipeline shows it, rounded.
struct Image {
  u32 file = 0;  ///< the program's; its libraries are common to all
  u64 text = 20, text_used = 12;
  u64 data = 4;  ///< written, so copied
  u64 library_text = 360, library_used = 60;
  u64 library_data = 6;  ///< written
  u64 heap = 33, heap_used = 6;
  u64 stack_used = 3;
};

/// Replaces the current process's memory by the image and runs its beginning: fetches from text,
/// writes to data, heap and stack.
void exec_image(Kernel& kernel, Vcpu& vcpu, const std::string& name, const Image& image);

/// What a process does between fork and exit, or its parent between fork and the next: some code of
/// the program and its libraries, of which fork copied no entries, and writes to data and stack,
/// which it shares with the other then.
void run_after_fork(Vcpu& vcpu, const Image& image);

/// Touches every page of the range by fetches (of files that others run, too) or stores.
void fetch_pages(Vcpu& vcpu, Gva start, u64 pages);
void write_pages(Vcpu& vcpu, Gva start, u64 pages);

}  // namespace mmuscope
