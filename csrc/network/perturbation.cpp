// SPDX-License-Identifier: BSD-3-Clause
#include "network/perturbation.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/buffer.h"
#include "base/error.h"
#include "base/parallel.h"
#include "network/array_checks.h"
#include "product/product.h"

namespace bpfree {

namespace {

constexpr std::size_t kTileElements = 1 << 14;  // 64 KB of parameters
constexpr std::size_t kLowRankColumns = 1
                                        << 10;  // of a tile: its right factors are made for 16 rows
constexpr std::size_t kFactorFloats = 1 << 16;  // of a tensor's factors at a time, at least
constexpr std::size_t kMaxDepth = 512;          // of the product of low rank
constexpr std::uint64_t kMembers = std::uint64_t{1} << 32;

// What threads_for() is told an element costs, in flops.
constexpr double kNormalCost = 80;
constexpr double kSignCost = 20;
constexpr double kLowRankCost = 20;

random::Distribution distribution_of(NoiseKind kind) {
  return kind == NoiseKind::rademacher ? random::Distribution::sign : random::Distribution::normal;
}

double cost_of(NoiseKind kind) {
  return kind == NoiseKind::gaussian     ? kNormalCost
         : kind == NoiseKind::rademacher ? kSignCost
                                         : kLowRankCost;
}

void check_noise(const NoiseOptions& noise) {
  if (noise.kind == NoiseKind::low_rank && noise.rank == 0) fail("rank is 0, expected at least 1");
}

// The stream that a tensor needs exists: throws what its tiles would throw.
void check_shapes(std::span<const TensorShape> shapes, std::size_t n_params,
                  const NoiseOptions& noise) {
  std::size_t total = 0;
  for (std::size_t t = 0; t < shapes.size(); ++t) {
    const TensorShape& s = shapes[t];
    const std::size_t size = checked_product(s.rows, s.columns);
    if (size > n_params - total) total = n_params + 1;  // more than fits
    if (total > n_params) break;
    total += size;
    const bool factors = noise.kind == NoiseKind::low_rank && s.is_matrix;
    random::matrix_block(
        nullptr, 0, distribution_of(noise.kind), 0, noise.seed, noise_counter(noise, t, 0),
        factors ? std::max(s.rows, s.columns) : s.columns, factors ? noise.rank : s.rows, 0, 0, 0);
  }
  if (total != n_params)
    fail("shapes hold " + (total > n_params ? "more than " : std::to_string(total) + " of the ") +
         std::to_string(n_params) + " parameters, expected exactly these");
}

// A tensor in tiles of some rows and columns.
struct TensorTiles {
  TensorShape shape;
  std::size_t tensor;
  std::size_t offset;  // of its first element
  std::size_t tile_columns;
  std::size_t tile_rows;
  std::size_t first_tile;
  bool factors;  // its noise is of low rank

  std::size_t column_tiles() const { return divide_up(shape.columns, tile_columns); }
  std::size_t count() const { return column_tiles() * divide_up(shape.rows, tile_rows); }
};

struct Tile {
  const TensorTiles* tensor;
  std::size_t row, n_rows, column, n_columns;
  std::size_t stride() const { return tensor->shape.columns; }
  std::size_t offset() const { return tensor->offset + row * stride() + column; }
};

// All tensors' tiles as one list.
class Tiles {
 public:
  enum class Which { all, without_factors };

  Tiles(std::span<const TensorShape> shapes, const NoiseOptions& noise, Which which) {
    std::size_t offset = 0;
    for (std::size_t t = 0; t < shapes.size(); ++t) {
      const bool factors = noise.kind == NoiseKind::low_rank && shapes[t].is_matrix;
      const std::size_t size = shapes[t].rows * shapes[t].columns;
      if (size > 0 && (which == Which::all || !factors)) {
        const std::size_t columns =
            std::min(shapes[t].columns, factors ? kLowRankColumns : kTileElements);
        tensors_.push_back(
            {shapes[t], t, offset, columns,
             std::min(shapes[t].rows, std::max<std::size_t>(kTileElements / columns, 1)), n_tiles_,
             factors});
        n_tiles_ += tensors_.back().count();
        n_elements_ += size;
      }
      offset += size;
    }
  }

  std::size_t count() const { return n_tiles_; }
  std::size_t n_elements() const { return n_elements_; }
  // The most rows and columns of a tile with factors.
  std::size_t factor_rows() const {
    std::size_t rows = 0;
    for (const TensorTiles& t : tensors_) rows = std::max(rows, t.factors ? t.tile_rows : 0);
    return rows;
  }
  Tile tile(std::size_t index) const {
    const auto after =
        std::upper_bound(tensors_.begin(), tensors_.end(), index,
                         [](std::size_t i, const TensorTiles& t) { return i < t.first_tile; });
    const TensorTiles& t = *(after - 1);
    const std::size_t i = index - t.first_tile;
    const std::size_t row = i / t.column_tiles() * t.tile_rows;
    const std::size_t column = i % t.column_tiles() * t.tile_columns;
    return {&t, row, std::min(t.tile_rows, t.shape.rows - row), column,
            std::min(t.tile_columns, t.shape.columns - column)};
  }

