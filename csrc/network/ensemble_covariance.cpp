// SPDX-License-Identifier: BSD-3-Clause
#include "network/ensemble_covariance.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/parallel.h"
#include "network/array_checks.h"
#include "product/kernels.h"
#include "product/row_blocks.h"

namespace bpfree {

namespace {

using product::Localization;
using product::RowBlock;

constexpr std::size_t kLine = 64;
constexpr std::size_t kBlocks = 8;  // row blocks of a task: a hundred columns of a

void check(const Members& out, const EnsembleRows& a, const EnsembleRows& b,
           Localization localization, const void* taper, int n_threads) {
  if (a.rows < 2)
    fail("a has " + std::to_string(a.rows) + (a.rows == 1 ? " member" : " members") +
         ", expected at least 2");
  if (b.rows != a.rows || b.is_f64 != a.is_f64)
    fail("b has " + std::to_string(b.rows) + " members, expected the " + std::to_string(a.rows) +
         " of a, and its type");
  if (out.rows != a.columns || out.columns != b.columns || out.is_f64 != a.is_f64)
    fail("out is " + shape_text(out.rows, out.columns) + ", expected " +
         shape_text(a.columns, b.columns) + " and the type of a");
  if (localization == Localization::sec_fisher && a.rows < 4)
    fail("a has " + std::to_string(a.rows) +
         " members, expected at least 4 for localization 'sec_fisher'");
  if (localization == Localization::taper && taper == nullptr && out.rows * out.columns > 0)
    fail("the taper is a null pointer");
  const std::size_t size = a.is_f64 ? 8 : 4;
  check_apart(
      {{"out", out.data, checked_product(out.rows, out.columns, size)},
       {"a", a.data, checked_product(a.rows, a.columns, size)},
       {"b", b.data, checked_product(b.rows, b.columns, size)},
       {"the taper", taper, taper == nullptr ? 0 : checked_product(out.rows, out.columns, size)}},
      1);
  if (localization == Localization::taper)
    check_taper({taper, out.rows, out.columns, a.is_f64}, n_threads);
}

template <class T>
class Covariance {
 public:
  Covariance(const Members& out, const EnsembleRows& a, const EnsembleRows& b, bool symmetric,
             Localization localization, const void* taper)
      : out_(static_cast<T*>(out.data)),
        a_(static_cast<const T*>(a.data)),
        b_(static_cast<const T*>(b.data)),
        taper_(static_cast<const T*>(taper)),
        n_ens_(a.rows),
        p_(a.columns),
        q_(b.columns),
        symmetric_(symmetric),
        localization_(localization) {
    const product::Kernels& k = product::kernels();
    if constexpr (kF64) {
      width_ = product::kPanelF64;
      tile_rows_ = k.f64.tile_rows;
      ensemble_ = k.f64.ensemble;
      store_ = k.f64.store;
      pack_columns_ = k.f64.pack_columns;
    } else {
      width_ = product::kPanel;
      tile_rows_ = k.f32.tile_rows;
      ensemble_ = k.f32.ensemble;
      store_ = k.f32.store;
      pack_columns_ = k.f32.pack_columns;
    }
    rows_ = kBlocks * tile_rows_;
    stride_ = round_up(rows_, width_);
    n_panels_ = divide_up(q_, width_);
    panels_ = Buffer<T>::uninitialized(checked_product(n_panels_, n_ens_, width_));
    inverse_ = Buffer<T>::uninitialized(n_panels_ * width_);
    full_ = product::row_blocks(rows_, tile_rows_);
    if (p_ % rows_ != 0) tail_ = product::row_blocks(p_ % rows_, tile_rows_);
  }

  void run(int n_threads) {
    const double flops = 2.0 * static_cast<double>(n_ens_) * static_cast<double>(p_) *
                         static_cast<double>(q_) / (symmetric_ ? 2 : 1);
    const int threads = threads_for(n_threads, flops);
    parallel_for(n_panels_, threads, [&](std::size_t t, const Worker&) { pack(t); });
    std::vector<Buffer<T>> memory;
    std::vector<void*> scratch;
    for (int t = 0; t < threads; ++t) {
      memory.push_back(Buffer<T>::uninitialized(2 * n_ens_ * stride_ + stride_));
      scratch.push_back(memory.back().data());
    }
    // Where only the lower half is computed the last rows are the longest: they come first.
    const std::size_t n_tasks = divide_up(p_, rows_);
    const auto task = [&](std::size_t t, const Worker& worker) {
      multiply(symmetric_ ? n_tasks - 1 - t : t, static_cast<T*>(worker.scratch));
    };
    parallel_for(n_tasks, threads, task, scratch);
  }

 private:
  static constexpr bool kF64 = sizeof(T) == 8;

  void pack(std::size_t panel) const {
    const std::size_t j = panel * width_;
    T* squares = inverse_.data() + j;
    ensemble_.center({.dst = panels_.data() + j * n_ens_,
                      .dst_stride = width_,
                      .src = b_ + j,
                      .src_stride = q_,
                      .depth = n_ens_,
                      .n_columns = std::min(width_, q_ - j),
                      .scale = 1 / static_cast<double>(n_ens_ - 1),
                      .squares = squares});
    for (std::size_t i = 0; i < width_; ++i)
      squares[i] = squares[i] > 0 ? 1 / std::sqrt(squares[i]) : T{0};
  }

