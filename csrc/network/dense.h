// SPDX-License-Identifier: BSD-3-Clause
// One dense layer on the caller's own row-major arrays: what a network does with its packed buffer, for tools that embed
// single kernels. Each call packs what it needs panel by panel in the memory of its threads, and gives the same bits as a
// Trainer on the same numbers.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/view.h"
#include "formulas/kinds.h"
#include "network/optimizer.h"
#include "random/random.h"

namespace bpfree {

// h = f(x W + b); where `preactivation` is given, it gets x W + b (gelu only: the others have f' from h).
// Shapes: h, preactivation [batch, n_out], x [batch, n_in], W [n_in, n_out], b [n_out] or null; row-major.
// Cost:   2 batch n_in n_out flops; W is packed a panel at a time, once for every few hundred rows.
// Result: same bits for any number of threads; a row does not depend on its neighbours. |a - exact| <= (n_in + 2) u (|x| |W|
//         + |b|), then f within its own bound.
void dense_forward(MatrixView<float> h, MatrixView<float> preactivation, MatrixView<const float> x,
                   MatrixView<const float> weights, const float* bias,
                   formulas::Activation activation, int n_threads);

// The optimizer step of a layer in place: W <- step(W, x^T delta / n), b <- step(b, sum of delta / n). One product whose tile is
// the gradient: it is stepped on in registers and never stored.
// Shapes: W [n_in, n_out], b [n_out] or null (no biases), x [batch, n_in], delta [batch, n_out]; row-major. A state of W has
//         its shape and its stride, one of b has b's.
// Cost:   2 batch n_in n_out flops; reads and writes W and its state once; a workspace of x's size and a panel per thread.
// Result: same bits for any number of threads.
struct DenseState {
  float* weights[2] = {
      nullptr, nullptr};  // velocity or first moment, second moment: as many as the solver has
  float* biases[2] = {nullptr, nullptr};
};
struct DenseStep {
  OptimizerOptions optimizer;
  double learning_rate = 1e-3;
  std::uint64_t t = 1;   // number of this step, from 1: for adam's bias corrections
  double n_samples = 0;  // what the sums are divided by; 0: the rows of x
};
void dense_update(MatrixView<float> weights, float* bias, const DenseState& state,
                  MatrixView<const float> x, MatrixView<const float> delta, const DenseStep& step,
                  int n_threads);

// A random feedback matrix, as a Trainer with this seed draws it for hidden layer `layer`.
struct FeedbackSource {
  std::uint64_t seed = 0;
  std::uint32_t layer = 0;
  random::Distribution distribution = random::Distribution::uniform;
  float scale = 1;  // bound, deviation or absolute value is scale / sqrt(rows)
};
// out [n_outputs, n_hidden]. Result: same bits for any number of threads and instruction set.
void feedback_matrix(MatrixView<float> out, const FeedbackSource& source, int n_threads);

// Output error projected to a hidden layer: delta = (e B) * f'(a).
// Shapes: delta, h [batch, n_hidden], e [batch, n_outputs], feedback [n_outputs, n_hidden] or null: generated from the source,
//         a panel at a time, and never stored; row-major. h is the layer's output, for gelu its pre-activation, and null for
//         the identity.
// Source: Nøkland 2016, arXiv:1609.01596, section 3.
// Cost:   2 batch n_outputs n_hidden flops; reads e and h once.
// Result: same bits for any number of threads; |error| <= (n_outputs + 4) u (|e| |B|) |f'|.
void project_feedback(MatrixView<float> delta, MatrixView<const float> e,
                      MatrixView<const float> feedback, const FeedbackSource& source,
                      MatrixView<const float> h, formulas::Activation activation, int n_threads);

}  // namespace bpfree
