// SPDX-License-Identifier: BSD-3-Clause
// Evolution strategies for a dense network: a population of perturbed networks runs over the minibatch, and only the fitness of
// each leaves; no derivative is needed.
//
// Member i has the parameters theta + std eps_i; with pairs members 2k and 2k + 1 are +eps_k and -eps_k. With u the shaped
// fitness (larger is better), theta <- step(theta, -1 / (n std) sum_i u_i eps_i). Noise is drawn anew where it is used, from
// (seed, generation, k, tensor): weights of layer l are tensor 2 l, its biases 2 l + 1; see random/random.h. gaussian and
// rademacher noise has W's shape; noise of low rank is E = sum_q a_q b_q^T / sqrt(rank), gaussian on the biases.
// Source: Salimans et al. 2017, arXiv:1703.03864 (mirrored sampling, shaped fitness); Sarkar et al. 2025, arXiv:2511.16652
//         (EGGROLL, low rank). Differs from EGGROLL: 1 / std is not left to the learning rate, pairs are the default.
// Cost:   x W of the first layer once for all members; then of a pair, for full noise 2 B n_in n_out flops in the first layer
//         (the product of the noise serves both) and 2 x 2 B n_in n_out in each further one (x 4 in bf16: h W and h eps are
//         kept apart, since rounding W + std eps loses a small std), for low rank 2 x 2 B n_in n_out without the first layer.
//         Full noise is drawn twice, for the members and for the update.
// Memory: of a thread, the activations of a pair and panels of noise; of the population, two numbers a member.
// Result: the same bits for any number of threads.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "methods/backprop.h"
#include "methods/trainer.h"
#include "network/fitness.h"
#include "network/perturbation.h"
#include "product/row_blocks.h"
#include "random/random.h"

namespace bpfree {

enum class Fitness { loss, accuracy };  // -loss, or the share of rows that are right

struct EvolutionOptions {
  std::size_t population_size = 256;
  double std = 0.02;
  double std_decay = 1;  // std of epoch e is std * std_decay^e
  NoiseKind perturbation = NoiseKind::gaussian;
  std::size_t rank = 1;
  bool antithetic = true;
  ShapingOptions shaping{};
  Fitness fitness = Fitness::loss;
};

class Evolution final : public Trainer {
 public:
  Evolution(Network& network, const TrainerOptions& options, const EvolutionOptions& evolution);

  // What is known of a generation: of the fitness over members where it is finite, and of the gradient.
  struct Generation {
    double mean, min, max, std;
    double gradient_norm;
    double n_bad;  // members whose fitness was NaN or infinite: they count as worst
    double
        cosine;  // of the gradient with backprop's on the same batch; NaN where it was not asked for
  };
  const std::vector<Generation>& generations() const { return generations_; }  // of this epoch
  // Slow: backpropagation on one thread beside each generation.
  void set_report_cosine(bool on);

  // A generation whose fitness the caller works out, between begin_epoch() and the next: the samples of the batch (empty: the
  // epoch is over), the outputs of some members, and the step.
  std::span<const std::uint32_t> next_batch();
  void evaluate(std::size_t first_member, std::size_t n_members, float* out, bool logits);
  void update(std::span<const double> fitness);

  std::size_t population_size() const { return es_.population_size; }

 protected:
  void prepare_epoch() override;
  bool build_phase(std::size_t index) override;
  void before_step() override;
  void after_run() override;
  std::size_t scratch_bytes() const override { return scratch_size_; }

 private:
  static constexpr std::size_t kNoiseRows = 64;  // of a panel that becomes bf16 at a time

  struct Outputs {  // what evaluate() asked for, else without `out`
    float* out = nullptr;
    std::size_t first_member = 0;
    std::size_t n_members = 0;
    bool logits = false;
  };
  struct
      UpdateTile {  // some rows of W, in one panel (full noise) or in all (low rank); or all biases of a layer
    std::size_t layer;
    std::size_t panel;
    std::size_t first_row;
    std::size_t n_rows;  // 0: biases
  };
  struct TileSums {
    double squares = 0, dot = 0;
  };
  // A thread's memory, as offsets in bytes.
  struct Layout {
    std::size_t h[2][2];      // of one layer and the next, of each side
    std::size_t logits[2];    // panels [n_outputs / 32][rows][32]
    std::size_t row_loss[2];  // of the whole batch
    std::size_t noise;        // a panel, or the left factors of a group
    std::size_t panel[2];     // W + std eps, W - std eps; bf16: eps in pairs, and h W
    std::size_t bias;         // [2][32]; low rank: of each layer [2][n_out]
    std::size_t z;            // low rank: x A of a group
    std::size_t factors[2], sums[2], right, left;
  };
  // Low-rank vectors of one noise: where layer l's begin.
  struct FactorOffsets {
    std::size_t right, left, bias;
  };
  template <class T>
  T* at(const Worker& worker, std::size_t offset) const {
    return reinterpret_cast<T*>(static_cast<char*>(worker.scratch) + offset);
  }
  static const Evolution& self_of(const void* self) {
    return static_cast<const Evolution&>(*stage(self).trainer);
  }

