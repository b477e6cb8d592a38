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

constexpr std::size_t kOperandBytes = std::size_t{1}
                                      << 20;  // of the broadcast operand: stays in L2
constexpr std::size_t kAliasBytes = 2048;     // rows this far apart share a few sets of L1

std::size_t element_size(Dtype dtype) {
  return dtype == Dtype::f64 ? 8 : dtype == Dtype::f32 ? 4 : 2;
}

std::string shape(const Matrix& m, bool transposed) {
  return "[" + std::to_string(transposed ? m.columns : m.rows) + ", " +
         std::to_string(transposed ? m.rows : m.columns) + "]";
}

// One product as two phases: pack what several tiles share, then the tiles. Where all rows of a stay in L2, a panel of b is
// needed once: the tile packs it into its thread's scratch, and it never leaves the cache.
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
    // A row group of a stays in the L2 cache while panels pass by.
    const std::size_t rows = kOperandBytes / word_ / std::max<std::size_t>(depth_, 1);
    blocks_per_group_ = std::max<std::size_t>(rows / blocks_[0].height, 1);
    n_groups_ = divide_up(blocks_.size(), blocks_per_group_);
    if (n_groups_ > 1)
      panels_ = Buffer<char>::uninitialized(checked_product(n_panels_, panel_bytes()));
    const std::size_t row_bytes = a.stride * element_size(dtype);
    const bool odd_pairs = per_word_ == 2 && (k_ % 2 != 0 || a.stride % 2 != 0);
    copy_a_ = !transpose_a && (odd_pairs || (row_bytes % kAliasBytes == 0 && m_ > 1));
    if (transpose_a) a_packed_ = Buffer<char>::uninitialized(checked_product(m_, depth_, word_));
    if (copy_a_) {
      copy_stride_ = depth_ + 16;
      const std::size_t size = checked_product(m_, copy_stride_, word_);
      a_packed_ = odd_pairs ? Buffer<char>(size) : Buffer<char>::uninitialized(size);
    }
  }

  std::size_t panel_bytes() const { return checked_product(width_, depth_, word_); }
  std::size_t scratch_bytes() const {
    return n_groups_ > 1 ? 0 : std::max<std::size_t>(panel_bytes(), 1);
  }

  bool next(std::span<const Plan>& plans) noexcept override {
    if (stage_ == 0) {
      plan_[0] = {n_groups_ > 1 ? n_panels_ : 0,
                  [](const void* self, std::size_t t, const Worker&) {
                    as(self).pack_b(as(self).panels_.data() + t * as(self).panel_bytes(), t);
                  },
                  this};
      const bool packs_a = transpose_a_ || copy_a_;
      plan_[1] = {packs_a ? blocks_.size() : 0,
                  [](const void* self, std::size_t t, const Worker&) { as(self).pack_a(t); }, this};
      plans = plan_;
    } else if (stage_ == 1) {
      plan_[0] = {n_panels_ * n_groups_,
                  [](const void* self, std::size_t t, const Worker& w) { as(self).multiply(t, w); },
                  this};
      plans = {plan_, 1};
    }
    return stage_++ < 2;
  }

 private:
  static const ProductSource& as(const void* self) {
    return *static_cast<const ProductSource*>(self);
  }

  void pack_b(void* dst, std::size_t panel) const {
    const char* src = static_cast<const char*>(b_.data);
    const std::size_t j = panel * width_;
    const std::size_t depth_stride = transpose_b_ ? 1 : b_.stride;
    const std::size_t column_stride = transpose_b_ ? b_.stride : 1;
    pack_panel_({.dst = dst,
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

  void multiply(std::size_t tile, const Worker& worker) const {
    const std::size_t panel = tile % n_panels_;  // panels pass, a group of rows stays
    if (n_groups_ == 1) pack_b(worker.scratch, panel);
    const std::size_t first = tile / n_panels_ * blocks_per_group_;
    const std::size_t j = panel * width_;
    StoreArgs args = {
        .a = {copy_a_ ? a_packed_.data() : a_.data, copy_a_ ? copy_stride_ : a_.stride / per_word_,
              std::max<std::size_t>(depth_, 1), 0},
        .packed = transpose_a_ ? a_packed_.data() : nullptr,
        .panel = n_groups_ == 1 ? worker.scratch : panels_.data() + panel * panel_bytes(),
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
  const int threads = threads_for(n_threads, flops);
  std::vector<Buffer<char>> memory;
  std::vector<void*> scratch;
  for (int t = 0; source.scratch_bytes() > 0 && t < threads; ++t) {
    memory.push_back(Buffer<char>::uninitialized(source.scratch_bytes()));
    scratch.push_back(memory.back().data());
  }
  run_phases(threads, source, scratch);
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
