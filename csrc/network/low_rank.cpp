// SPDX-License-Identifier: BSD-3-Clause
#include "network/low_rank.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/error.h"
#include "base/parallel.h"
#include "network/dense_tiles.h"
#include "network/network.h"
#include "product/product.h"
#include "product/row_blocks.h"

namespace bpfree {

using product::kPanel;

namespace {

constexpr std::size_t kWorkspaceFloats = 1
                                         << 20;  // of what the members have of their own, at a time
constexpr std::size_t kAliasBytes = 2048;        // rows this far apart share a few sets of L1
constexpr std::uint64_t kMembers = std::uint64_t{1} << 32;
constexpr std::size_t kTensors = std::size_t{1} << 24;

void check_layer(const PopulationLayer& layer, const NoiseOptions& noise) {
  const std::size_t n_in = layer.weights.rows, n_out = layer.weights.columns;
  if (noise.kind != NoiseKind::low_rank)
    fail("the kind of noise is " + std::to_string(static_cast<int>(noise.kind)) + ", expected " +
         std::to_string(static_cast<int>(NoiseKind::low_rank)) + " (low_rank)");
  if (noise.rank == 0) fail("rank is 0, expected at least 1");
  if (!std::isfinite(layer.std) || layer.std <= 0)
    fail("std is " + std::to_string(layer.std) + ", expected a finite number above 0");
  if (layer.first_member >= kMembers || layer.n_members > kMembers - layer.first_member)
    fail("first_member is " + std::to_string(layer.first_member) + " with " +
         std::to_string(layer.n_members) + " members, but they are numbered below 2^32");
  if (layer.tensor >= kTensors - 1)
    fail("tensor is " + std::to_string(layer.tensor) +
         ", expected a number below 2^24 - 1: the biases' is one more");
  // What making the factors would throw.
  random::matrix_block(nullptr, 0, random::Distribution::normal, 0, noise.seed,
                       noise_counter(noise, layer.tensor, 0), std::max(n_in, n_out), noise.rank, 0,
                       0, 0);
}

// The population a few members at a time. Members that share noise (a pair) share what is made of it.
class Population {
 public:
  Population(float* h, const float* x, bool shared_x, std::size_t batch,
             const PopulationLayer& layer, const NoiseOptions& noise, int n_threads)
      : h_(h),
        x_(x),
        shared_(shared_x || layer.weights.rows == 0),
        batch_(batch),
        layer_(layer),
        noise_(noise),
        n_threads_(n_threads),
        n_in_(layer.weights.rows),
        n_out_(layer.weights.columns),
        n_panels_(divide_up(n_out_, kPanel)),
        width_(n_panels_ * kPanel),
        groups_(batch_groups(batch, std::max<std::size_t>(layer.n_members, 1), n_threads)) {
    const std::size_t per_noise =
        noise_.rank * (n_in_ + width_ + (shared_ ? batch_ : 0)) + 2 * width_;
    at_once_ = std::clamp<std::size_t>(kWorkspaceFloats / per_noise, 1, last_noise() - noise_of(0));
    right_ = Buffer<float>(checked_product(at_once_, noise_.rank, width_));
    bias_ = Buffer<float>(checked_product(at_once_, 2, width_));
    left_ = Buffer<float>::uninitialized(checked_product(at_once_, noise_.rank, n_in_));
    if (shared_) {
      base_ = Buffer<float>::uninitialized(checked_product(batch_, width_));
      dots_ = Buffer<float>::uninitialized(checked_product(batch_, at_once_, noise_.rank));
    } else {
      panels_ = Buffer<float>::uninitialized(checked_product(n_panels_, n_in_, kPanel));
    }
    // Read in place, rows that fall onto the same cache sets would evict each other.
    copies_ = !shared_ && n_in_ * sizeof(float) % kAliasBytes == 0 && groups_.max_rows() > 1;
    x_stride_ = copies_ ? row_stride(n_in_, sizeof(float)) : n_in_;
  }

