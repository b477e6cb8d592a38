// SPDX-License-Identifier: BSD-3-Clause
#include "network/fitness.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "base/error.h"

namespace bpfree {

namespace {

constexpr double kTiny = 1e-5;      // of a variance
constexpr double kLarge = 0x1p500;  // whose square is still finite

double square(double x) { return x * x; }

double mean_of(std::span<const double> values) {
  double sum = 0;
  for (const double v : values) sum += v;
  return sum / static_cast<double>(values.size());
}

double variance_of(std::span<const double> values, double mean) {
  double sum = 0;
  for (const double v : values) sum += square(v - mean);
  return sum / static_cast<double>(values.size());
}

// Members from the worst to the best, and by their number where they tie.
std::vector<std::size_t> ascending(std::span<const double> f) {
  std::vector<std::size_t> order(f.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return f[a] < f[b]; });
  return order;
}

// u = finish(the mean of value(place) over the places that a member shares with those it ties with).
template <class F, class G>
void by_rank(std::span<double> u, std::span<const double> f, const F& value, const G& finish) {
  const std::vector<std::size_t> order = ascending(f);
  for (std::size_t first = 0, last; first < order.size(); first = last) {
    double sum = 0;
    for (last = first; last < order.size() && f[order[last]] == f[order[first]]; ++last)
      sum += value(last);
    const double mean = sum / static_cast<double>(last - first);
    for (std::size_t i = first; i < last; ++i) u[order[i]] = finish(mean);
  }
}

void centered_ranks(std::span<double> u, std::span<const double> f) {
  const double top = static_cast<double>(std::max<std::size_t>(f.size() - 1, 1));
  const double middle = static_cast<double>(f.size() - 1) / 2;
  by_rank(
      u, f, [](std::size_t place) { return static_cast<double>(place); },
      [&](double place) { return (place - middle) / top; });
}

void log_ranks(std::span<double> u, std::span<const double> f) {
  const double n = static_cast<double>(f.size());
  const auto raw = [&](std::size_t place) {
    return std::max(0.0, std::log(n / 2 + 1) - std::log(n - static_cast<double>(place)));
  };
  double sum = 0;
  for (std::size_t place = 0; place < f.size(); ++place) sum += raw(place);
  by_rank(u, f, raw, [&](double mean) { return mean / sum - 1 / n; });
}

// 0 where nobody differs.
double ratio(double x, double deviation) { return deviation == 0 ? 0 : x / deviation; }

void group_scores(std::span<double> u, std::span<const double> f, std::size_t group_size,
                  double tiny) {
  const double deviation = std::sqrt(variance_of(f, mean_of(f)) + tiny);
  for (std::size_t g = 0; g < f.size(); g += group_size) {
    const double mean = mean_of(f.subspan(g, group_size));
    for (std::size_t i = g; i < g + group_size; ++i) u[i] = ratio(f[i] - mean, deviation);
  }
}

void pair_scores(std::span<double> u, std::span<const double> f, double tiny) {
  double sum = 0;
  for (std::size_t i = 0; i < f.size(); i += 2) sum += square(f[i] - f[i + 1]);
  const double root = std::sqrt(2 * sum / static_cast<double>(f.size()) + tiny);
  for (std::size_t i = 0; i < f.size(); i += 2) {
    const double half = ratio(f[i] - f[i + 1], 2 * root);
    u[i] = half;
    u[i + 1] = -half;
  }
}

void top_pairs(std::span<double> u, std::span<const double> f, std::size_t top_k) {
  const std::size_t n_pairs = f.size() / 2;
  std::vector<std::size_t> order(n_pairs);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return std::max(f[2 * a], f[2 * a + 1]) > std::max(f[2 * b], f[2 * b + 1]);
  });
  std::vector<double> used;
  for (std::size_t i = 0; i < top_k; ++i)
    used.insert(used.end(), {f[2 * order[i]], f[2 * order[i] + 1]});
  const double mean = mean_of(used);
  const double deviation = std::sqrt(variance_of(used, mean));
  const double scale = static_cast<double>(n_pairs) / static_cast<double>(top_k);
  std::fill(u.begin(), u.end(), 0.0);
  for (std::size_t i = 0; i < top_k; ++i)
    for (std::size_t j = 0; j < 2; ++j)
      u[2 * order[i] + j] = ratio(used[2 * i + j] - mean, deviation) * scale;
}

}  // namespace

void check_shaping(std::size_t n, const ShapingOptions& options) {
  const std::string members = std::to_string(n);
  if (n == 0) fail("fitness is that of 0 members, expected at least 1");
  if ((options.kind == Shaping::pair || options.kind == Shaping::top_k) && n % 2 != 0)
    fail("fitness is that of " + members +
         " members, expected an even number: members 2k and 2k + 1 are a pair");
  if (options.kind == Shaping::top_k && (options.top_k == 0 || options.top_k > n / 2))
    fail("top_k is " + std::to_string(options.top_k) + ", expected 1 to the " +
         std::to_string(n / 2) + " pairs of fitness");
  if (options.kind == Shaping::group && (options.group_size == 0 || n % options.group_size != 0))
    fail("group_size is " + std::to_string(options.group_size) + ", expected a divisor of the " +
         members + " members of fitness");
}

std::size_t fitness_shaping(std::span<double> utilities, std::span<const double> fitness,
                            const ShapingOptions& options) {
  const std::size_t n = fitness.size();
  check_shaping(n, options);
  if (utilities.size() != n)
    fail("utilities has " + std::to_string(utilities.size()) + " elements, expected the " +
         std::to_string(n) + " of fitness");
  std::vector<double> f(fitness.begin(), fitness.end());
  double worst = std::numeric_limits<double>::infinity();
  double largest = 0;
  std::size_t n_lost = 0;
  for (double& value : f) {
    if (!options.maximize) value = -value;
    if (std::isfinite(value)) {
      worst = std::min(worst, value);
      largest = std::max(largest, std::abs(value));
    } else {
      ++n_lost;
    }
  }
  if (n_lost == n)
    fail("fitness is NaN or infinite for all " + std::to_string(n) +
         " members, expected a finite value of at least one");
  const bool ranks = options.kind == Shaping::centered_rank || options.kind == Shaping::nes;
  const double lost = ranks ? -std::numeric_limits<double>::infinity() : worst;
  const double unit = largest > kLarge && !ranks ? largest : 1;  // so that no square overflows
  for (double& value : f) value = (std::isfinite(value) ? value : lost) / unit;
  const double tiny = kTiny / unit / unit;
  switch (options.kind) {
    case Shaping::centered_rank:
      centered_ranks(utilities, f);
      break;
    case Shaping::nes:
      log_ranks(utilities, f);
      break;
    case Shaping::z_score:
      group_scores(utilities, f, n, tiny);
      break;
    case Shaping::group:
      group_scores(utilities, f, options.group_size, tiny);
      break;
    case Shaping::pair:
      pair_scores(utilities, f, tiny);
      break;
    case Shaping::top_k:
      top_pairs(utilities, f, options.top_k);
      break;
  }
  return n_lost;
}

}  // namespace bpfree
