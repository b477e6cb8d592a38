// SPDX-License-Identifier: BSD-3-Clause
// Ensemble Kalman training of a dense network: an ensemble of networks runs over the minibatch, and what their outputs say about
// their parameters moves them; no derivative is needed. The network itself is the members' mean.
//
// Kept ensemble: theta_j += sum_k T[j, k] (theta_k - mean), T of ensemble_weights() (network/ensemble.h), in place.
// Redrawn ensemble: theta_j = mean + spread_l eps_j, anew in every iteration, of which only the mean is kept:
//   mean += sum_k (w_k - mean of w) spread_l eps_k,  w = dt / sqrt(J - 1) Omega Y^T Gamma^-1 (the mean's residual)
// so that no member is ever stored: noise is drawn where a member runs, and again in the update. w less its mean: eps is measured
// from its own mean, and the network does not walk with the draw's. eps is normal, of the stream (Purpose::ensemble, tensor,
// iteration, j): weights of layer l are tensor 2 l, its biases 2 l + 1. The first members of a kept ensemble are drawn as those of
// iteration 0, and moved so that the first weights are their mean; so they are where somebody sets the network's weights. spread_l = spread / sqrt(n_in of the layer), of biases too.
// Loss, of a sample with the weight v and the noise gamma:
//   squared error   g are outputs (probabilities where the network's loss is a cross-entropy), Gamma = gamma / v, y the target
//   cross-entropy   g are logits; the residual is minus the derivative of v / gamma times the loss, and v / gamma times a matrix
//                   takes the place of Gamma^-1: the Hessian at the members' mean logits (Gauss-Newton), or what no Hessian
//                   exceeds, (I - 1 1^T / C) / 2 of the C classes of softmax and 1/4 of a logistic output (Böhning 1992), with
//                   which a step of any length goes downhill as far as the network is linear
// A member whose outputs are not finite: redrawn, it is left out, and has no part in means and covariances; kept, it ends the run.
// Source: Iglesias, Law & Stuart 2013, arXiv:1209.2736; Kovachki & Stuart 2019, arXiv:1808.03620 (networks, other losses, members
//         redrawn around the mean); Böhning 1992, Ann. Inst. Statist. Math. 44 (the bound). Differs from Kovachki & Stuart:
//         redrawn in every iteration, and steps are implicit.
// Cost:   of a step 2 J P B flops for the outputs (one product of x with all first layers, a panel of a member at a time), then
//         kept: 2 J^2 P for the members and 4 J^2 B C in float64; redrawn: J P normals twice, and J^2 B C in float64. With bf16
//         x W of the mean is a product of its own and anomalies are rounded, so that hidden layers count twice.
// Memory: kept: J P; of either J B C numbers for g, as many for a score, and J^2.
// Result: the same bits for any number of threads.
#pragma once

#include <cstdint>
#include <vector>

#include "methods/trainer.h"
#include "network/ensemble.h"
#include "product/row_blocks.h"
#include "random/random.h"

namespace bpfree {

struct EnsembleKalmanOptions {
  std::size_t n_ens = 256;
  EnsembleMethod method = EnsembleMethod::eki;
  bool squared_error = false;  // else the network's own loss
  bool gauss_newton = false;   // of a cross-entropy: else its Hessian's bound
  double obs_noise_var = 1;
  double spread = 0.5;  // of the first members, or of all that are redrawn
  bool redraw = true;
};

class EnsembleKalman final : public Trainer {
 public:
  EnsembleKalman(Network& network, const TrainerOptions& options,
                 const EnsembleKalmanOptions& kalman);

  // What is known of an iteration. misfit: mean loss of a member over the minibatch; spread: root mean square of what outputs
  // differ by from their mean over the members; before the update.
  struct Iteration {
    double misfit_mean, misfit_min, misfit_max;
    double spread;
    double dt;
    double effective_rank;
    double n_failed;  // members without a part in this
  };
  const std::vector<Iteration>& iterations() const { return iterations_; }  // of this epoch
  std::size_t n_ens() const { return kalman_.n_ens; }
  // The members that the next iteration starts from, [n_ens, n_params]: W_0, b_0, W_1, b_1, ... of each, row-major.
  void get_members(float* out) const;

  void settle() override;
  std::vector<StateArray> state_arrays() const override;

 protected:
  void prepare_epoch() override;
  bool build_phase(std::size_t index) override;
  void after_run() override;
  std::size_t scratch_bytes() const override { return scratch_size_; }