  void run() {
    const auto pack = [&](std::size_t p, const Worker&) {
      load_panel(panels_.data() + p * n_in_ * kPanel, layer_.weights.data + p * kPanel,
                 layer_.weights.stride, n_in_, columns_of(p));
    };
    if (shared_)
      shared_product();
    else
      parallel_for(n_panels_, n_threads_, pack);
    for (std::size_t k = noise_of(0); k < last_noise(); k += at_once_) {
      first_ = k;
      count_ = std::min(at_once_, last_noise() - k);
      parallel_for(count_, n_threads_, [&](std::size_t i, const Worker&) { draw(i); });
      if (shared_)
        product::product(dots_.data(), count_ * noise_.rank, {x_, batch_, n_in_, n_in_}, false,
                         {left_.data(), count_ * noise_.rank, n_in_, n_in_}, true,
                         product::Dtype::f32, false, n_threads_);
      const std::size_t begin = first_member_of(k), end = first_member_of(k + count_);
      const std::size_t n_members = std::max<std::size_t>(end - begin, 1);  // never 0
      const auto member = [&](std::size_t tile, float* scratch) {
        rows(begin + tile % n_members, tile / n_members, scratch);
      };
      const std::array<Plan, 2> phase[] = {{plan_of(n_members * groups_.count(), member)}};
      run_in_turn(n_threads_, scratch_floats(), phase);
    }
  }

 private:
  bool pairs() const { return noise_.antithetic; }
  // Members count from 0 here: their noise, and the first one that has noise k.
  std::size_t noise_of(std::size_t member) const {
    return static_cast<std::size_t>(layer_.first_member + member) / (pairs() ? 2 : 1);
  }
  std::size_t last_noise() const { return noise_of(layer_.n_members - 1) + 1; }
  std::size_t first_member_of(std::size_t k) const {
    const std::size_t member = k * (pairs() ? 2 : 1);
    const auto first = static_cast<std::size_t>(layer_.first_member);
    return std::clamp(member, first, first + layer_.n_members) - first;
  }
  std::size_t columns_of(std::size_t panel) const {
    return std::min(kPanel, n_out_ - panel * kPanel);
  }
  std::size_t scratch_floats() const {
    return groups_.max_rows() * (noise_.rank + kPanel + (copies_ ? x_stride_ : 0));
  }

  // x W in whole panels.
  void shared_product() {
    const MatrixView<const float> x{x_, batch_, n_in_, n_in_};
    const LayerForward forward(x, layer_.weights, nullptr, n_threads_);
    const auto copy = [&](std::size_t t, float*) { forward.copy(t); };
    const auto multiply = [&](std::size_t index, float* scratch) {
      const LayerTile t = forward.tile(index);
      product::ForwardArgs args = forward.pack(t, scratch);
      args.h = base_.data() + t.row * width_ + t.column;
      args.h_stride = width_;
      product::kernels().f32.forward(args);
    };
    const std::array<Plan, 2> phases[] = {{plan_of(forward.n_copies(), copy)},
                                          {plan_of(forward.n_tiles(), multiply)}};
    run_in_turn(n_threads_, forward.scratch_floats(), phases);
  }

  // The factors of one noise, and the biases of both its members; zero beyond the last column, as the buffers were made.
  void draw(std::size_t i) const {
    const auto k = static_cast<std::uint32_t>(first_ + i);
    const auto normal = random::Distribution::normal;
    random::matrix_block(left_.data() + i * noise_.rank * n_in_, n_in_, normal, 1, noise_.seed,
                         noise_counter(noise_, layer_.tensor, k), n_in_, 0, noise_.rank, 0, n_in_);
    random::matrix_block(right_.data() + i * noise_.rank * width_, width_, normal, 1, noise_.seed,
                         right_noise_counter(noise_, layer_.tensor, k), n_out_, 0, noise_.rank, 0,
                         n_out_);
    if (layer_.bias == nullptr) return;
    float* plus = bias_.data() + i * 2 * width_;
    random::perturb_block(plus, plus + width_, width_, layer_.bias, width_, layer_.std,
                          {.seed = noise_.seed,
                           .counter = noise_counter(noise_, layer_.tensor + 1, k),
                           .matrix_columns = n_out_,
                           .n_rows = 1,
                           .n_columns = n_out_});
  }

