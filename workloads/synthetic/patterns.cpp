#include "workloads/synthetic/patterns.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace mmuscope {

namespace {

constexpr unsigned kSkewSteps = 256;  // a power of two
constexpr u64 kExactRanks = 32;
constexpr u64 kStepsPerOctave = 16;

/// x^(exponent/256) by multiplications and square roots alone, which IEEE 754 defines to the last
/// bit; pow() differs between libraries.
double power(double x, unsigned exponent) {
  double result = 1;
  for (unsigned whole = exponent / kSkewSteps; whole > 0; --whole) result *= x;
  double root = x;
  for (unsigned bit = kSkewSteps / 2; bit > 0; bit /= 2) {
    root = std::sqrt(root);
    if (exponent & bit) result *= root;
  }
  return result;
}

}  // namespace

ZipfRanks::ZipfRanks(u64 count, double skew) {
  const auto exponent = static_cast<unsigned>(skew * kSkewSteps + 0.5);
  std::vector<double> weights;
  for (u64 first = 1, width; first <= count; first += width) {
    width = first < kExactRanks ? 1 : std::bit_floor(first) / kStepsPerOctave;
    const u64 here = std::min(width, count + 1 - first);
    const double middle = static_cast<double>(first) + static_cast<double>(here - 1) / 2;
    steps_.push_back({first - 1, here, 0, 0});
    weights.push_back(static_cast<double>(here) / power(middle, exponent));
  }
  make_aliases(weights);
}

void ZipfRanks::make_aliases(const std::vector<double>& weights) {
  double sum = 0;
  for (const double w : weights) sum += w;
  std::vector<double> left;
  std::vector<u64> small, large;
  for (u64 i = 0; i < weights.size(); ++i) {
    left.push_back(weights[i] * static_cast<double>(weights.size()) / sum);
    (left[i] < 1 ? small : large).push_back(i);
  }
  const auto keep_whole = [this](u64 i) { steps_[i].threshold = u64{1} << 32; };
  while (!small.empty() && !large.empty()) {
    const u64 poor = small.back(), rich = large.back();
    small.pop_back();
    steps_[poor].threshold = static_cast<u64>(left[poor] * 4294967296.0);
    steps_[poor].alias = rich;
    left[rich] -= 1 - left[poor];
    if (left[rich] < 1) {
      large.pop_back();
      small.push_back(rich);
    }
  }
  for (const u64 i : small) keep_whole(i);
  for (const u64 i : large) keep_whole(i);
}

ZipfPattern::ZipfPattern(u64 bytes, double skew, u64 seed)
    : pages_(bytes / kPageBytes),
      mask_(std::bit_ceil(pages_) - 1),
      ranks_(pages_, skew),
      random_(seed) {}

}  // namespace mmuscope