 private:
  // A thread's memory, as offsets in bytes.
  struct Layout {
    std::size_t h[2];      // of one layer and the next
    std::size_t logits;    // panels [n_outputs / 32][rows][32]
    std::size_t row_loss;  // of the batch
    std::size_t panel;     // a member's weights or anomalies
    std::size_t pairs;     // the same in bf16
    std::size_t product;   // h W of the mean
    std::size_t bias;
  };
  struct Tile {  // some rows of a panel of W; or all biases of a layer
    std::size_t layer;
    std::size_t panel;
    std::size_t first_row;
    std::size_t n_rows;  // 0: biases
  };

  static const EnsembleKalman& self_of(const void* self) {
    return static_cast<const EnsembleKalman&>(*stage(self).trainer);
  }
  template <class T>
  static T* at(const Worker& worker, std::size_t offset) {
    return reinterpret_cast<T*>(static_cast<char*>(worker.scratch) + offset);
  }
  bool bf16() const { return element_ == 2; }
  bool is_output(std::size_t layer) const { return layer + 1 == n_layers(); }
  // Whether members run as what they differ by from the mean.
  bool by_anomalies() const { return bf16() || kalman_.redraw; }
  std::size_t size() const { return network_.parameter_buffer_size(); }
  std::size_t n_obs() const { return rows_ * network_.n_outputs(); }
  float* member(std::size_t j) const { return members_.data() + j * size(); }
  float spread_of(std::size_t layer) const;
  std::size_t columns_of(std::size_t layer, std::size_t panel) const;
  std::size_t h_stride(std::size_t layer) const {
    return row_stride(network_.layers()[layer].n_out, element_);
  }
  std::size_t base_stride() const { return row_stride(network_.layers()[0].n_out, 4); }
  const std::vector<product::RowBlock>& blocks() const {
    return rows_ == options_.batch_size ? blocks_ : tail_blocks_;
  }
  void plan_memory();
  void observe();
  EnsembleOutputs outputs();
  void leave_out_failed();
  void report(double rank);

  // ensemble_kalman_members.cpp
  void base(std::size_t panel) const;
  void run_member(std::size_t j, const Worker& worker) const;
  void kept_panel(std::size_t layer, std::size_t panel, std::size_t j, const Worker& worker) const;
  void moved_panel(std::size_t layer, std::size_t panel, std::size_t j, const Worker& worker) const;
  const void* anomaly_panel(std::size_t layer, std::size_t panel, std::size_t j,
                            const Worker& worker) const;
  const void* input(std::size_t layer, const Worker& worker) const;
  void* target(std::size_t layer, std::size_t panel, const Worker& worker) const;
  void finish_member(std::size_t j, const Worker& worker) const;
  double squared_error(std::size_t j) const;
  void to_score(std::size_t j) const;
  void center_logits(std::size_t j) const;

  // ensemble_kalman_update.cpp
  random::NoiseWindow window(std::size_t layer, bool biases, std::size_t panel, std::size_t j,
                             std::uint64_t iteration) const;
  void draw_member(float* out, std::size_t j, std::uint64_t iteration) const;
  void transform(const EnsembleMoments& moments);
  void move_mean(const EnsembleMoments& moments);
  void update_tile(const Tile& tile, const Worker& worker) const;
  bool take_mean();
  void write_mean();

  EnsembleKalmanOptions kalman_;
  const Stage self_stage_{this, 0};
  Layout layout_{};
  std::size_t scratch_size_ = 0;
  std::vector<product::RowBlock> blocks_, tail_blocks_;
  std::vector<Tile> tiles_;

  Buffer<float> members_, mean_;  // in the layout of the network's parameters; kept ensembles alone
  bool is_settled_ = true;        // the network has the members' mean
  Buffer<float> base_;            // x W of the first layer
  Buffer<float> g_, score_;       // [n_ens, n_obs]
  Buffer<double> y_, noise_;      // of the batch
  Buffer<double> misfit_;         // of each member
  std::vector<double> transform_;
  std::vector<std::uint32_t>
      member_index_;  // those whose outputs are finite: in the first rows of g_, score_, misfit_
  std::vector<float> weights_;  // of each of them in the mean's step
  std::size_t rows_ = 0;        // of the step that runs, or ran last
  std::uint64_t iteration_ = 0;
  bool has_outputs_ = false;
  std::vector<Iteration> iterations_;
};

}  // namespace bpfree
