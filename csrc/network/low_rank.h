// SPDX-License-Identifier: BSD-3-Clause
// One dense layer of a whole population with noise of low rank, on the caller's own arrays: no member's weights are formed.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/view.h"
#include "formulas/kinds.h"
#include "network/perturbation.h"

namespace bpfree {

// The layer that the population lies around, and which of its members are wanted: n_members from first_member on.
struct PopulationLayer {
  MatrixView<const float> weights;
  const float* bias = nullptr;  // or null: no biases, and no noise of them
  formulas::Activation activation = formulas::Activation::identity;
  float std = 0;
  std::size_t tensor = 0;  // of the noise of the weights; that of the biases is tensor + 1
  std::uint64_t first_member = 0;
  std::size_t n_members = 0;
};

// h_i = f(x W + std / sqrt(rank) sum_q (x a_q) b_q^T + b + std eps) for each member i, with its sign: the dense layer of
// perturb()'s member, whose noise has kind low_rank (no other is taken), without that matrix.
// Shapes: h [n_members, batch, n_out], x [batch, n_in] for all members (shared_x), or [n_members, batch, n_in], W [n_in, n_out];
//         row-major, the rows of h and x of all members one after the other.
// Source: Sarkar et al. 2025, arXiv:2511.16652, section 4.
// Cost:   2 batch n_in n_out flops for each member, or with shared_x for all of them together; and 2 batch rank (n_in + n_out)
//         for each member. Workspace: W once, and factors of some members.
// Result: same bits for any number of threads; a row does not depend on its neighbours.
void low_rank_forward(float* h, const float* x, bool shared_x, std::size_t batch,
                      const PopulationLayer& layer, const NoiseOptions& noise, int n_threads);

}  // namespace bpfree
