#pragma once

#include <string>

namespace mmuscope {

/// A file that comes with the project, or the user's own: the path itself if it is absolute or
/// exists from the current directory, else the same path from the project's root (the folder above
/// the program's, share/mmuscope of an installed one, or where it was built from) if it exists
/// there, else the path itself.
std::string find_data_file(const std::string& path);

}  // namespace mmuscope
