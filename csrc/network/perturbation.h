// SPDX-License-Identifier: BSD-3-Clause
// A population is a seed: member i is theta + std eps_i, and eps_i is a function of (seed, generation, i). Nothing of the
// population's size times the parameters' is stored.
//
// Noise. Parameters are one array, the tensors of `shapes` one after the other, row-major. Tensor t takes the stream
// (Purpose::noise, t, generation, k) of random.h, each row of a matrix starting a new block. k is the member, or with
// `antithetic` its pair: members 2k and 2k + 1 are theta + std eps_k and theta - std eps_k.
//   gaussian    standard normal
//   rademacher  +1 or -1
//   low_rank    a matrix [m, n] gets sum_q a_q b_q^T / sqrt(rank), with a_q row q of a normal [rank, m] of that stream and b_q
//               row q of a normal [rank, n] of (Purpose::noise_right, t, generation, k). A vector gets gaussian noise.
// Source: Salimans et al. 2017, arXiv:1703.03864 (antithetic, noise from seeds); Sarkar et al. 2025, arXiv:2511.16652 (low rank).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/view.h"
#include "random/random.h"

namespace bpfree {

enum class NoiseKind { gaussian, rademacher, low_rank };

struct NoiseOptions {
  NoiseKind kind = NoiseKind::gaussian;
  std::uint64_t seed = 0;
  std::uint32_t generation = 0;
  bool antithetic = false;
  std::size_t rank = 1;  // of low_rank
};

// A vector of `columns` elements (then `rows` is 1), or a matrix.
struct TensorShape {
  std::size_t rows = 1;
  std::size_t columns = 0;
  bool is_matrix = false;
};

// The stream of a tensor for member or pair k, and where low_rank's right factors come from.
random::Counter noise_counter(const NoiseOptions& noise, std::size_t tensor, std::uint32_t k);
random::Counter right_noise_counter(const NoiseOptions& noise, std::size_t tensor, std::uint32_t k);

// Members of a generation with the weight of each one's noise: pairs with antithetic, (u_2k - u_2k+1). Those of weight 0 are
// left out.
struct WeightedMembers {
  std::vector<std::uint32_t> members;
  std::vector<float> weights;
};
WeightedMembers weighted_members(std::span<const double> utilities, std::uint64_t first_member,
                                 bool antithetic);

// out_i = theta + std eps_member of members[i]; with low rank theta + std / sqrt(rank) * (sum of products).
// Shapes: out [members, n_params], theta [n_params], n_params the elements of all shapes. Where both of a pair stand side by
//         side in `members`, their noise is made once. A single member's out may be theta itself.
// Cost:   one normal, or sign, for each parameter and member or pair; reads theta once for each member and writes out.
// Result: same bits for any number of threads and instruction set; gaussian and rademacher: std eps is added by one fma.
void perturb(MatrixView<float> out, const float* theta, std::size_t n_params,
             std::span<const std::uint32_t> members, float std, std::span<const TensorShape> shapes,
             const NoiseOptions& noise, int n_threads);

// out = sum_i utilities_i eps_i over members first_member, first_member + 1, ...; without 1 / n and without 1 / std.
// With antithetic the sum of (u_2k - u_2k+1) eps_k over pairs: an even first member, and an even number of utilities.
// Shapes: out [n_params].
// Cost:   one normal, or sign, and one fma for each parameter and member or pair; noise is made in registers, where the sums
//         are. Low rank: 2 rank m n flops a member or pair as one product of the factors, which are made for some hundred at a time.
// Result: same bits for any number of threads; gaussian and rademacher for any instruction set too. |error| <= (n + 2) u sum |u_i|
//         |eps_i| for n members, at most 512 of them where they are normals.
void perturbation_gradient(float* out, std::size_t n_params, std::span<const double> utilities,
                           std::uint64_t first_member, std::span<const TensorShape> shapes,
                           const NoiseOptions& noise, int n_threads);

}  // namespace bpfree
