// SPDX-License-Identifier: BSD-3-Clause
#include "methods/search.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numeric>

#include "base/buffer.h"
#include "base/cpu_features.h"
#include "base/isa.h"
#include "base/parallel.h"
#include "methods/search_tables.h"

namespace bpfree {

namespace {

// What threads_for() is told a number costs: a normal, and the passes over it.
constexpr double kNumberCost = 100;
constexpr double kUpdateCost = 200;

const SearchKernels* choose(IsaId id) {
  if constexpr (kIsX86) {
    if (id == IsaId::avx2) return search_kernels_avx2();
    if (id == IsaId::avx512) return search_kernels_avx512();
    if (id == IsaId::avx512bf16) return search_kernels_avx512bf16();
  }
  if constexpr (kIsArm) {
    if (id == IsaId::neon) return search_kernels_neon();
  }
  return search_kernels_scalar();
}

template <class T>
const SearchTile<T>& kernels() {
  static const SearchKernels& chosen = *choose(active_isa());
  if constexpr (sizeof(T) == sizeof(float))
    return chosen.f32;
  else
    return chosen.f64;
}

// Parameters begin.. begin + n of the noise that `member` has, or has the negative of.
void fill_noise(float* out, const SearchNoise& noise, std::uint32_t member, std::size_t n_params,
                std::size_t begin, std::size_t n) {
  const random::Counter counter = {random::Purpose::noise, 0, noise.generation, member};
  random::matrix_block(out, n, noise.kind, 1.0f, noise.seed, counter, n_params, 0, 1, begin, n);
}

// matrix_block() refuses what is too large; inside a tile nothing may throw.
void check_size(const SearchNoise& noise, std::size_t n_params) {
  fill_noise(nullptr, noise, 0, n_params, 0, 0);
}

double cost(std::size_t n_params, std::size_t n_members) {
  return kNumberCost * static_cast<double>(n_params) * static_cast<double>(n_members);
}

double update_cost(std::size_t n_params) { return kUpdateCost * static_cast<double>(n_params); }

}  // namespace

template <class T>
void search_members(MatrixView<T> out, const T* mean, const T* scale, T std,
                    const SearchNoise& noise, std::span<const std::uint32_t> members,
                    int n_threads) {
  assert(out.rows == members.size());
  check_size(noise, out.columns);
  const std::size_t n_tiles = divide_up(out.columns, kSearchTile);
  const auto is_pair = [&](std::size_t row) {
    return noise.antithetic && row + 1 < members.size() && members[row] % 2 == 0 &&
           members[row + 1] == members[row] + 1;
  };
  // A tile of the phase is a row, or a pair of rows with one noise: the second of them does nothing.
  const auto run = [&](std::size_t task, const Worker&) {
    const std::size_t row = task / n_tiles;
    if (row > 0 && members[row] % 2 == 1 && is_pair(row - 1)) return;
    const std::size_t begin = task % n_tiles * kSearchTile;
    const std::size_t n = std::min(kSearchTile, out.columns - begin);
    const std::uint32_t member = members[row];
    alignas(64) float eps[kSearchTile];
    fill_noise(eps, noise, noise.antithetic ? member / 2 : member, out.columns, begin, n);
    T* minus = is_pair(row) ? out.row(row + 1) + begin : nullptr;
    const T sign = noise.antithetic && member % 2 == 1 ? T(-1) : T(1);
    kernels<T>().members(out.row(row) + begin, minus, mean + begin,
                         scale == nullptr ? nullptr : scale + begin, sign * std, eps, n);
  };
  parallel_for(n_tiles * members.size(), threads_for(n_threads, cost(out.columns, members.size())),
               run);
}

namespace {

// first and second as in search_sums, of parameters begin.. begin + n, at most a tile.
template <class T>
void sum_tile(T* first, T* second, std::span<const T> u, std::span<const T> v,
              const SearchNoise& noise, std::size_t n_params, std::size_t begin, std::size_t n) {
  std::fill_n(first, n, T(0));
  if (second != nullptr) std::fill_n(second, n, T(0));
  alignas(64) float eps[kSearchTile];
  const std::size_t n_noises = noise.antithetic ? u.size() / 2 : u.size();
  for (std::size_t k = 0; k < n_noises; ++k) {
    const T of_first = noise.antithetic ? u[2 * k] - u[2 * k + 1] : u[k];
    T of_second = 0;
    if (second != nullptr) of_second = noise.antithetic ? v[2 * k] + v[2 * k + 1] : v[k];
    if (of_first == 0 && of_second == 0) continue;  // adds zeros, which change no bit
    fill_noise(eps, noise, static_cast<std::uint32_t>(k), n_params, begin, n);
    kernels<T>().sums(first, second, of_first, of_second, eps, n);
  }
}

double sums_cost(const SearchNoise& noise, std::size_t n_params, std::size_t n_members) {
  return cost(n_params, noise.antithetic ? n_members / 2 : n_members);
}

}  // namespace

template <class T>
void search_sums(std::span<T> first, T* second, std::span<const T> u, std::span<const T> v,
                 const SearchNoise& noise, int n_threads) {
  assert(second == nullptr || v.size() == u.size());
  assert(!noise.antithetic || u.size() % 2 == 0);
  check_size(noise, first.size());
  const auto run = [&](std::size_t tile, const Worker&) {
    const std::size_t begin = tile * kSearchTile;
    const std::size_t n = std::min(kSearchTile, first.size() - begin);
    sum_tile(first.data() + begin, second == nullptr ? nullptr : second + begin, u, v, noise,
             first.size(), begin, n);
  };
  parallel_for(divide_up(first.size(), kSearchTile),
               threads_for(n_threads, sums_cost(noise, first.size(), u.size())), run);
}

namespace {

// f(begin, end) on each tile; what it gives is summed in the order of the tiles.
template <class F>
double sum_over_tiles(std::size_t n_params, double flops, int n_threads, const F& f) {
  const std::size_t n_tiles = divide_up(n_params, kSearchTile);
  Buffer<double> partial(n_tiles);
  const auto run = [&](std::size_t tile, const Worker&) {
    const std::size_t begin = tile * kSearchTile;
    partial[tile] = f(begin, std::min(begin + kSearchTile, n_params));
  };
  parallel_for(n_tiles, threads_for(n_threads, flops), run);
  return std::accumulate(partial.begin(), partial.end(), 0.0);
}

}  // namespace

double snes_step(std::span<double> mean, double* relative_std, std::span<const double> u,
                 double std, double rate, double std_rate, const SearchNoise& noise,
                 int n_threads) {
  check_size(noise, mean.size());
  const double total = std::accumulate(u.begin(), u.end(), 0.0);
  const auto update = [&](std::size_t begin, std::size_t end) {
    alignas(64) double z[kSearchTile];
    alignas(64) double squares[kSearchTile];
    sum_tile<double>(z, squares, u, u, noise, mean.size(), begin, end - begin);
    double sum = 0;
    for (std::size_t i = begin; i < end; ++i) {
      const double move = std * relative_std[i] * z[i - begin];
      mean[i] += rate * move;
      relative_std[i] *= std::exp(0.5 * std_rate * (squares[i - begin] - total));
      sum += move * move + 0 * (mean[i] + relative_std[i]);  // NaN unless these are finite
    }
    return sum;
  };
  const double flops = sums_cost(noise, mean.size(), u.size()) + update_cost(mean.size());
  return std::sqrt(sum_over_tiles(mean.size(), flops, n_threads, update));
}

double sep_cma_step(std::span<double> mean, double* relative_std, double* path_std, double* path,
                    double& std, std::span<const double> weights, const SepCmaConstants& c,
                    const SearchNoise& noise, int n_threads) {
  const std::size_t n_params = mean.size();
  Buffer<double> z = Buffer<double>::uninitialized(n_params);
  Buffer<double> squares = Buffer<double>::uninitialized(n_params);
  check_size(noise, n_params);
  const double keep_std = 1 - c.c_path_std;
  const double new_std = std::sqrt(c.c_path_std * (2 - c.c_path_std) * c.mu_eff);
  const auto lengthen = [&](std::size_t begin, std::size_t end) {
    sum_tile<double>(z.data() + begin, squares.data() + begin, weights, weights, noise, n_params,
                     begin, end - begin);
    double sum = 0;
    for (std::size_t i = begin; i < end; ++i) {
      path_std[i] = keep_std * path_std[i] + new_std * z[i];
      sum += path_std[i] * path_std[i];
    }
    return sum;
  };
  const double of_sums = sums_cost(noise, n_params, weights.size()) + update_cost(n_params);
  const double length = std::sqrt(sum_over_tiles(n_params, of_sums, n_threads, lengthen));

  // A path that has not run long is shorter. One that is too long stalls the covariance's path.
  const auto n = static_cast<double>(n_params);
  const double now = std::sqrt(1 - std::pow(keep_std, 2 * (noise.generation + 1.0)));
  const bool goes_on = length < (1.4 + 2 / (n + 1)) * c.expected_norm * now;
  const double new_path = goes_on ? std::sqrt(c.c_path * (2 - c.c_path) * c.mu_eff) : 0;
  const double lost = goes_on ? 0 : c.c_one * c.c_path * (2 - c.c_path);
  const double keep = 1 - c.c_one - c.c_mu + lost;
  const auto update = [&](std::size_t begin, std::size_t end) {
    double sum = 0;
    for (std::size_t i = begin; i < end; ++i) {
      const double d = relative_std[i];
      const double y = d * z[i];
      path[i] = (1 - c.c_path) * path[i] + new_path * y;
      // With w the weights, sum w y^2 = d^2 sum w z^2.
      const double variance = d * d * (keep + c.c_mu * squares[i]) + c.c_one * path[i] * path[i];
      const double move = std * y;
      mean[i] += move;
      relative_std[i] = std::sqrt(variance);
      sum += move * move + 0 * (mean[i] + relative_std[i]);  // NaN unless these are finite
    }
    return sum;
  };
  const double move = std::sqrt(sum_over_tiles(n_params, update_cost(n_params), n_threads, update));
  std *= std::exp(std::min(1.0, c.c_path_std / c.damping * (length / c.expected_norm - 1)));
  return move;
}

template void search_members(MatrixView<float>, const float*, const float*, float,
                             const SearchNoise&, std::span<const std::uint32_t>, int);
template void search_members(MatrixView<double>, const double*, const double*, double,
                             const SearchNoise&, std::span<const std::uint32_t>, int);
template void search_sums(std::span<float>, float*, std::span<const float>, std::span<const float>,
                          const SearchNoise&, int);
template void search_sums(std::span<double>, double*, std::span<const double>,
                          std::span<const double>, const SearchNoise&, int);

}  // namespace bpfree
