// SPDX-License-Identifier: BSD-3-Clause
// Forward-Forward on the caller's own row-major arrays: the goodness of rows, and one layer's step. The same bits as a
// ForwardForward trainer on the same numbers.
// Source: Hinton 2022, arXiv:2212.13345; SymBa: Lee & Song 2023, arXiv:2303.08418.
#pragma once

#include <cstddef>
#include <optional>

#include "base/view.h"
#include "formulas/kinds.h"
#include "network/dense.h"

namespace bpfree {

// out_i = sum, or mean, of h_ij^2 over j; row_factor_i = 1 / sqrt(mean of h_ij^2 + 1e-8), which brings the row to unit mean
// square, where it is not null; NaN where the sum is beyond float32.
// Shapes: out, row_factor [batch], h [batch, n]. `goodness` is sum or mean.
// Cost:   reads h once.
// Result: same bits for any number of threads; a row does not depend on its neighbours. |error| <= (n + 2) u out.
void goodness(float* out, float* row_factor, MatrixView<const float> h, formulas::Goodness goodness,
              int n_threads);

struct GoodnessOptions {
  formulas::Goodness goodness = formulas::Goodness::sum;  // or mean
  formulas::GoodnessLoss loss = formulas::GoodnessLoss::logistic;
  std::optional<double>
      threshold;  // none: that of mean square 1, n_out for the sum, 1 for the mean
  double temperature = 1;
  double symba_scale = 4;
};

// One layer's Forward-Forward step in place. Rows of x are data (the first n_positive) and wrong data (the rest):
//   h = relu(r (x W) + b), r the row factor of x; g the goodness of h; delta = (d loss / d g) (d g / d h),
//   W <- step(W, (r x)^T delta / n), b <- step(b, sum of delta / n).
// Gives the sum of the rows' losses, divided by n = step.n_samples, or where that is 0 by n_positive (without those, by
// the rows of x). symba compares row i with row n_positive + i: as many of either.
// Shapes: W [n_in, n_out], b [n_out] or null, h [batch, n_out] or without data, x [batch, n_in]; states as dense_update() has
//         them.
// Cost:   4 batch n_in n_out flops; reads W twice, and writes it once. r comes into the epilogue of the forward product and g
//         out of it; delta is made where the weight product packs it.
// Result: same bits for any number of threads.
double forward_forward_update(MatrixView<float> weights, float* bias, const DenseState& state,
                              MatrixView<float> h, MatrixView<const float> x,
                              std::size_t n_positive, const GoodnessOptions& options,
                              const DenseStep& step, int n_threads);

}  // namespace bpfree
