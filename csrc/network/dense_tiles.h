// SPDX-License-Identifier: BSD-3-Clause
// The two products of a dense layer on the caller's own arrays, as tiles: one panel of columns and one group of rows each. A
// tile packs its panel of the row-major W into its thread's memory, and for an update writes it back. What becomes of the
// forward product's tile, and where delta comes from, is the kernel's.
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "base/parallel.h"
#include "base/view.h"
#include "network/array_checks.h"
#include "network/dense.h"
#include "product/kernels.h"

namespace bpfree {

// A plan of n tiles, f(tile, scratch); f must outlive it.
template <class F>
Plan plan_of(std::size_t n_tiles, const F& f) {
  return {n_tiles,
          [](const void* self, std::size_t tile, const Worker& worker) {
            (*static_cast<const F*>(self))(tile, static_cast<float*>(worker.scratch));
          },
          &f};
}

// Phases of up to two plans, one after the other, with so many floats of scratch a thread.
enum class Denormals { kept, flushed };
void run_in_turn(int n_threads, std::size_t scratch_floats,
                 std::span<const std::array<Plan, 2>> phases,
                 Denormals denormals = Denormals::kept);

double flops_of(std::size_t a, std::size_t b, std::size_t c);

// Some rows of a panel of columns out of a plain array, padded with zeros to the panel's width; and back.
void load_panel(float* panel, const float* src, std::size_t stride, std::size_t rows,
                std::size_t n_columns);
void store_panel(float* dst, std::size_t stride, const float* panel, std::size_t rows,
                 std::size_t n_columns);

// Rows in groups of whole row blocks. Blocks count from the first row of their group.
class Groups {
 public:
  Groups(std::size_t n_rows, std::size_t tile_rows, std::size_t group_blocks);
  std::size_t count() const { return rows_ == 0 ? 0 : divide_up(n_rows_, rows_); }
  std::size_t max_rows() const { return rows_; }
  std::size_t first(std::size_t group) const { return group * rows_; }
  std::size_t rows(std::size_t group) const {
    return n_rows_ - first(group) < rows_ ? n_rows_ - first(group) : rows_;
  }
  const std::vector<product::RowBlock>& blocks(std::size_t group) const {
    return rows(group) == rows_ ? full_ : tail_;
  }

 private:
  std::size_t n_rows_, rows_;
  std::vector<product::RowBlock> full_, tail_;
};

// Groups of batch rows: as few as keep the threads busy and the memory of a tile small.
Groups batch_groups(std::size_t batch, std::size_t n_panels, int n_threads);

struct LayerTile {
  std::size_t row, rows, panel, column, n_columns;
  bool whole() const { return n_columns == product::kPanel; }
};

// x W + b in tiles. First copy() all rows, where n_copies() is not 0: rows that far apart share a few sets of the cache.
class LayerForward {
 public:
  LayerForward(MatrixView<const float> x, MatrixView<const float> weights, const float* bias,
               int n_threads);

  std::size_t n_copies() const;
  void copy(std::size_t tile) const;
  std::size_t n_tiles() const { return n_panels_ * groups_.count(); }
  std::size_t scratch_floats() const;  // the kernel's own come after them
  std::size_t max_rows() const { return groups_.max_rows(); }
  LayerTile tile(std::size_t index) const;
  // Packs the tile's panel and biases into scratch. What happens to the product, and where h goes, is left to fill in.
  product::ForwardArgs pack(const LayerTile& tile, float* scratch) const;

 private:
  MatrixView<const float> x_, weights_;
  const float* bias_;
  std::size_t n_panels_;
  Groups groups_;
  std::size_t copy_stride_;
  Buffer<float> copy_;
};

// What refusals call the arrays of an update.
struct LayerNames {
  const char* x;
  const char* weights;
  const char* bias;
  const char* states[2][2];  // of either slot that of W, then that of b
};
inline constexpr LayerNames kLayerNames{"x",
                                        "W",
                                        "b",
                                        {{"the first state of W", "the first state of b"},
                                         {"the second state of W", "the second state of b"}}};

// Throws where an update would not fit; gives what it writes to, for check_apart().
std::vector<Extent> check_update(MatrixView<float> weights, const float* bias,
                                 const DenseState& state, MatrixView<const float> x,
                                 const DenseStep& step, const LayerNames& names = kLayerNames);

// Columns of a delta that is there already, as the weight product's operand with its column sums. The source's rows hold whole
// panels; blocks are those of the batch.
void pass_delta(float* delta, float* column_sums, const float* from, std::size_t stride,
                const std::vector<product::RowBlock>& blocks, std::size_t n_columns);

// The optimizer step of W and b in tiles, as dense_update() defines it. First pack() all groups of x.
class LayerUpdate {
 public:
  LayerUpdate(MatrixView<float> weights, float* bias, const DenseState& state,
              MatrixView<const float> x, const DenseStep& step);

  std::size_t n_packs() const { return groups_.count(); }
  void pack(std::size_t group) const;
  std::size_t n_tiles() const;
  std::size_t scratch_floats() const;  // the kernel's own come after them
  // make_delta(tile, delta, column_sums): the panel of delta, [batch][32], and 32 sums of its columns, for the biases.
  template <class F>
  void run(std::size_t index, float* scratch, const F& make_delta) const {
    const LayerTile t = tile(index);
    float* const delta = scratch + product::kPanel;
    make_delta(t, delta, scratch);
    step(t, index, delta, scratch, scratch);
  }
  // The same with all of delta there already: panels of it, [batch][32], and 32 sums of each.
  void run(std::size_t index, float* scratch, const float* delta, const float* column_sums) const {
    const LayerTile t = tile(index);
    step(t, index, delta + t.panel * x_.rows * product::kPanel,
         column_sums + t.panel * product::kPanel, scratch);
  }

 private:
  LayerTile tile(std::size_t index) const;
  void step(const LayerTile& tile, std::size_t index, const float* delta, const float* column_sums,
            float* scratch) const;

  MatrixView<float> weights_;
  float* bias_;
  DenseState state_;
  MatrixView<const float> x_;
  formulas::Step weight_step_, bias_step_;
  std::size_t n_panels_;
  Groups groups_;
  Buffer<float> packed_;
};

}  // namespace bpfree
