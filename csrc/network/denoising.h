// SPDX-License-Identifier: BSD-3-Clause
// NoProp's head on the caller's own row-major arrays: the error of an estimate of a class embedding, and the step of the layer
// that makes it. The same bits as a NoProp trainer on the same numbers.
// Source: Li, Teh & Pascanu 2025, arXiv:2503.24322, equation 8; network/noprop.h has the formulas.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/view.h"
#include "network/dense.h"

namespace bpfree {

struct DenoisingTargets {
  const std::int32_t* labels = nullptr;    // [batch]
  MatrixView<const float> embedding = {};  // [n_classes, dim]; without data: one-hot
  const float* sample_weight = nullptr;    // [batch], or null: 1
  double weight = 1;                       // of the loss
};

// With p = softmax(logits), u^ = p W and s = 2 weight W (u^ - u_y): error = sample_weight p * (s - <p, s>), and row_loss =
// sample_weight weight |u^ - u_y|^2 where it is not null.
// Shapes: error, logits [batch, n_classes], W [n_classes, dim], row_loss [batch]. error may be logits.
// Cost:   4 batch n_classes dim flops, none of them for one-hot embeddings; reads logits once.
// Result: same bits for any number of threads; a row does not depend on its neighbours.
void denoising_head(MatrixView<float> error, float* row_loss, MatrixView<const float> logits,
                    const DenoisingTargets& targets, int n_threads);

// The step of a block's last layer in place: error = denoising_head(h W + b), W <- step(W, h^T error / n), b likewise. Gives
// the rows' losses, summed and divided by n = step.n_samples, or where that is 0 by the sum of sample weights. `error` gets
// what the layers below need, with W as it was: by W^T, or by fixed feedback.
// Shapes: W [n_in, n_classes], b [n_classes] or null, h [batch, n_in], error [batch, n_classes] or without data; states as
//         dense_update() has them.
// Cost:   4 batch n_in n_classes flops; reads W twice, and writes it once.
// Result: same bits for any number of threads.
double noprop_update(MatrixView<float> weights, float* bias, const DenseState& state,
                     MatrixView<float> error, MatrixView<const float> h,
                     const DenoisingTargets& targets, const DenseStep& step, int n_threads);

}  // namespace bpfree
