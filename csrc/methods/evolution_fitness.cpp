// SPDX-License-Identifier: BSD-3-Clause
#include "methods/evolution_fitness.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace bpfree {

void shape_fitness(std::span<float> u, std::span<const double> fitness, FitnessShaping kind) {
  const std::size_t n = fitness.size();
  double worst = INFINITY;
  for (double f : fitness)
    if (std::isfinite(f)) worst = std::min(worst, f);
  std::vector<double> f(fitness.begin(), fitness.end());
  for (double& v : f)
    if (!std::isfinite(v)) v = worst;
  if (kind == FitnessShaping::centered_rank) {
    std::vector<std::size_t> order(n);
    std::iota(order.begin(), order.end(), std::size_t{0});
    for (std::size_t i = 0; i < n; ++i)
      if (!std::isfinite(fitness[i])) f[i] = -INFINITY;
    std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return f[a] < f[b]; });
    for (std::size_t i = 0; i < n;) {
      std::size_t j = i;
      while (j < n && f[order[j]] == f[order[i]]) ++j;
      const double rank = 0.5 * static_cast<double>(i + j - 1);
      for (std::size_t k = i; k < j; ++k)
        u[order[k]] = static_cast<float>(rank / static_cast<double>(n - 1) - 0.5);
      i = j;
    }
    return;
  }
  if (kind == FitnessShaping::pair) {
    std::vector<double> d(n / 2);
    double mean = 0, var = 0;
    for (std::size_t k = 0; k < n / 2; ++k) mean += d[k] = f[2 * k] - f[2 * k + 1];
    mean /= static_cast<double>(n / 2);
    for (double v : d) var += (v - mean) * (v - mean);
    var /= static_cast<double>(n / 2);
    for (std::size_t k = 0; k < n / 2; ++k) {
      u[2 * k] = static_cast<float>(0.5 * (d[k] - mean) / std::sqrt(var + 1e-12));
      u[2 * k + 1] = -u[2 * k];
    }
    return;
  }
  double mean = 0, var = 0;
  for (double v : f) mean += v;
  mean /= static_cast<double>(n);
  for (double v : f) var += (v - mean) * (v - mean);
  var /= static_cast<double>(n);
  for (std::size_t i = 0; i < n; ++i)
    u[i] = static_cast<float>((f[i] - mean) / std::sqrt(var + 1e-5));
}

}  // namespace bpfree
