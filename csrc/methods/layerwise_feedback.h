// SPDX-License-Identifier: BSD-3-Clause
// The layerwise rules of feedback.h: backprop's way down, with a matrix of its own (or W's signs) in the place of W.
#pragma once

#include "methods/feedback.h"

namespace bpfree {

class LayerwiseFeedback final : public BackwardTrainer {
 public:
  LayerwiseFeedback(Network& network, const TrainerOptions& options,
                    const FeedbackOptions& feedback);

  FeedbackKind feedback_kind() const override { return FeedbackKind::layerwise; }
  void get_feedback(std::size_t layer, float* out) const override;
  void set_feedback(std::size_t layer, const float* value) override;
  const OptimizerState* feedback_state() const override { return &feedback_state_; }
  std::size_t feedback_offset(std::size_t layer) const override { return offset(layer + 1); }

 protected:
  product::RowsOperand backward_operand(std::size_t layer, std::size_t first_row,
                                        std::size_t n_rows, void* scratch) const override;
  void add_update_targets(std::size_t layer, std::size_t panel,
                          product::UpdateArgs& args) const override;
  void plain_signal(std::vector<float>& signal, const TrainingData& data) const override;
  bool projects_sign() const override { return feedback_.error_signal == ErrorSignal::sign; }

 private:
  bool learns() const { return feedback_.rule == FeedbackRule::kolen_pollack; }
  bool uses_signs() const;
  std::size_t offset(std::size_t layer)
      const;  // of the matrix that stands for weights layer `layer`, as W's layout
  float scale_of(std::size_t layer) const;
  // Rows of W's signs for one panel, [n_rows][32]; `magnitude` is as large and may be used.
  void sign_rows(float* out, float* magnitude, std::size_t layer, std::size_t panel,
                 std::size_t first_row, std::size_t n_rows) const;
  void fill_rows(float* out, std::size_t layer, std::size_t panel, std::size_t first_row,
                 std::size_t n_rows, std::uint64_t step) const;
  void refresh_bf16(std::size_t layer);

  FeedbackOptions feedback_;
  Buffer<float> matrices_;  // panels in W's layout, for weights layers 1 and up
  Buffer<std::uint16_t>
      bf16_;  // the same in bf16, when that is the compute type and they are read as they are
  OptimizerState feedback_state_;
};

}  // namespace bpfree
