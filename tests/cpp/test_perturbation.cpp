// SPDX-License-Identifier: BSD-3-Clause
// Populations through the C interface, on arrays of exactly their size: members against their noise, sums and layers against
// members, for shapes around vectors, panels, blocks and tiles.

#include <array>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "bpfree/bpfree.h"
#include "check.h"

namespace bpfree::test {

namespace {

using Shapes = std::vector<bpfree_shape>;

std::array<Shapes, 5> all_shapes() {
  return {{{},
           {{1, {5, 0}}},
           {{2, {3, 33}}, {1, {33, 0}}, {2, {33, 1}}, {1, {1, 0}}},
           {{2, {40, 1100}}, {2, {0, 7}}, {1, {129, 0}}},
           {{1, {20000, 0}}, {2, {1, 130}}}}};
}

std::size_t elements(const Shapes& shapes) {
  std::size_t n = 0;
  for (const bpfree_shape& s : shapes) n += s.n_dims == 1 ? s.size[0] : s.size[0] * s.size[1];
  return n;
}

void check_population(const Shapes& shapes, bpfree_noise noise, std::size_t n_members) {
  const std::size_t n = elements(shapes);
  Numbers numbers(n + n_members);
  const std::vector<float> theta = numbers.floats(n);
  std::vector<std::uint32_t> members(n_members);
  std::iota(members.begin(), members.end(), 4u);
  std::vector<double> utilities(n_members);
  for (double& u : utilities) u = numbers();
  const std::vector<float> zero(n);
  std::vector<float> out(n_members * n), eps(n_members * n), sum(n), again(n);
  const auto perturb = [&](std::vector<float>& rows, const std::vector<float>& from, double std) {
    return bpfree_perturb(rows.data(), from.data(), members.data(), n_members, n, std,
                          shapes.data(), shapes.size(), &noise, 3);
  };
  check(perturb(out, theta, 0.5) == BPFREE_OK, bpfree_last_error());
  check(perturb(eps, zero, 1) == BPFREE_OK, bpfree_last_error());
  for (std::size_t i = 0; n > 0 && i < out.size(); ++i)
    check(std::abs(out[i] - (theta[i % n] + 0.5f * eps[i])) <=
              1e-6f * (1 + std::abs(theta[i % n]) + std::abs(eps[i])),
          "a member is its noise times std, added");
  for (const int n_threads : {1, 3}) {
    check(
        bpfree_perturbation_gradient(again.data(), utilities.data(), 4, n_members, n, shapes.data(),
                                     shapes.size(), &noise, n_threads) == BPFREE_OK,
        bpfree_last_error());
    if (n_threads > 1) check(again == sum, "the number of threads changed a gradient");
    sum = again;
  }
  for (std::size_t j = 0; j < n; ++j) {
    double expected = 0, size = 1;
    for (std::size_t i = 0; i < n_members; ++i) {
      expected += utilities[i] * static_cast<double>(eps[i * n + j]);
      size += std::abs(utilities[i]) * 50;
    }
    check(std::abs(static_cast<double>(sum[j]) - expected) < 2e-6 * size,
          "a gradient is the sum of the members");
  }
}

// A layer of the population against the dense layer of each member, and its own sums for any number of threads.
void check_layer(std::size_t batch, std::size_t n_in, std::size_t n_out, bool shared,
                 bpfree_noise noise) {
  constexpr std::size_t kMembers = 5;
  const std::array<bpfree_shape, 2> shapes = {{{2, {n_in, n_out}}, {1, {n_out, 0}}}};
  const std::size_t size = n_in * n_out + n_out, outputs = batch * n_out;
  Numbers numbers(size + batch);
  const std::vector<float> theta = numbers.floats(size);
  const std::vector<float> x = numbers.floats((shared ? 1 : kMembers) * batch * n_in);
  const std::vector<std::uint32_t> members = {3, 4, 5, 6, 7};
  std::vector<float> thetas(kMembers * size), h(kMembers * outputs), again(kMembers * outputs),
      expected(outputs);
  noise.kind = BPFREE_LOW_RANK;
  check(bpfree_perturb(thetas.data(), theta.data(), members.data(), kMembers, size, 0.5,
                       shapes.data(), 2, &noise, 1) == BPFREE_OK,
        bpfree_last_error());
  for (const int n_threads : {1, 3}) {
    check(bpfree_low_rank_forward(again.data(), x.data(), shared ? 1 : 0, theta.data(),
                                  theta.data() + n_in * n_out, members[0], kMembers, batch, n_in,
                                  n_out, 0.5, 0, BPFREE_IDENTITY, &noise, n_threads) == BPFREE_OK,
          bpfree_last_error());
    if (n_threads > 1) check(again == h, "the number of threads changed a layer");
    h = again;
  }
  for (std::size_t i = 0; i < kMembers; ++i) {
    const float* W = thetas.data() + i * size;
    check(bpfree_dense_forward(expected.data(), nullptr, x.data() + (shared ? 0 : i * batch * n_in),
                               W, W + n_in * n_out, batch, n_in, n_out, BPFREE_IDENTITY,
                               1) == BPFREE_OK,
          bpfree_last_error());
    for (std::size_t j = 0; j < outputs; ++j)
      check(std::abs(h[i * outputs + j] - expected[j]) <= 1e-4f * static_cast<float>(n_in + 1),
            "a member's layer is its dense one");
  }
}

void layers(bpfree_noise noise) {
  constexpr std::array<std::array<std::size_t, 3>, 5> kShapes = {
      {{1, 1, 1}, {5, 7, 33}, {2, 512, 32}, {33, 31, 65}, {3, 0, 2}}};
  for (const auto& [batch, n_in, n_out] : kShapes)
    for (const std::size_t rank : {1, 3})
      for (const int antithetic : {0, 1})
        for (const bool shared : {false, true}) {
          noise.rank = rank;
          noise.antithetic = antithetic;
          check_layer(batch, n_in, n_out, shared, noise);
        }
}

void refusals() {
  std::vector<float> out(4, 7.0f);
  const std::vector<float> theta(4);
  const std::vector<double> u(2);
  const std::array<std::uint32_t, 1> members = {0};
  bpfree_noise noise;
  check(bpfree_noise_init(&noise, 3) == BPFREE_OK, "init");
  const bpfree_shape shape = {3, {2, 2}};
  const bpfree_shape wrong = {1, {5, 0}};
  const auto perturb = [&](double std, const bpfree_shape* shapes) {
    return bpfree_perturb(out.data(), theta.data(), members.data(), 1, 4, std, shapes,
                          shapes == nullptr ? 0 : 1, &noise, 1);
  };
  check(perturb(0, nullptr) == BPFREE_INVALID_ARGUMENT, "std 0");
  check(perturb(1, &shape) == BPFREE_INVALID_ARGUMENT, "three dimensions");
  check(perturb(1, &wrong) == BPFREE_INVALID_ARGUMENT, "shapes that do not fit");
  noise.kind = static_cast<bpfree_noise_kind>(3);
  check(perturb(1, nullptr) == BPFREE_INVALID_ARGUMENT, "an unknown kind");
  noise.kind = BPFREE_LOW_RANK;
  noise.rank = 0;
  check(perturb(1, nullptr) == BPFREE_INVALID_ARGUMENT, "rank 0");
  check(bpfree_perturbation_gradient(out.data(), u.data(), 0, 2, 4, nullptr, 0, nullptr, 1) ==
            BPFREE_INVALID_ARGUMENT,
        "no noise");
  const auto forward = [&](std::size_t rank, std::uint64_t first_member, std::size_t tensor) {
    noise.rank = rank;
    return bpfree_low_rank_forward(out.data(), theta.data(), 1, theta.data(), nullptr, first_member,
                                   2, 2, 2, 1, 1, tensor, BPFREE_RELU, &noise, 1);
  };
  check(forward(0, 0, 0) == BPFREE_INVALID_ARGUMENT, "rank 0");
  check(forward(1, 0xffffffff, 0) == BPFREE_INVALID_ARGUMENT, "members beyond the last");
  check(forward(1, 0, 0xffffff) == BPFREE_INVALID_ARGUMENT, "no tensor for the biases");
  noise.kind = BPFREE_GAUSSIAN;
  check(forward(1, 0, 0) == BPFREE_INVALID_ARGUMENT, "noise of another kind");
  check(out == std::vector<float>(4, 7.0f), "a refusal changes nothing");
}

void shaping() {
  const std::vector<double> fitness = {2, 1, std::nan(""), 2};
  std::vector<double> u(4);
  std::size_t lost = 0;
  check(bpfree_fitness_shaping(u.data(), &lost, fitness.data(), 4, 1, BPFREE_CENTERED_RANK, 0, 0) ==
            BPFREE_OK,
        bpfree_last_error());
  check(lost == 1, "one member is lost");
  check(std::abs(u[0] - 1.0 / 3) < 1e-15 && u[3] == u[0] && u[2] == -0.5, "centred ranks");
  for (const bpfree_shaping kind :
       {BPFREE_NES, BPFREE_Z_SCORE, BPFREE_GROUP, BPFREE_PAIR, BPFREE_TOP_K}) {
    std::vector<double> in_place = fitness;
    check(bpfree_fitness_shaping(in_place.data(), nullptr, in_place.data(), 4, 0, kind, 1, 2) ==
              BPFREE_OK,
          bpfree_last_error());
    for (const double value : in_place) check(std::isfinite(value), "a utility is finite");
  }
}

}  // namespace

void test_perturbation() {
  bpfree_noise noise;
  check(bpfree_noise_init(&noise, 0x0123456789abcdef) == BPFREE_OK, "init");
  for (const Shapes& shapes : all_shapes())
    for (const bpfree_noise_kind kind : {BPFREE_GAUSSIAN, BPFREE_RADEMACHER, BPFREE_LOW_RANK})
      for (const int antithetic : {0, 1})
        for (const std::size_t n_members : {0, 6}) {
          noise.kind = kind;
          noise.antithetic = antithetic;
          noise.rank = n_members == 6 ? 2 : 1;
          noise.generation = 5;
          check_population(shapes, noise, n_members);
        }
  layers(noise);
  refusals();
  shaping();
}

}  // namespace bpfree::test
