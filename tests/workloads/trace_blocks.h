#pragma once

#include <xxhash.h>
#include <zstd.h>

#include <cstddef>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "workloads/trace/format.h"

namespace mmuscope {

// To forge trace files: what is in them changes, and their checksums hold.

/// Each block's header and its bytes, decompressed.
using Blocks = std::vector<std::pair<BlockHeader, std::string>>;

inline Blocks unpack(const std::string& file) {
  Blocks blocks;
  const std::unique_ptr<ZSTD_DCtx, decltype(&ZSTD_freeDCtx)> context(ZSTD_createDCtx(),
                                                                     &ZSTD_freeDCtx);
  for (std::size_t at = 16; at < file.size();) {
    BlockHeader header;
    std::memcpy(&header, file.data() + at, sizeof(header));
    at += sizeof(header);
    std::string raw(header.raw_bytes, '\0');
    ZSTD_inBuffer in{file.data() + at, header.stored_bytes, 0};
    ZSTD_outBuffer out{raw.data(), raw.size(), 0};
    while (in.pos < in.size) {
      if (ZSTD_isError(ZSTD_decompressStream(context.get(), &out, &in))) {
        throw std::runtime_error("the trace to unpack is damaged");
      }
    }
    at += header.stored_bytes;
    blocks.emplace_back(header, raw);
  }
  return blocks;
}

inline std::string pack(const Blocks& blocks) {
  std::string file(kTraceMagic.begin(), kTraceMagic.end());
  const std::array<u32, 2> version = {kTraceVersion, 0};
  file.append(reinterpret_cast<const char*>(version.data()), sizeof(version));
  const std::unique_ptr<ZSTD_CCtx, decltype(&ZSTD_freeCCtx)> context(ZSTD_createCCtx(),
                                                                     &ZSTD_freeCCtx);
  for (const auto& [original, raw] : blocks) {
    BlockHeader header = original;
    std::string stored(ZSTD_compressBound(raw.size()) + 100, '\0');
    ZSTD_inBuffer in{raw.data(), raw.size(), 0};
    ZSTD_outBuffer out{stored.data(), stored.size(), 0};
    const ZSTD_EndDirective how = header.kind == BlockKind::End ? ZSTD_e_end : ZSTD_e_flush;
    if (ZSTD_compressStream2(context.get(), &out, &in, how) != 0) {
      throw std::runtime_error("a block does not fit");
    }
    header.stored_bytes = static_cast<u32>(out.pos);
    header.raw_bytes = static_cast<u32>(raw.size());
    const u64 seed = XXH3_64bits(&header, offsetof(BlockHeader, checksum));
    header.checksum = XXH3_64bits_withSeed(stored.data(), out.pos, seed);
    file.append(reinterpret_cast<const char*>(&header), sizeof(header));
    file.append(stored, 0, out.pos);
  }
  return file;
}

}  // namespace mmuscope
