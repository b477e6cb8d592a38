// SPDX-License-Identifier: BSD-3-Clause
#include "network/ensemble_strips.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "product/row_blocks.h"

namespace bpfree {

namespace {

constexpr std::size_t kGroupBytes = std::size_t{512} << 10;  // half of L2: panels have the other
constexpr std::size_t kStripPanels =
    8;  // a kilobyte of each member: less than that wastes memory's pages
constexpr std::size_t kLine = 64;

template <class T>
void invert_norms(T* inverse, const T* squares, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i)
    inverse[i] = squares[i] > 0 ? 1 / std::sqrt(squares[i]) : T{0};
}

}  // namespace

struct EnsembleStrips::Strip {
  char* out;
  const char* theta;
  std::size_t n_params;
  std::size_t size;  // bytes of a parameter
  float* mean;
};

EnsembleStrips::EnsembleStrips(product::Dtype dtype, std::size_t n_ens, const Algebra& second,
                               const Algebra& first, const Shrinking& shrinking, int n_threads)
    : dtype_(dtype), n_ens_(n_ens), kind_(shrinking.kind), taper_(shrinking.taper) {
  const product::Kernels& k = product::kernels();
  const bool f64 = dtype == product::Dtype::f64;
  const product::DtypeKernels& d = dtype == product::Dtype::bf16 ? k.bf16 : k.f32;
  tile_rows_ = f64 ? k.f64.tile_rows : d.tile_rows;
  ensemble_ = f64 ? k.f64.ensemble : d.ensemble;
  store_ = f64 ? k.f64.store : d.store;
  pack_panel_ = f64 ? k.f64.pack_panel : d.pack_panel;
  per_word_ = dtype == product::Dtype::bf16 ? 2 : 1;
  word_ = f64 ? 8 : 4;
  width_ = f64 ? product::kPanelF64 : product::kPanel;
  second_ = operand(second, n_threads);
  first_ = operand(first, n_threads);
  n_together_ = second_.n_groups > 1 || first_.n_groups > 1 ? kStripPanels : 1;
  row_inverse_ = Buffer<char>::uninitialized(shrinking.inverse.size() * word_);
  for (std::size_t m = 0; m < shrinking.inverse.size(); ++m)
    if (f64)
      reinterpret_cast<double*>(row_inverse_.data())[m] = shrinking.inverse[m];
    else
      reinterpret_cast<float*>(row_inverse_.data())[m] = static_cast<float>(shrinking.inverse[m]);
}

EnsembleStrips::Operand EnsembleStrips::operand(const Algebra& matrix, int n_threads) const {
  Operand o;
  if (matrix.rows == 0) return o;
  o.rows = matrix.rows;
  o.depth = std::max<std::size_t>(divide_up(matrix.columns, per_word_), 1);
  o.data = Buffer<char>(checked_product(o.rows, o.depth, word_));
  o.blocks = product::row_blocks(o.rows, tile_rows_);
  o.blocks_per_group =
      std::max<std::size_t>(kGroupBytes / (o.depth * word_ * o.blocks[0].height), 1);
  o.n_groups = divide_up(o.blocks.size(), o.blocks_per_group);
  const double elements = static_cast<double>(matrix.rows) * static_cast<double>(matrix.columns);
  const auto block = [&](std::size_t b, const Worker&) {
    const product::RowBlock& rows = o.blocks[b];
    char* dst = o.data.data() + rows.row * o.depth * word_;
    for (std::size_t i = 0; i < rows.height; ++i)
      pack_row(dst + i * word_, rows.height, matrix, rows.row + i);
  };
  parallel_for(o.blocks.size(), threads_for(n_threads, 4 * elements), block);
  return o;
}

// A row, rounded, to every `height`-th word.
void EnsembleStrips::pack_row(char* dst, std::size_t height, const Algebra& matrix,
                              std::size_t row) const {
  const double* src = matrix.data + row * matrix.row_stride;
  constexpr std::size_t kPiece = 256;
  float piece[kPiece];
  std::uint16_t rounded[kPiece];
  for (std::size_t k = 0; k < matrix.columns; k += kPiece) {
    const std::size_t n = std::min(kPiece, matrix.columns - k);
    if (dtype_ == product::Dtype::f64) {
      for (std::size_t i = 0; i < n; ++i)
        reinterpret_cast<double*>(dst)[(k + i) * height] = src[(k + i) * matrix.column_stride];
      continue;
    }
    for (std::size_t i = 0; i < n; ++i)
      piece[i] = static_cast<float>(src[(k + i) * matrix.column_stride]);
    if (dtype_ == product::Dtype::bf16) {
      product::kernels().to_bf16(rounded, piece, n);
      for (std::size_t i = 0; i < n; ++i)
        reinterpret_cast<std::uint16_t*>(dst)[(k + i) / 2 * 2 * height + (k + i) % 2] = rounded[i];
    } else {
      for (std::size_t i = 0; i < n; ++i)
        reinterpret_cast<float*>(dst)[(k + i) * height] = piece[i];
    }
  }
}

