// SPDX-License-Identifier: BSD-3-Clause
#include "product/product.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/error.h"
#include "base/parallel.h"
#include "product/row_blocks.h"

namespace bpfree::product {

namespace {

constexpr std::size_t kL2Words = std::size_t{1}
                                 << 17;    // half a megabyte of the broadcast operand stays in L2
constexpr std::size_t kAliasBytes = 2048;  // rows this far apart share a few sets of L1

std::size_t element_size(Dtype dtype) {
  return dtype == Dtype::f64 ? 8 : dtype == Dtype::f32 ? 4 : 2;
}

std::string shape(const Matrix& m, bool transposed) {
  return "[" + std::to_string(transposed ? m.columns : m.rows) + ", " +
         std::to_string(transposed ? m.rows : m.columns) + "]";
}

// One product as two phases: pack the panels (and a, if it must be), then the tiles.
class ProductSource final : public PhaseSource {
 public:
  ProductSource(void* out, std::size_t out_stride, const Matrix& a, bool transpose_a,
                const Matrix& b, bool transpose_b, Dtype dtype, bool accumulate)
      : out_(static_cast<char*>(out)),
        out_stride_(out_stride),
        a_(a),
        b_(b),
        transpose_a_(transpose_a),
        transpose_b_(transpose_b),
        dtype_(dtype),
        accumulate_(accumulate) {
    const Kernels& k = kernels();
    const DtypeKernels& d = dtype == Dtype::bf16 ? k.bf16 : k.f32;
    const bool f64 = dtype == Dtype::f64;
    pack_columns_ = f64 ? k.f64.pack_columns : d.pack_columns;
    pack_panel_ = f64 ? k.f64.pack_panel : d.pack_panel;
    store_ = f64 ? k.f64.store : d.store;
    per_word_ = dtype == Dtype::bf16 ? 2 : 1;
    word_ = f64 ? 8 : 4;
    width_ = f64 ? kPanelF64 : kPanel;
    m_ = transpose_a ? a.columns : a.rows;
    k_ = transpose_a ? a.rows : a.columns;
    n_ = transpose_b ? b.rows : b.columns;
    depth_ = divide_up(k_, per_word_);
    n_panels_ = divide_up(n_, width_);
    blocks_ = row_blocks(m_, f64 ? k.f64.tile_rows : d.tile_rows);
    panels_ = Buffer<char>(checked_product(n_panels_ * width_, depth_, word_));
    // A row group of a stays in the L2 cache while panels pass by.
    const std::size_t rows =
        std::max<std::size_t>(kL2Words * 4 / word_ / std::max<std::size_t>(depth_, 1), 1);
    const std::size_t height = blocks_.empty() ? 1 : blocks_[0].height;
    blocks_per_group_ = std::max<std::size_t>(rows / height, 1);
    n_groups_ = divide_up(blocks_.size(), blocks_per_group_);
    const std::size_t row_bytes = a.stride * element_size(dtype);
    const bool odd_pairs = per_word_ == 2 && (k_ % 2 != 0 || a.stride % 2 != 0);
    copy_a_ = !transpose_a && (odd_pairs || (row_bytes % kAliasBytes == 0 && m_ > 1));
    if (transpose_a) a_packed_ = Buffer<char>(checked_product(m_, depth_, word_));
    if (copy_a_) {
      copy_stride_ = depth_ + 16;
      a_packed_ = Buffer<char>(checked_product(m_, copy_stride_, word_));
    }
  }

  bool next(std::span<const Plan>& plans) noexcept override {
    if (stage_ == 0) {
      plan_[0] = {n_panels_,
                  [](const void* self, std::size_t t, const Worker&) { as(self).pack_b(t); }, this};
      const bool packs_a = transpose_a_ || copy_a_;
      plan_[1] = {packs_a ? blocks_.size() : 0,
                  [](const void* self, std::size_t t, const Worker&) { as(self).pack_a(t); }, this};
      plans = plan_;
    } else if (stage_ == 1) {
      plan_[0] = {n_panels_ * n_groups_,
                  [](const void* self, std::size_t t, const Worker&) { as(self).multiply(t); },
                  this};
      plans = {plan_, 1};
    }
    return stage_++ < 2;
  }

 private:
  static const ProductSource& as(const void* self) {
    return *static_cast<const ProductSource*>(self);
  }