  std::size_t n_sides() const { return es_.antithetic ? 2 : 1; }  // members that share noise
  bool low_rank() const { return es_.perturbation == NoiseKind::low_rank; }
  bool bf16() const { return element_ == 2; }
  bool is_output(std::size_t layer) const { return layer + 1 == n_layers(); }
  std::size_t padded(std::size_t layer) const {  // columns of whole panels
    return network_.layers()[layer].n_panels * product::kPanel;
  }
  std::size_t h_stride(std::size_t layer) const {  // of the outputs of hidden layer `layer`
    return row_stride(network_.layers()[layer].n_out, element_);
  }
  std::size_t columns_of(std::size_t layer, std::size_t panel) const;
  std::size_t base_stride() const { return row_stride(network_.layers()[0].n_out, 4); }
  const std::vector<product::RowBlock>& blocks(std::size_t rows) const { return blocks_.at(rows); }
  random::Counter counter(random::Purpose purpose, std::size_t tensor, std::size_t noise) const;
  // Noise of a tensor: a row of it, the columns of one panel.
  random::NoiseWindow window(std::size_t tensor, std::size_t noise, std::size_t columns,
                             std::size_t panel) const;
  float* logits(std::size_t side, const Worker& worker) const {
    return at<float>(worker, layout_.logits[side]);
  }

  void plan_memory();
  void plan_update();
  void add_blocks(std::size_t rows);
  Plan base_plan() const;
  Plan member_plan(std::size_t first_noise, std::size_t end_noise);

  // evolution_members.cpp
  void base(std::size_t panel) const;
  void members(std::size_t tile, const Worker& worker) const;
  void full_noise(std::size_t noise, const Worker& worker) const;
  const void* draw_panel(std::size_t layer, std::size_t panel, std::size_t noise,
                         const Worker& worker) const;
  void full_noise_panel(std::size_t layer, std::size_t panel, std::size_t noise,
                        const Worker& worker) const;
  void low_rank_group(std::size_t first, std::size_t n, const Worker& worker) const;
  void shared_products(std::size_t first, std::size_t n, const Worker& worker) const;
  void draw_factors(std::size_t noise, const Worker& worker) const;
  void low_rank_rows(std::size_t noise, std::size_t in_group, std::size_t row, std::size_t n_rows,
                     const Worker& worker) const;
  void low_rank_panel(std::size_t layer, std::size_t panel, std::size_t side, std::size_t row,
                      std::size_t n_rows, const Worker& worker) const;
  void finish_rows(std::size_t noise, std::size_t row, std::size_t n_rows,
                   const Worker& worker) const;
  void finish_member(std::size_t noise, const Worker& worker) const;
  float is_right(const float* row, std::size_t panel_stride, std::size_t sample) const;

  // evolution_update.cpp
  void shape();
  void report();
  void update_tile(std::size_t tile, const Worker& worker) const;
  void low_rank_gradient(const UpdateTile& tile, float* gradient, const Worker& worker) const;
  void step_rows(const UpdateTile& tile, std::size_t panel, const float* gradient,
                 TileSums& sums) const;
  void add_sums(TileSums& sums, const float* gradient, std::size_t n_rows, std::size_t at,
                const formulas::Step& step) const;
  formulas::Step evolution_step(bool is_bias) const;
  void backprop_gradient();

  EvolutionOptions es_;
  const Stage self_stage_{this, 0};
  std::size_t n_noises_;
  float std_ = 0;          // of this epoch
  std::size_t group_ = 1;  // noises of a tile of low rank
  std::size_t tile_rows_;  // of a low-rank tile's activations
  Layout layout_{};
  std::vector<FactorOffsets> factors_;
  std::size_t scratch_size_ = 0, gradient_floats_ = 0;
  std::map<std::size_t, std::vector<product::RowBlock>> blocks_;  // by number of rows

  Buffer<float> base_;  // x W of the first layer, row-major
  bool has_base_ = false;
  std::size_t first_noise_ = 0, end_noise_ = 0;  // of the tiles of members
  Outputs outputs_;
  Buffer<double> fitness_;
  std::vector<std::uint32_t> noise_index_;  // 0, 1, 2, ...
  std::vector<double> utilities_;           // of each member
  std::vector<float> weights_;              // of each noise in the gradient
  bool is_given_ = false;                   // fitness_ came from the caller
  bool all_bad_ = false;
  std::vector<UpdateTile> update_tiles_;
  Buffer<TileSums> tile_sums_;
  std::vector<Generation> generations_;

  // What the cosine needs.
  std::unique_ptr<Network> probe_network_;
  std::unique_ptr<Backprop> probe_;
  Buffer<float> probe_x_, probe_gradient_;
  std::vector<std::int32_t> probe_labels_;
  std::vector<float> probe_targets_, probe_weights_;
  double probe_squares_ = 0;
};

}  // namespace bpfree