std::size_t EnsembleStrips::scratch_bytes(bool with_mean) const {
  const std::size_t anomalies = panel_bytes(divide_up(n_ens_, per_word_));
  const std::size_t covariance = panel_bytes(first_.rows);
  const std::size_t strips = n_together_ * (anomalies + covariance + panel_bytes(1)) +
                             (taper_ != nullptr ? covariance : 0);
  return std::max(strips, with_mean ? panel_bytes(n_ens_) : 0);
}

// A group of rows times a panel. `ahead` is what the next panel will be packed from: asked for meanwhile, as many rows as the
// product has done.
void EnsembleStrips::multiply(const Operand& operand, std::size_t group, const void* panel,
                              void* out, std::size_t out_stride, std::size_t n_columns,
                              bool accumulate, const char* ahead) const {
  const std::size_t begin = group * operand.blocks_per_group;
  const std::size_t end = std::min(begin + operand.blocks_per_group, operand.blocks.size());
  const std::size_t at_once = ahead == nullptr ? end - begin : 1;
  for (std::size_t b = begin; b < end; b += at_once) {
    const product::RowBlock& block = operand.blocks[b];
    if (ahead != nullptr)
      for (std::size_t i = block.row; i < block.row + block.height; ++i)
        for (std::size_t byte = 0; byte < width_ * word_ + kLine; byte += kLine)
          __builtin_prefetch(ahead + i * out_stride * word_ + std::min(byte, width_ * word_ - 1), 0,
                             2);
    store_({.a = {},
            .packed = operand.data.data(),
            .panel = panel,
            .depth = operand.depth,
            .blocks = &block,
            .n_blocks = at_once,
            .out = out,
            .out_stride = out_stride,
            .n_columns = n_columns,
            .accumulate = accumulate});
  }
}

// The covariance [n_obs][width] of a panel's parameters and all outputs.
void EnsembleStrips::shrink(char* covariance, const char* squares, char* scratch,
                            std::size_t column, std::size_t n_columns) const {
  if (kind_ == product::Localization::none) return;
  double inverse[product::kPanel] = {};  // of the panel's own type
  static_assert(product::kPanel * sizeof(float) <= sizeof(inverse));
  if (kind_ == product::Localization::taper) {
    pack_panel_({.dst = scratch,
                 .src = static_cast<const char*>(taper_) + column * first_.rows * word_,
                 .depth_stride = 1,
                 .column_stride = first_.rows,
                 .depth = first_.rows,
                 .n_columns = n_columns});
  } else if (dtype_ == product::Dtype::f64) {
    invert_norms(inverse, reinterpret_cast<const double*>(squares), width_);
  } else {
    invert_norms(reinterpret_cast<float*>(inverse), reinterpret_cast<const float*>(squares),
                 width_);
  }
  const double root = std::tanh(1 / std::sqrt(static_cast<double>(n_ens_) - 3));
  ensemble_.localize({.kind = kind_,
                      .c = covariance,
                      .stride = width_,
                      .n_rows = first_.rows,
                      .n_columns = width_,
                      .taper = scratch,
                      .taper_stride = width_,
                      .row_inverse = row_inverse_.data(),
                      .column_inverse = inverse,
                      .fisher = kind_ == product::Localization::sec_fisher ? root * root : 0});
}

