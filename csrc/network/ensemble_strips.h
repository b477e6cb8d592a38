// SPDX-License-Identifier: BSD-3-Clause
// The products of an ensemble's anomalies that end in the members themselves, by strips of parameters.
#pragma once

#include <cstddef>
#include <vector>

#include "base/buffer.h"
#include "base/parallel.h"
#include "network/ensemble_transform.h"
#include "product/kernels.h"

namespace bpfree {

// A matrix of float64 as it comes out of the algebra: element (i, k) is data[i * row_stride + k * column_stride].
struct Algebra {
  const double* data = nullptr;
  std::size_t rows = 0;
  std::size_t columns = 0;
  std::size_t row_stride = 0;
  std::size_t column_stride = 1;
};

// Means over the members [n_ens][stride] of up to 32 parameters; `anomalies` holds n_ens x 32.
void column_means(float* mean, const float* members, std::size_t stride, std::size_t n_ens,
                  std::size_t n_columns, float* anomalies);

// out = theta + second A, or theta + second localised(first A), for the anomalies A [n_ens, n_params] of theta.
class EnsembleStrips {
 public:
  struct Shrinking {
    product::Localization kind = product::Localization::none;
    const void* taper = nullptr;       // [n_params, n_obs]
    std::vector<double> inverse = {};  // 1 / norm of each row of first
  };

  EnsembleStrips(product::Dtype dtype, std::size_t n_ens, const Algebra& second,
                 const Algebra& first, const Shrinking& shrinking, int n_threads);

  // mean [n_params], of float32 members alone: that of the new members, null: not wanted.
  void run(const Members& out, const Members& theta, int n_threads, float* mean = nullptr) const;

 private:
  // The broadcast operand of a product, rounded to the type of the product and packed by row blocks: a matrix of
  // 200 x 200 read row by row took 3 % longer.
  struct Operand {
    Buffer<char> data;  // [block][depth][height]
    std::size_t rows = 0;
    std::size_t depth = 0;  // in words
    std::vector<product::RowBlock> blocks;
    std::size_t blocks_per_group = 1;  // a group stays in the L2 cache while panels pass by
    std::size_t n_groups = 0;
  };
  struct Strip;

  Operand operand(const Algebra& matrix, int n_threads) const;
  void pack_row(char* dst, std::size_t height, const Algebra& matrix, std::size_t row) const;
  void multiply(const Operand& operand, std::size_t group, const void* panel, void* out,
                std::size_t out_stride, std::size_t n_columns, bool accumulate,
                const char* ahead) const;
  void shrink(char* covariance, const char* squares, char* scratch, std::size_t column,
              std::size_t n_columns) const;
  void strip(const Strip& strip, std::size_t first_panel, std::size_t n_panels,
             char* scratch) const;
  std::size_t panel_bytes(std::size_t words) const { return words * width_ * word_; }
  std::size_t scratch_bytes(bool with_mean) const;

  product::Dtype dtype_;
  std::size_t n_ens_, tile_rows_, per_word_, word_, width_, n_together_;
  product::EnsembleKernels ensemble_;
  void (*store_)(const product::StoreArgs&);
  void (*pack_panel_)(const product::PackPanelArgs&);
  Operand second_, first_;
  product::Localization kind_;
  const void* taper_;
  Buffer<char> row_inverse_;
};

}  // namespace bpfree
