// SPDX-License-Identifier: BSD-3-Clause
// Fitness shaping: what each member's noise is multiplied with in the gradient estimate. A larger utility is a better member.
#pragma once

#include <cstddef>
#include <span>

namespace bpfree {

// With f the fitness, negated where it is minimised, and n members:
//   centered_rank  ranks from -1/2 (worst) to 1/2; members that tie get the mean of their ranks
//   nes            max(0, ln(n / 2 + 1) - ln rank) over its sum, less 1 / n; rank 1 is the best, ties get the mean
//   z_score        (f - mean) / sqrt(variance + 1e-5)
//   group          the same with the mean of each group of `group_size` consecutive members; one variance for all
//   pair           members 2k and 2k + 1 get +-d / (2 r), d their difference, r = sqrt(mean d^2 + 1e-5) over the pairs
//   top_k          of the `top_k` pairs whose better member is best, (f - mean) / deviation times pairs / top_k, mean and
//                  deviation over their 2 top_k members; all others get 0, and so does everyone where they are all alike
// A fitness that is NaN or infinite is worst: of the ranks it takes the lowest, elsewhere the worst finite value's place.
// Source: centered_rank Salimans et al. 2017, arXiv:1703.03864; nes Wierstra et al. 2014; top_k Mania et al. 2018,
//         arXiv:1803.07055, algorithm 2; z_score and group Sarkar et al. 2025, arXiv:2511.16652. Differs: ties; pair takes
//         no mean away, since which of the two is + is chance; the factor pairs / top_k makes sum / n the mean of the used.
// Result: float64, in the order of the members, whatever the instruction set.
enum class Shaping { centered_rank, nes, z_score, group, pair, top_k };

struct ShapingOptions {
  Shaping kind = Shaping::centered_rank;
  bool maximize = true;  // false: a smaller fitness is better
  std::size_t top_k = 0;
  std::size_t group_size = 0;
};

// Throws what fitness_shaping() would throw of n members and these options.
void check_shaping(std::size_t n, const ShapingOptions& options);

// Fills the utilities; gives the number of members whose fitness was NaN or infinite. Throws where all were, and then
// writes nothing. `utilities` may be `fitness` itself.
std::size_t fitness_shaping(std::span<double> utilities, std::span<const double> fitness,
                            const ShapingOptions& options);

}  // namespace bpfree
