// Stands in for libFuzzer where it is not: runs a fuzz target once on every file below the given
// folders, and on 64 beginnings of each, since a file cut short is the commonest damage.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

std::vector<std::filesystem::path> files_below(const char* folder) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

void run_target(const std::filesystem::path& file) {
  constexpr std::size_t kBeginnings = 64;
  std::ifstream in(file, std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(in), {}};
  for (std::size_t part = 0; part <= kBeginnings; ++part) {
    // A copy of just that size, so that ASan sees a read beyond its end.
    const std::vector<std::uint8_t> input(
        bytes.begin(),
        bytes.begin() + static_cast<std::ptrdiff_t>(bytes.size() * part / kBeginnings));
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::size_t count = 0;
  for (int i = 1; i < argc; ++i) {
    for (const auto& file : files_below(argv[i])) {
      std::printf("%s\n", file.c_str());
      std::fflush(stdout);
      run_target(file);
      ++count;
    }
  }
  if (count == 0) std::fprintf(stderr, "no input to replay\n");
  return count == 0 ? 1 : 0;
}
