// SPDX-License-Identifier: BSD-3-Clause
// The direct rules of feedback.h: every hidden layer's delta comes from the output error (or the target) alone.
#pragma once

#include "methods/feedback.h"

namespace bpfree {

class DirectFeedback final : public DenseTrainer {
 public:
  DirectFeedback(Network& network, const TrainerOptions& options, const FeedbackOptions& feedback);

  FeedbackKind feedback_kind() const override { return FeedbackKind::direct; }
  void get_feedback(std::size_t layer, float* out) const override;
  void set_feedback(std::size_t layer, const float* value) override;
  const OptimizerState* feedback_state() const override { return &feedback_state_; }
  std::size_t feedback_offset(std::size_t layer) const override { return panel_at(layer, 0); }

 protected:
  bool build_phase(std::size_t index) override;
  void make_delta(std::size_t layer, std::size_t panel, void* delta,
                  float* column_sums) const override;
  void before_step() override;
  float* signal() const override;
  std::size_t extra_scratch_bytes() const override;
  void plain_signal(std::vector<float>& signal, const TrainingData& data) const override;

 private:
  std::size_t panel_at(std::size_t layer,
                       std::size_t panel) const;  // offset of a feedback panel [n_outputs][32]
  bool learns() const { return feedback_.rule == FeedbackRule::direct_kolen_pollack; }
  void learn(std::size_t layer, std::size_t panel, const Worker& worker) const;
  void keep_matrices();
  void fill_panel(float* panel, std::size_t layer, std::size_t index) const;

  FeedbackOptions feedback_;
  float scale_;
  Buffer<float>
      matrices_;  // panels [n_l / 32][n_outputs][32] of every hidden layer; empty: generated where they are used
  Buffer<float> signal_;  // panels as e, when the rule does not project e itself
  OptimizerState feedback_state_;
  std::vector<product::RowBlock> output_blocks_,
      output_tail_blocks_;  // rows of a learned B, a panel of e at a time
};

}  // namespace bpfree