 private:
  std::vector<TensorTiles> tensors_;
  std::size_t n_tiles_ = 0;
  std::size_t n_elements_ = 0;
};

random::NoiseWindow window_of(const Tile& tile, const NoiseOptions& noise, std::uint32_t k) {
  const bool matrix_noise = !tile.tensor->factors;
  return {matrix_noise && noise.kind == NoiseKind::rademacher ? random::Distribution::sign
                                                              : random::Distribution::normal,
          noise.seed,
          noise_counter(noise, tile.tensor->tensor, k),
          tile.tensor->shape.columns,
          tile.row,
          tile.n_rows,
          tile.column,
          tile.n_columns};
}

// Both or one of plus and minus for one tile and one member or pair.
void perturb_tile(float* plus, float* minus, const float* theta, float std, const Tile& tile,
                  const NoiseOptions& noise, std::uint32_t k, float* scratch) {
  const std::size_t at = tile.offset();
  const auto from = [&](float* out) { return out == nullptr ? nullptr : out + at; };
  if (!tile.tensor->factors)
    return random::perturb_block(from(plus), from(minus), tile.stride(), theta + at, tile.stride(),
                                 std, window_of(tile, noise, k));
  float* left = scratch;
  float* right = left + noise.rank * tile.n_rows;
  const TensorShape& shape = tile.tensor->shape;
  const auto normal = random::Distribution::normal;
  random::matrix_block(left, tile.n_rows, normal, 1, noise.seed,
                       noise_counter(noise, tile.tensor->tensor, k), shape.rows, 0, noise.rank,
                       tile.row, tile.n_rows);
  random::matrix_block(right, tile.n_columns, normal, 1, noise.seed,
                       right_noise_counter(noise, tile.tensor->tensor, k), shape.columns, 0,
                       noise.rank, tile.column, tile.n_columns);
  const float scale = std / std::sqrt(static_cast<float>(noise.rank));
  random::perturb_low_rank(from(plus), from(minus), tile.stride(), theta + at, tile.stride(), scale,
                           {left, tile.n_rows, right, tile.n_columns, noise.rank}, tile.n_rows,
                           tile.n_columns);
}

// out = (diag(u) A)^T B of one tensor, A and B a few hundred rows at a time.
void low_rank_gradient(float* out, const TensorShape& shape, std::size_t tensor,
                       const WeightedMembers& sum, const NoiseOptions& noise, int n_threads) {
  const std::size_t m = shape.rows, n = shape.columns, rank = noise.rank;
  const std::size_t n_members = sum.members.size();
  // Their number depends on the sizes alone: it decides how the sums are rounded.
  const std::size_t floats = std::max(kFactorFloats, m * n / 4);
  const std::size_t depth = std::clamp<std::size_t>(floats / (m + n), 32, kMaxDepth);
  const std::size_t at_once = std::min(std::max<std::size_t>(depth / rank, 1), n_members);
  Buffer<float> left = Buffer<float>::uninitialized(checked_product(at_once, rank, m));
  Buffer<float> right = Buffer<float>::uninitialized(checked_product(at_once, rank, n));
  const double root = std::sqrt(static_cast<double>(rank));
  if (n_members == 0) std::fill_n(out, m * n, 0.0f);
  for (std::size_t first = 0; first < n_members; first += at_once) {
    const std::size_t count = std::min(at_once, n_members - first);
    const auto fill = [&](std::size_t i, const Worker&) {
      const std::uint32_t k = sum.members[first + i];
      const float weight = static_cast<float>(static_cast<double>(sum.weights[first + i]) / root);
      const auto normal = random::Distribution::normal;
      random::matrix_block(left.data() + i * rank * m, m, normal, weight, noise.seed,
                           noise_counter(noise, tensor, k), m, 0, rank, 0, m);
      random::matrix_block(right.data() + i * rank * n, n, normal, 1, noise.seed,
                           right_noise_counter(noise, tensor, k), n, 0, rank, 0, n);
    };
    const double normals = static_cast<double>(count * rank) * static_cast<double>(m + n);
    parallel_for(count, threads_for(n_threads, kNormalCost * normals), fill);
    product::product(out, n, {left.data(), count * rank, m, m}, true,
                     {right.data(), count * rank, n, n}, false, product::Dtype::f32, first > 0,
                     n_threads);
  }
}

}  // namespace

random::Counter noise_counter(const NoiseOptions& noise, std::size_t tensor, std::uint32_t k) {
  return {random::Purpose::noise, static_cast<std::uint32_t>(tensor), noise.generation, k};
}

random::Counter right_noise_counter(const NoiseOptions& noise, std::size_t tensor,
                                    std::uint32_t k) {
  return {random::Purpose::noise_right, static_cast<std::uint32_t>(tensor), noise.generation, k};
}

WeightedMembers weighted_members(std::span<const double> utilities, std::uint64_t first_member,
                                 bool antithetic) {
  const std::size_t n = utilities.size();
  if (first_member >= kMembers || n > kMembers - first_member)
    fail("first_member is " + std::to_string(first_member) + " with " + std::to_string(n) +
         " utilities, but members are numbered below 2^32");
  if (antithetic && n % 2 != 0)
    fail("utilities has " + std::to_string(n) +
         " elements, expected an even number: members 2k and 2k + 1 are a pair");
  if (antithetic && first_member % 2 != 0)
    fail("first_member is " + std::to_string(first_member) +
         ", expected an even number: members 2k and 2k + 1 are a pair");
  WeightedMembers sum;
  const std::size_t step = antithetic ? 2 : 1;
  for (std::size_t i = 0; i < n; i += step) {
    const auto weight =
        static_cast<float>(antithetic ? utilities[i] - utilities[i + 1] : utilities[i]);
    if (weight == 0) continue;
    sum.members.push_back(static_cast<std::uint32_t>((first_member + i) / step));
    sum.weights.push_back(weight);
  }
  return sum;
}

void perturb(MatrixView<float> out, const float* theta, std::size_t n_params,
             std::span<const std::uint32_t> members, float std, std::span<const TensorShape> shapes,
             const NoiseOptions& noise, int n_threads) {
  check_noise(noise);
  check_shape("out", out, members.size(), n_params);
  if (theta == nullptr && n_params > 0) fail("theta is a null pointer");
  if (!std::isfinite(std) || std <= 0)
    fail("std is " + std::to_string(std) + ", expected a finite number above 0");
  check_shapes(shapes, n_params, noise);
  const bool in_place = members.size() == 1 && out.data == theta;
  if (!in_place) check_apart({extent("out", out), extent("theta", theta, n_params)}, 1);
  const Tiles tiles(shapes, noise, Tiles::Which::all);
  const int threads = threads_for(n_threads, cost_of(noise.kind) * static_cast<double>(n_params) *
                                                 static_cast<double>(members.size()));
  if (members.empty() || tiles.count() == 0) return;

  const auto run = [&](std::size_t index, const Worker& worker) {
    const Tile tile = tiles.tile(index);
    for (std::size_t i = 0; i < members.size(); ++i) {
      float* member[2] = {nullptr, nullptr};
      const std::uint32_t sign = noise.antithetic ? members[i] % 2 : 0;
      const std::uint32_t k = noise.antithetic ? members[i] / 2 : members[i];
      member[sign] = out.row(i);
      if (noise.antithetic && i + 1 < members.size() && (members[i] ^ members[i + 1]) == 1)
        member[1 - sign] = out.row(++i);
      perturb_tile(member[0], member[1], theta, std, tile, noise, k,
                   static_cast<float*>(worker.scratch));
    }
  };
  std::vector<Buffer<float>> memory;
  std::vector<void*> scratch;
  const std::size_t floats = checked_product(tiles.factor_rows() + kLowRankColumns, noise.rank);
  for (int t = 0; tiles.factor_rows() > 0 && t < threads; ++t) {
    memory.push_back(Buffer<float>::uninitialized(floats));
    scratch.push_back(memory.back().data());
  }
  parallel_for(tiles.count(), threads, run, scratch);
}

void perturbation_gradient(float* out, std::size_t n_params, std::span<const double> utilities,
                           std::uint64_t first_member, std::span<const TensorShape> shapes,
                           const NoiseOptions& noise, int n_threads) {
  check_noise(noise);
  if (out == nullptr && n_params > 0) fail("out is a null pointer");
  check_shapes(shapes, n_params, noise);
  const WeightedMembers sum = weighted_members(utilities, first_member, noise.antithetic);
  const Tiles tiles(shapes, noise, Tiles::Which::without_factors);
  const NoiseKind kind = noise.kind == NoiseKind::low_rank ? NoiseKind::gaussian : noise.kind;
  const int threads =
      threads_for(n_threads, cost_of(kind) * static_cast<double>(tiles.n_elements()) *
                                 static_cast<double>(sum.members.size()));
  parallel_for(tiles.count(), threads, [&](std::size_t index, const Worker&) {
    const Tile tile = tiles.tile(index);
    random::accumulate_noise(out + tile.offset(), tile.stride(), window_of(tile, noise, 0),
                             sum.members, sum.weights);
  });
  if (noise.kind != NoiseKind::low_rank || out == nullptr) return;
  std::size_t offset = 0;
  for (std::size_t t = 0; t < shapes.size(); ++t) {
    const std::size_t size = shapes[t].rows * shapes[t].columns;
    if (shapes[t].is_matrix && size > 0)
      low_rank_gradient(out + offset, shapes[t], t, sum, noise, n_threads);
    offset += size;
  }
}

}  // namespace bpfree
