#include "results/data_file.h"

#include <filesystem>

namespace mmuscope {

std::string find_data_file(const std::string& path) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  if (path.empty() || fs::path(path).is_absolute() || fs::exists(path, ignored)) return path;
  const fs::path program = fs::read_symlink("/proc/self/exe", ignored);
  const fs::path above = program.parent_path().parent_path();
  for (const fs::path& root : {above, above / "share/mmuscope", fs::path(MMUSCOPE_ROOT)}) {
    if (fs::exists(root / path, ignored)) return (root / path).string();
  }
  return path;
}

}  // namespace mmuscope
