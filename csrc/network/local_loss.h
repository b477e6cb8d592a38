// SPDX-License-Identifier: BSD-3-Clause
// One layer's step on a loss of its own, on the caller's own row-major arrays: no error comes down from the layers above.
// Source: Nøkland & Eidnes 2019, arXiv:1901.06656; 'pred' is also Mono-Forward.
#pragma once

#include <cstddef>

#include "base/view.h"
#include "formulas/kinds.h"
#include "network/dense.h"
#include "network/similarity.h"

namespace bpfree {

enum class LocalLossKind { pred, sim, predsim };

struct LayerLossOptions {
  formulas::Loss loss = formulas::Loss::softmax_cross_entropy;
  LocalLossKind kind = LocalLossKind::pred;
  double similarity_weight = 0.99;  // share of the similarity in predsim
  formulas::Activation activation = formulas::Activation::relu;
};

// What a step changes.
struct LayerArrays {
  MatrixView<float> weights;
  float* bias = nullptr;
  DenseState state = {};
};

// The step in place. e = d loss(h M + c) / d logits, and A c from similarity.h; v the similarity's share: 0 for pred, 1 for sim.
//   delta = ((1 - v) e M^T + v A c) * f'(a), W <- step(W, x^T delta / n), b <- step(b, sum of delta / n),
//   M <- step(M, (1 - v) h^T e / n), c likewise; for sim with all of e: the head then teaches no layer, and learns for itself.
// Gives the rows' losses (1 - v) loss + v similarity, summed and divided by n = step.n_samples, or where that is 0 by the sum
// of sample weights.
// Shapes: W [n_in, n_out], b [n_out] or null, M [n_out, n_outputs] (without data only for sim), c [n_outputs] or null,
//         x [batch, n_in], h [batch, n_out], preactivation [batch, n_out] for gelu alone. States as dense_update() has them.
//         Softmax wants labels, the other losses values, of rows without gaps; sim and predsim want n_outputs of at least 2.
// Cost:   2 batch n_out (n_in + n_outputs + batch) flops and the Gram product's batch^2 n_out; reads and writes W once. e and
//         A lie in panels of one array, so that delta is one product. Workspaces of x's and of h's size.
// Result: same bits for any number of threads; pred with those of a LocalLoss trainer, and of dense_forward, project_feedback
//         and dense_update, but that denormals count as zero, as in training.
double local_loss_update(const LayerArrays& layer, const LayerArrays& head,
                         MatrixView<const float> x, MatrixView<const float> h,
                         MatrixView<const float> preactivation, const LocalTargets& targets,
                         const LayerLossOptions& options, const DenseStep& step, int n_threads);

}  // namespace bpfree
