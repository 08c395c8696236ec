#include "workloads/synthetic/image.h"

#include <algorithm>

#include "core/error.h"

namespace mmuscope {

namespace {

// Addresses as Linux gives them to a position-independent program.
constexpr Gva kProgram{0x5555'5555'4000};
constexpr Gva kLibraries{0x7fff'f7c0'0000};
constexpr Gva kStack{0x7fff'fffd'e000};
constexpr u64 kStackPages = 33;  // 132 KiB, as a fresh stack is
constexpr u64 kHeapGap = 256;    // where randomization would leave more
constexpr u32 kLibraryFile = 1;

constexpr u8 kReadExec = prot::kRead | prot::kExec;
constexpr u8 kReadWrite = prot::kRead | prot::kWrite;

void map(Kernel& kernel, Vcpu& vcpu, Gva at, u64 pages, u8 rights, Source source) {
  if (pages == 0) return;
  if (!kernel.mmap(vcpu, at, pages * kPageBytes, rights, source)) {
    throw RunError("a program's image does not fit its address space");
  }
}

}  // namespace

void fetch_pages(Vcpu& vcpu, Gva start, u64 pages) {
  for (u64 i = 0; i < pages; ++i) vcpu.fetch(start + i * kPageBytes);
}

void write_pages(Vcpu& vcpu, Gva start, u64 pages) {
  for (u64 i = 0; i < pages; ++i) vcpu.store<u64>(start + i * kPageBytes, i);
}

void exec_image(Kernel& kernel, Vcpu& vcpu, const std::string& name, const Image& image) {
  kernel.execve(vcpu, name);
  const Gva data = kProgram + image.text * kPageBytes;
  const Gva library_data = kLibraries + image.library_text * kPageBytes;
  map(kernel, vcpu, kStack, kStackPages, kReadWrite, Source::anonymous());
  map(kernel, vcpu, kProgram, image.text, kReadExec, Source::of_file(image.file, 0));
  map(kernel, vcpu, data, image.data, kReadWrite,
      Source::of_file(image.file, image.text * kPageBytes));
  map(kernel, vcpu, kLibraries, image.library_text, kReadExec, Source::of_file(kLibraryFile, 0));
  map(kernel, vcpu, library_data, image.library_data, kReadWrite,
      Source::of_file(kLibraryFile, image.library_text * kPageBytes));
  const Gva heap = data + (image.data + kHeapGap) * kPageBytes;
  kernel.brk(vcpu, heap);
  kernel.brk(vcpu, heap + image.heap * kPageBytes);

  write_pages(vcpu, kStack + (kStackPages - image.stack_used) * kPageBytes, image.stack_used);
  fetch_pages(vcpu, kProgram, image.text_used);
  // What a program uses of a library lies all over it.
  const u64 stride = image.library_used == 0 ? 1 : image.library_text / image.library_used;
  for (u64 i = 0; i < image.library_used; ++i) {
    vcpu.fetch(kLibraries + i * stride * kPageBytes);
  }
  write_pages(vcpu, library_data, image.library_data);
  write_pages(vcpu, data, image.data);
  write_pages(vcpu, heap, image.heap_used);
}

void run_after_fork(Vcpu& vcpu, const Image& image) {
  constexpr u64 kProgramPages = 3, kLibraryPages = 12, kStackWritten = 2;
  fetch_pages(vcpu, kProgram, std::min(kProgramPages, image.text_used));
  for (u64 i = 0; i < std::min(kLibraryPages, image.library_used); ++i) {
    vcpu.fetch(kLibraries + i * (image.library_text / kLibraryPages) * kPageBytes);
  }
  write_pages(vcpu, kStack + (kStackPages - kStackWritten) * kPageBytes, kStackWritten);
  write_pages(vcpu, kLibraries + image.library_text * kPageBytes, image.library_data / 2);
  write_pages(vcpu, kProgram + image.text * kPageBytes, 1);
}

}  // namespace mmuscope