  // One member's rows of one group.
  void rows(std::size_t member, std::size_t group, float* scratch) const {
    const std::size_t row = groups_.first(group), n_rows = groups_.rows(group);
    const std::size_t i = noise_of(member) - first_;
    const std::size_t side = pairs() ? (layer_.first_member + member) % 2 : 0;
    const float scale = layer_.std / std::sqrt(static_cast<float>(noise_.rank));
    float* factors = scratch;
    float* edge = factors + n_rows * noise_.rank;
    const float* x = shared_ ? nullptr : x_ + (member * batch_ + row) * n_in_;
    if (copies_) {
      float* copy = edge + n_rows * kPanel;
      for (std::size_t r = 0; r < n_rows; ++r)
        std::copy_n(x + r * n_in_, n_in_, copy + r * x_stride_);
      x = copy;
    }
    make_factors(factors, x, row, n_rows, i, side == 0 ? scale : -scale);
    const std::vector<product::RowBlock>& blocks = groups_.blocks(group);
    for (std::size_t p = 0; p < n_panels_; ++p) {
      const std::size_t column = p * kPanel, n_columns = columns_of(p);
      const bool whole = n_columns == kPanel;
      float* h = h_ + (member * batch_ + row) * n_out_ + column;
      product::kernels().f32.low_rank_f32(
          {.x = {x, x_stride_, std::max<std::size_t>(n_in_, 1), 0},
           .panel = panels_.data() + (shared_ ? 0 : p * n_in_ * kPanel),
           .next_panel = nullptr,
           .depth = n_in_,
           .blocks = blocks.data(),
           .n_blocks = blocks.size(),
           .n_columns = n_columns,
           .base = shared_ ? base_.data() + row * width_ + column : nullptr,
           .base_stride = width_,
           .scale = 1,
           .factors = factors,
           .right = right_.data() + i * noise_.rank * width_ + column,
           .right_stride = width_,
           .rank = noise_.rank,
           .bias = bias_.data() + (2 * i + side) * width_ + column,
           .activation = layer_.activation,
           .h = whole ? h : edge,
           .h_stride = whole ? n_out_ : kPanel,
           .next_left = nullptr,
           .next_left_stride = 0,
           .next_sums = nullptr,
           .first_panel = false});
      if (!whole) store_panel(h, n_out_, edge, n_rows, n_columns);
    }
  }

  // scale x a_q of some rows.
  void make_factors(float* factors, const float* x, std::size_t row, std::size_t n_rows,
                    std::size_t i, float scale) const {
    const std::size_t rank = noise_.rank;
    if (!shared_)
      return product::kernels().row_dots({.factors = factors,
                                          .x = x,
                                          .x_stride = x_stride_,
                                          .n_rows = n_rows,
                                          .n_in = n_in_,
                                          .left = left_.data() + i * rank * n_in_,
                                          .left_stride = n_in_,
                                          .rank = rank,
                                          .scale = scale});
    for (std::size_t r = 0; r < n_rows; ++r)
      for (std::size_t q = 0; q < rank; ++q)
        factors[r * rank + q] = scale * dots_[((row + r) * count_ + i) * rank + q];
  }

  float* h_;
  const float* x_;
  bool shared_;
  std::size_t batch_;
  PopulationLayer layer_;
  NoiseOptions noise_;
  int n_threads_;
  std::size_t n_in_, n_out_, n_panels_, width_;
  Groups groups_;
  std::size_t at_once_ = 1, first_ = 0, count_ = 0;
  bool copies_ = false;
  std::size_t x_stride_ = 0;
  Buffer<float> base_, panels_, left_, right_, bias_, dots_;
};

}  // namespace

void low_rank_forward(float* h, const float* x, bool shared_x, std::size_t batch,
                      const PopulationLayer& layer, const NoiseOptions& noise, int n_threads) {
  const std::size_t n_in = layer.weights.rows, n_out = layer.weights.columns;
  check_layer(layer, noise);
  check_shape("W", layer.weights, n_in, n_out);
  const std::size_t h_rows = checked_product(layer.n_members, batch);
  const std::size_t x_rows = shared_x ? batch : h_rows;
  check_shape("h", MatrixView<float>{h, h_rows, n_out, n_out}, h_rows, n_out);
  check_shape("x", MatrixView<const float>{x, x_rows, n_in, n_in}, x_rows, n_in);
  check_apart({extent("h", h, checked_product(h_rows, n_out)),
               extent("x", x, checked_product(x_rows, n_in)), extent("W", layer.weights),
               extent("b", layer.bias, n_out)},
              1);
  const double rank = static_cast<double>(noise.rank);
  const double low_rank =
      flops_of(h_rows, n_in + n_out, 1) * rank + 10 * static_cast<double>(h_rows * n_out);
  const int threads = threads_for(n_threads, flops_of(x_rows, n_in, n_out) + low_rank);
  if (h_rows == 0 || n_out == 0) return;
  Population(h, x, shared_x, batch, layer, noise, threads).run();
}

}  // namespace bpfree
