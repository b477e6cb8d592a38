// SPDX-License-Identifier: BSD-3-Clause
// Row finishes of the output layer: the output error e and the loss of each row, and what predict() returns.
// Shapes: logits in panels [n_outputs / 32][batch][32]; e replaces them. Rows are independent; a row is reduced in order.
// Source: softmax cross-entropy and binary cross-entropy in their overflow-safe forms (max subtracted; log1p(exp(-|a|))).
#pragma once

#include "product/epilogue.h"

namespace bpfree::product {

template <class Isa>
struct OutputRows {
  using V = Vec<Isa, float>;

  static void loss(const LossArgs& args) {
    for (std::size_t i = args.row_begin; i < args.row_end; ++i) {
      const std::size_t sample = args.order[i];
      const float weight = args.weights != nullptr ? args.weights[sample] : 1.0f;
      float* row = args.logits + i * kPanel;
      if (args.loss == formulas::Loss::softmax_cross_entropy)
        args.row_loss[i] =
            weight * softmax_row(args, row, static_cast<std::size_t>(args.labels[sample]));
      else
        args.row_loss[i] = weight * target_row(args, row, args.targets + sample * args.n_outputs);
      finish_row(args, row, i, weight);
    }
  }

  static void output(const OutputArgs& args) {
    for (std::size_t i = 0; i < args.n_rows; ++i) {
      const float* row = args.logits + i * kPanel;
      float* out = args.out + i * args.n_outputs;
      V high = V::zero(), inverse = V::zero();
      const bool softmax = args.loss == formulas::Loss::softmax_cross_entropy && !args.logits_only;
      if (softmax) {
        high = V::set(row_max(row, args.panel_stride, args.n_outputs));
        inverse = V::set(1.0f / exp_sum(row, args.panel_stride, args.n_outputs, high));
      }
      for_row(args.panel_stride, args.n_outputs,
              [&](std::size_t at, std::size_t column, std::size_t n) {
                V value = V::load(row + at);
                if (softmax)
                  value = simd::exp(value - high) * inverse;
                else if (args.loss == formulas::Loss::binary_cross_entropy && !args.logits_only)
                  value = simd::sigmoid(value);
                value.store_partial(out + column, n);
              });
    }
  }

 private:
  // f(offset within the panels, column, valid lanes) along a row.
  template <class F>
  [[gnu::always_inline]] static void for_row(std::size_t panel_stride, std::size_t n_outputs,
                                             const F& f) {
    for (std::size_t column = 0; column < n_outputs; column += V::N) {
      const std::size_t left = n_outputs - column;
      f(column / kPanel * panel_stride + column % kPanel, column, left < V::N ? left : V::N);
    }
  }

  static float row_max(const float* row, std::size_t panel_stride, std::size_t n_outputs) {
    V high = V::set(row[0]);
    for_row(panel_stride, n_outputs, [&](std::size_t at, std::size_t, std::size_t n) {
      if (n == V::N) {
        high = V::max(high, V::load(row + at));
      } else {
        for (std::size_t l = 0; l < n; ++l) high = V::max(high, V::set(row[at + l]));
      }
    });
    return high.reduce_max();
  }

  static float exp_sum(const float* row, std::size_t panel_stride, std::size_t n_outputs, V high) {
    V sum = V::zero();
    for_row(panel_stride, n_outputs, [&](std::size_t at, std::size_t, std::size_t n) {
      alignas(64) float values[V::N] = {};
      simd::exp(V::load(row + at) - high).store_partial(values, n);
      sum = sum + V::load(values);
    });
    return sum.reduce_add();
  }

  static float softmax_row(const LossArgs& args, float* row, std::size_t label) {
    const V high = V::set(row_max(row, args.panel_stride, args.n_outputs));
    const float sum = exp_sum(row, args.panel_stride, args.n_outputs, high);
    const V inverse = V::set(1.0f / sum);
    float* at_label = row + label / kPanel * args.panel_stride + label % kPanel;
    float top[V::N];
    high.store(top);
    alignas(64) float log_sum[V::N];
    simd::log(V::set(sum)).store(log_sum);
    const float result = log_sum[0] + top[0] - *at_label;
    for_row(args.panel_stride, args.n_outputs, [&](std::size_t at, std::size_t, std::size_t n) {
      (simd::exp(V::load(row + at) - high) * inverse).store_partial(row + at, n);
    });
    *at_label -= 1.0f;
    return result;
  }

  static float target_row(const LossArgs& args, float* row, const float* target) {
    V sum = V::zero();
    const bool binary = args.loss == formulas::Loss::binary_cross_entropy;
    for_row(args.panel_stride, args.n_outputs,
            [&](std::size_t at, std::size_t column, std::size_t n) {
              const V a = V::load_partial(row + at, n);
              const V y = V::load_partial(target + column, n);
              V loss = V::zero(), e = V::zero();
              if (binary) {
                // max(a, 0) - a y + log(1 + exp(-|a|))
                loss = V::max(a, V::zero()) - a * y +
                       simd::log(V::set(1.0f) + simd::exp(V::zero() - V::abs(a)));
                e = simd::sigmoid(a) - y;
              } else {
                e = a - y;
                loss = V::set(0.5f) * e * e;
              }
              alignas(64) float values[V::N] = {};
              loss.store_partial(values, n);
              sum = sum + V::load(values);
              e.store_partial(row + at, n);
            });
    return sum.reduce_add();
  }

  // Applies the sample weight, and writes the other forms of e that the method asks for.
  static void finish_row(const LossArgs& args, float* row, std::size_t i, float weight) {
    for_row(args.panel_stride, args.n_outputs, [&](std::size_t at, std::size_t, std::size_t n) {
      V e = V::load(row + at);
      if (args.weights != nullptr) {
        e = e * V::set(weight);
        e.store_partial(row + at, n);
      }
      if (args.signal != nullptr) {
        const V one = V::set(weight);  // a sample of weight 2 counts as two
        const V sign =
            V::select(e > V::zero(), one, V::select(e < V::zero(), V::zero() - one, V::zero()));
        sign.store_partial(args.signal + i * kPanel + at, n);
      }
    });
    if (args.error_t == nullptr) return;
    float* column = args.error_t + i / kPanel * args.error_t_stride + i % kPanel;
    for (std::size_t j = 0; j < args.n_outputs; ++j) {
      const float e = row[j / kPanel * args.panel_stride + j % kPanel];
      column[j * kPanel] = !args.sign_of_error_t ? e : e > 0 ? weight : e < 0 ? -weight : 0.0f;
    }
    if (args.error_pairs_t == nullptr) return;
    std::uint32_t* pairs = args.error_pairs_t + i / kPanel * (args.error_t_stride / 2) + i % kPanel;
    for (std::size_t j = 0; j < args.n_outputs; j += 2) {
      const float low = column[j * kPanel];
      const float high = j + 1 < args.n_outputs ? column[(j + 1) * kPanel] : 0.0f;
      alignas(64) std::uint32_t words[V::N];
      V::pack_pair(V::set(low), V::set(high)).store(words);
      pairs[j / 2 * kPanel] = words[0];
    }
  }
};

}  // namespace bpfree::product