  void pack_b(std::size_t panel) const {
    const char* src = static_cast<const char*>(b_.data);
    const std::size_t j = panel * width_;
    const std::size_t depth_stride = transpose_b_ ? 1 : b_.stride;
    const std::size_t column_stride = transpose_b_ ? b_.stride : 1;
    pack_panel_({.dst = panels_.data() + panel * width_ * depth_ * word_,
                 .src = src + j * column_stride * element_size(dtype_),
                 .depth_stride = depth_stride,
                 .column_stride = column_stride,
                 .depth = k_,
                 .n_columns = std::min(width_, n_ - j)});
  }

  void pack_a(std::size_t block) const {
    const RowBlock b = blocks_[block];
    if (transpose_a_)
      return pack_columns_({.dst = a_packed_.data(),
                            .src = a_.data,
                            .src_stride = a_.stride,
                            .depth = k_,
                            .blocks = &b,
                            .n_blocks = 1});
    const std::size_t size = element_size(dtype_);
    for (std::size_t i = b.row; i < b.row + b.height; ++i)
      std::copy_n(static_cast<const char*>(a_.data) + i * a_.stride * size, k_ * size,
                  a_packed_.data() + i * copy_stride_ * word_);
  }

  void multiply(std::size_t tile) const {
    const std::size_t panel = tile % n_panels_;  // panels pass, a group of rows stays
    const std::size_t first = tile / n_panels_ * blocks_per_group_;
    const std::size_t j = panel * width_;
    StoreArgs args = {
        .a = {copy_a_ ? a_packed_.data() : a_.data, copy_a_ ? copy_stride_ : a_.stride / per_word_,
              std::max<std::size_t>(depth_, 1), 0},
        .packed = transpose_a_ ? a_packed_.data() : nullptr,
        .panel = panels_.data() + panel * width_ * depth_ * word_,
        .depth = depth_,
        .blocks = blocks_.data() + first,
        .n_blocks = std::min(blocks_per_group_, blocks_.size() - first),
        .out = out_ + j * (dtype_ == Dtype::f64 ? 8 : 4),
        .out_stride = out_stride_,
        .n_columns = std::min(width_, n_ - j),
        .accumulate = accumulate_};
    store_(args);
  }

  char* out_;
  std::size_t out_stride_;
  Matrix a_, b_;
  bool transpose_a_, transpose_b_;
  Dtype dtype_;
  bool accumulate_;
  void (*pack_columns_)(const PackColumnsArgs&);
  void (*pack_panel_)(const PackPanelArgs&);
  void (*store_)(const StoreArgs&);
  std::size_t per_word_, word_, width_, m_, k_, n_, depth_, n_panels_, blocks_per_group_, n_groups_;
  std::size_t copy_stride_ = 0;
  bool copy_a_ = false;
  std::vector<RowBlock> blocks_;
  Buffer<char> panels_, a_packed_;
  Plan plan_[2];
  int stage_ = 0;
};

}  // namespace

void product(void* out, std::size_t out_stride, const Matrix& a, bool transpose_a, const Matrix& b,
             bool transpose_b, Dtype dtype, bool accumulate, int n_threads) {
  const std::size_t k = transpose_a ? a.rows : a.columns;
  const std::size_t m = transpose_a ? a.columns : a.rows;
  const std::size_t n = transpose_b ? b.rows : b.columns;
  if (k != (transpose_b ? b.columns : b.rows))
    fail("a is " + shape(a, transpose_a) + " and b is " + shape(b, transpose_b) +
         " after transposing: the inner sizes differ");
  if (m == 0 || n == 0) return;
  ProductSource source(out, out_stride, a, transpose_a, b, transpose_b, dtype, accumulate);
  const double flops =
      2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
  run_phases(threads_for(n_threads, flops), source, {});
}

double peak_gflops(bool bf16, int n_threads, double seconds) {
  const Kernels& k = kernels();
  auto* loop = bf16 ? k.peak_bf16 : k.peak_f32;
  const std::size_t threads = static_cast<std::size_t>(threads_for(n_threads, 1e18));
  using Clock = std::chrono::steady_clock;
  std::vector<double> rates;
  const auto start = Clock::now();
  while (std::chrono::duration<double>(Clock::now() - start).count() < seconds ||
         rates.size() < 3) {
    std::vector<double> flops(threads);
    const auto begin = Clock::now();
    parallel_for(threads, static_cast<int>(threads),
                 [&](std::size_t t, const Worker&) { flops[t] = loop(20000); });
    double total = 0;
    for (const double f : flops) total += f;
    rates.push_back(total / std::chrono::duration<double>(Clock::now() - begin).count() * 1e-9);
  }
  std::sort(rates.begin(), rates.end());
  return rates[rates.size() / 2];
}

}  // namespace bpfree::product
