#pragma once

#include <vector>

#include "core/address.h"
#include "core/random.h"

namespace mmuscope {

/// Decides for a fixed share of accesses, evenly spread, that they are stores.
class StoreShare {
 public:
  explicit StoreShare(double share) : step_(static_cast<u64>(share * 4294967296.0)) {}
  bool next() {
    sum_ += step_;
    const bool store = (sum_ >> 32) != 0;
    sum_ &= 0xffff'ffff;
    return store;
  }

 private:
  u64 step_, sum_ = 0;
};

/// Offsets of 8-byte words, one after the other at a distance, round and round.
class StridePattern {
 public:
  StridePattern(u64 bytes, u64 stride) : bytes_(bytes), stride_(stride) {}
  u64 next() {
    const u64 at = at_;
    at_ += stride_;
    if (at_ >= bytes_) at_ = 0;
    return at;
  }

 private:
  u64 bytes_, stride_, at_ = 0;
};

/// Offsets of 8-byte words, any as likely as any other.
class UniformPattern {
 public:
  UniformPattern(u64 bytes, u64 seed) : words_(bytes / 8), random_(seed) {}
  u64 next() { return random_.below(words_) * 8; }

 private:
  u64 words_;
  Random random_;
};

/// Ranks 0, 1, 2... of which the r-th is drawn with a probability proportional to 1/(r+1)^skew:
/// exactly so for the first 32, and beyond these in steps of a sixteenth of an octave, within which
/// all ranks are equally likely. Constant time (the alias method: Vose, *A Linear Algorithm for
/// Generating Random Numbers with a Given Distribution*). The skew counts in steps of 1/256, so
/// that only operations are needed whose results are the same everywhere.
class ZipfRanks {
 public:
  ZipfRanks(u64 count, double skew);
  /// The rank that two random words choose; of the second the upper bits. No branches: they would
  /// be taken at random.
  u64 draw(u64 random, u64 more) const {
    const u64 i = (random >> 32) * steps_.size() >> 32;
    const u64 to_alias = 0 - u64{static_cast<u32>(random) >= steps_[i].threshold};
    const Step& s = steps_[i + ((steps_[i].alias - i) & to_alias)];
    return s.first + static_cast<u64>(static_cast<unsigned __int128>(more) * s.width >> 64);
  }

 private:
  struct Step {
    u64 first, width;
    u64 threshold;  // of 2^32: below it the step itself, else its alias
    u64 alias;
  };
  void make_aliases(const std::vector<double>& weights);

  std::vector<Step> steps_;
};

/// Offsets of 8-byte words in pages of Zipf-distributed popularity; popular pages lie anywhere.
class ZipfPattern {
 public:
  ZipfPattern(u64 bytes, double skew, u64 seed);
  u64 next() {
    const u64 random = random_.next(), more = random_.next();
    return place(ranks_.draw(random, more)) * kPageBytes + more % (kPageBytes / 8) * 8;
  }

 private:
  /// A permutation of the pages: multiplication by an odd number permutes the numbers below a power
  /// of two, and those that are no page are sent on.
  u64 place(u64 rank) const {
    do {
      rank = rank * 0x9e37'79b9'7f4a'7c15 & mask_;
    } while (rank >= pages_);
    return rank;
  }

  u64 pages_, mask_;
  ZipfRanks ranks_;
  Random random_;
};

}  // namespace mmuscope
