// SPDX-License-Identifier: BSD-3-Clause
// Batch normalization between the product of a layer and its activation, for some layers of a network.
//
// Step:   h = f(y), y = gain (a - mean) / sqrt(variance + epsilon) + shift; mean and variance are those of a unit over the
//         batch, each row by its sample weight. gain and shift are learned; the layer's own biases have no effect, and rest.
// After:  a prediction uses running ones, which a batch moves by a tenth of the way, its variance as an unbiased estimate; they
//         are folded into the weights and biases of a copy of the network.
// Shapes: a [batch, n] with the panels of a unit in one tile; gain, shift, mean and variance [n] of each layer.
// Source: Ioffe & Szegedy 2015, arXiv:1502.03167.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "base/buffer.h"
#include "methods/trainer.h"
#include "network/network.h"
#include "network/optimizer.h"

namespace bpfree {

class BatchNormalization {
 public:
  // Of these layers of the network, in this order, which is that of `index` below. None: it is empty.
  BatchNormalization(const Network& network, const std::vector<std::size_t>& layers,
                     formulas::Solver solver);

  std::size_t size() const { return layers_.size(); }
  bool empty() const { return layers_.empty(); }

  struct Arrays {
    const float *gain, *shift, *mean, *variance;  // the latter two running
    std::size_t n;
  };
  Arrays get(std::size_t index) const;  // throws Error when there is none
  void set(std::size_t index, const Arrays& value);

  struct Batch {
    std::size_t n_rows;
    const float* weight;  // of each row
    double sum;           // of the weights

    float inverse_weight() const { return sum > 0 ? static_cast<float>(1 / sum) : 0; }
  };
  struct Panel {  // of 32 units
    float* a;     // the product's results; normalised afterwards
    std::size_t a_stride;
    float* factor;  // 32 values: gain / deviation, as this step has them
    void* h;        // in the kernels' type
    std::size_t h_stride;
    float* preactivation;  // y, or null
  };
  // By the batch's statistics, which then move the running ones; or by the latter.
  void normalize(const product::DtypeKernels& kernels, std::size_t index, std::size_t panel,
                 const Batch& batch, bool trains, const Panel& at) const;
  // Steps gain and shift of a panel: 32 values each.
  void update(std::size_t index, std::size_t panel, const float* gain_gradient,
              const float* shift_gradient, const formulas::Step& step) const;
  // The solver's state of gain and of shift, for each layer and slot.
  void append_state(std::vector<Trainer::StateArray>& arrays) const;

  // The network with its layers so normalised: made when it is first asked for, and kept while neither changes.
  std::shared_ptr<const Network> folded() const;
  void drop_folded();

 private:
  struct Place {
    std::size_t layer;
    std::size_t gain, shift, mean, variance;  // offsets in values_ and running_
  };

  const Place& place(std::size_t index) const;
  Network fold() const;

  const Network& network_;
  std::vector<Place> layers_;
  Buffer<float> values_, running_;
  OptimizerState state_;
  mutable std::mutex folding_;
  mutable std::shared_ptr<const Network> folded_;
  mutable std::uint64_t folded_version_ = 0;  // of the network
};

}  // namespace bpfree