  // Some rows of out: centred columns of a, packed, times every panel.
  void multiply(std::size_t task, T* scratch) const {
    const std::size_t row = task * rows_, n_rows = std::min(rows_, p_ - row);
    const std::vector<RowBlock>& blocks = n_rows == rows_ ? full_ : tail_;
    T* centered = scratch;
    T* packed = centered + n_ens_ * stride_;
    T* row_inverse = packed + n_ens_ * stride_;
    for (std::size_t i = 0; i < n_rows; i += width_)
      ensemble_.center({.dst = centered + i,
                        .dst_stride = stride_,
                        .src = a_ + row + i,
                        .src_stride = p_,
                        .depth = n_ens_,
                        .n_columns = std::min(width_, n_rows - i),
                        .scale = 1,
                        .squares = row_inverse + i});
    for (std::size_t i = 0; i < n_rows; ++i)
      row_inverse[i] =
          row_inverse[i] > 0 ? static_cast<T>(n_ens_ - 1) / std::sqrt(row_inverse[i]) : T{0};
    pack_columns_({.dst = packed,
                   .src = centered,
                   .src_stride = stride_,
                   .depth = n_ens_,
                   .blocks = blocks.data(),
                   .n_blocks = blocks.size()});
    const std::size_t end = symmetric_ ? row + n_rows : q_;
    // Block by block over all panels, so that rows of out are written from left to right; what the next tile will write is asked
    // for before this one is multiplied, or every tile would wait for memory.
    for (const RowBlock& block : blocks)
      for (std::size_t j = 0; j < end; j += width_) {
        T* out = out_ + row * q_ + j;
        for (std::size_t i = block.row; j + 2 * width_ <= end && i < block.row + block.height; ++i)
          for (std::size_t byte = 0; byte < 2 * kLine; byte += kLine)
            __builtin_prefetch(reinterpret_cast<const char*>(out + i * q_ + width_) + byte, 1, 3);
        store_({.a = {},
                .packed = packed,
                .panel = panels_.data() + j * n_ens_,
                .depth = n_ens_,
                .blocks = &block,
                .n_blocks = 1,
                .out = out,
                .out_stride = q_,
                .n_columns = std::min(width_, end - j),
                .accumulate = false});
      }
    for (std::size_t j = 0; j < end; j += width_)
      shrink(out_ + row * q_ + j, row, j, n_rows, std::min(width_, end - j), row_inverse);
    for (std::size_t j = 0; symmetric_ && j < end; j += width_)
      mirror(row, j, n_rows, std::min(width_, end - j));
  }

  void shrink(T* out, std::size_t row, std::size_t column, std::size_t n_rows,
              std::size_t n_columns, const T* row_inverse) const {
    if (localization_ == Localization::none) return;
    const double root = std::tanh(1 / std::sqrt(static_cast<double>(n_ens_) - 3));
    ensemble_.localize({.kind = localization_,
                        .c = out,
                        .stride = q_,
                        .n_rows = n_rows,
                        .n_columns = n_columns,
                        .taper = taper_ == nullptr ? nullptr : taper_ + row * q_ + column,
                        .taper_stride = q_,
                        .row_inverse = row_inverse,
                        .column_inverse = inverse_.data() + column,
                        .fisher = localization_ == Localization::sec_fisher ? root * root : 0});
  }

  void mirror(std::size_t row, std::size_t column, std::size_t n_rows,
              std::size_t n_columns) const {
    for (std::size_t j = column; j < column + n_columns; ++j)
      for (std::size_t i = std::max(row, j + 1); i < row + n_rows; ++i)
        out_[j * q_ + i] = out_[i * q_ + j];
  }

  T* out_;
  const T *a_, *b_, *taper_;
  std::size_t n_ens_, p_, q_;
  bool symmetric_;
  Localization localization_;
  std::size_t width_, tile_rows_, rows_, stride_, n_panels_;
  product::EnsembleKernels ensemble_;
  void (*store_)(const product::StoreArgs&);
  void (*pack_columns_)(const product::PackColumnsArgs&);
  Buffer<T> panels_;   // b, anomalies over n_ens - 1
  Buffer<T> inverse_;  // 1 / the norm of each of its columns
  std::vector<RowBlock> full_, tail_;
};

}  // namespace

void ensemble_covariance(const Members& out, const EnsembleRows& a, const EnsembleRows& b,
                         product::Localization localization, const void* taper, int n_threads) {
  const EnsembleRows& other = b.data == nullptr ? a : b;
  check(out, a, other, localization, taper, n_threads);
  threads_for(n_threads, 0);
  if (a.columns == 0 || other.columns == 0) return;
  const bool symmetric = b.data == nullptr && localization != Localization::taper;
  if (a.is_f64)
    Covariance<double>(out, a, other, symmetric, localization, taper).run(n_threads);
  else
    Covariance<float>(out, a, other, symmetric, localization, taper).run(n_threads);
}

}  // namespace bpfree
