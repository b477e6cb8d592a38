// SPDX-License-Identifier: BSD-3-Clause
// Backpropagation: the baseline, on the same kernels and with the same fused optimizer as every other method.
#pragma once

#include "methods/backward_trainer.h"

namespace bpfree {

class Backprop final : public BackwardTrainer {
 public:
  Backprop(Network& network, const TrainerOptions& options) : BackwardTrainer(network, options) {
    network.keep_shadow_rows();
  }
};

}  // namespace bpfree