void EnsembleStrips::strip(const Strip& s, std::size_t first_panel, std::size_t n_panels,
                           char* scratch) const {
  const bool two = first_.rows > 0;
  const bool by_correlation =
      kind_ == product::Localization::sec || kind_ == product::Localization::sec_fisher;
  const std::size_t anomaly_bytes = panel_bytes(divide_up(n_ens_, per_word_));
  const std::size_t covariance_bytes = panel_bytes(first_.rows);
  char* anomalies = scratch;
  char* covariances = anomalies + n_together_ * anomaly_bytes;
  char* squares = covariances + n_together_ * covariance_bytes;
  char* taper = squares + n_together_ * panel_bytes(1);
  const auto column = [&](std::size_t p) { return (first_panel + p) * width_; };
  const auto columns = [&](std::size_t p) { return std::min(width_, s.n_params - column(p)); };
  for (std::size_t p = 0; p < n_panels; ++p) {
    const std::size_t offset = column(p) * s.size;
    ensemble_.center({.dst = anomalies + p * anomaly_bytes,
                      .dst_stride = width_,
                      .src = s.theta + offset,
                      .src_stride = s.n_params,
                      .depth = n_ens_,
                      .n_columns = columns(p),
                      .scale = 1,
                      .squares = by_correlation ? squares + p * panel_bytes(1) : nullptr});
    if (s.out == s.theta) continue;
    for (std::size_t j = 0; j < n_ens_; ++j)
      std::memcpy(s.out + j * s.n_params * s.size + offset,
                  s.theta + j * s.n_params * s.size + offset, columns(p) * s.size);
  }
  for (std::size_t group = 0; group < first_.n_groups; ++group)
    for (std::size_t p = 0; p < n_panels; ++p)
      multiply(first_, group, anomalies + p * anomaly_bytes, covariances + p * covariance_bytes,
               width_, width_, false, nullptr);
  for (std::size_t p = 0; two && p < n_panels; ++p)
    shrink(covariances + p * covariance_bytes, squares + p * panel_bytes(1), taper, column(p),
           columns(p));
  for (std::size_t group = 0; group < second_.n_groups; ++group)
    for (std::size_t p = 0; p < n_panels; ++p) {
      const std::size_t next = column(p) + width_;
      const bool has_next = n_together_ == 1 && next + width_ <= s.n_params;
      multiply(second_, group,
               two ? covariances + p * covariance_bytes : anomalies + p * anomaly_bytes,
               s.out + column(p) * s.size, s.n_params, columns(p), true,
               has_next ? s.theta + next * s.size : nullptr);
    }
  for (std::size_t p = 0; s.mean != nullptr && p < n_panels; ++p)
    column_means(s.mean + column(p), reinterpret_cast<const float*>(s.out) + column(p), s.n_params,
                 n_ens_, columns(p), reinterpret_cast<float*>(scratch));
}

void column_means(float* mean, const float* members, std::size_t stride, std::size_t n_ens,
                  std::size_t n_columns, float* anomalies) {
  product::kernels().f32.ensemble.center({.dst = anomalies,
                                          .dst_stride = product::kPanel,
                                          .src = members,
                                          .src_stride = stride,
                                          .depth = n_ens,
                                          .n_columns = n_columns,
                                          .scale = 1});
  for (std::size_t i = 0; i < n_columns; ++i) mean[i] = members[i] - anomalies[i];
}

void EnsembleStrips::run(const Members& out, const Members& theta, int n_threads,
                         float* mean) const {
  const std::size_t n_params = theta.columns;
  if (n_params == 0) return;
  const Strip whole{static_cast<char*>(out.data), static_cast<const char*>(theta.data), n_params,
                    theta.is_f64 ? sizeof(double) : sizeof(float), mean};
  const std::size_t n_panels = divide_up(n_params, width_);
  const double rows = static_cast<double>(second_.rows + first_.rows);
  const double depth = static_cast<double>(std::max(second_.depth, n_ens_));
  const int threads = threads_for(n_threads, 2 * rows * depth * static_cast<double>(n_params));
  // As many as make a kilobyte, but no fewer tasks than keep the threads busy.
  const std::size_t per_task =
      std::clamp<std::size_t>(n_panels / (4 * static_cast<std::size_t>(threads)), 1, kStripPanels);
  std::vector<Buffer<char>> memory;
  std::vector<void*> scratch;
  for (int t = 0; t < threads; ++t) {
    memory.push_back(Buffer<char>::uninitialized(scratch_bytes(mean != nullptr)));
    scratch.push_back(memory.back().data());
  }
  const auto task = [&](std::size_t t, const Worker& worker) {
    const std::size_t end = std::min(n_panels, (t + 1) * per_task);
    for (std::size_t p = t * per_task; p < end; p += n_together_)
      strip(whole, p, std::min(n_together_, end - p), static_cast<char*>(worker.scratch));
  };
  parallel_for(divide_up(n_panels, per_task), threads, task, scratch);
}

}  // namespace bpfree
