// SPDX-License-Identifier: BSD-3-Clause
// The C face of evolution strategies.
#include <string>
#include <vector>

#include "base/buffer.h"
#include "capi/safe_call.h"
#include "network/array_checks.h"
#include "network/fitness.h"
#include "network/low_rank.h"
#include "network/perturbation.h"

namespace bpfree::capi {

namespace {

static_assert(static_cast<int>(NoiseKind::low_rank) == BPFREE_LOW_RANK);
static_assert(static_cast<int>(Shaping::top_k) == BPFREE_TOP_K);

NoiseOptions noise_of(const bpfree_noise* noise) {
  pointer("noise", noise, 1);
  return {enumerator<NoiseKind>("kind", noise->kind, BPFREE_LOW_RANK), noise->seed,
          noise->generation, noise->antithetic != 0, noise->rank};
}

std::vector<TensorShape> shapes_of(const bpfree_shape* shapes, std::size_t n_shapes,
                                   std::size_t n_params) {
  if (shapes == nullptr && n_shapes == 0) return {{.columns = n_params}};
  pointer("shapes", shapes, n_shapes);
  std::vector<TensorShape> found;
  for (std::size_t t = 0; t < n_shapes; ++t) {
    const bpfree_shape& s = shapes[t];
    if (s.n_dims != 1 && s.n_dims != 2)
      fail("shapes[" + std::to_string(t) + "] has " + std::to_string(s.n_dims) +
           " dimensions, expected 1 or 2");
    if (s.n_dims == 1)
      found.push_back({.columns = s.size[0]});
    else
      found.push_back({.rows = s.size[0], .columns = s.size[1], .is_matrix = true});
  }
  return found;
}

}  // namespace

}  // namespace bpfree::capi

using namespace bpfree;
using namespace bpfree::capi;

bpfree_status bpfree_noise_init(bpfree_noise* noise, uint64_t seed) {
  return safe_call([&] {
    pointer("noise", noise, 1);
    *noise = {.kind = BPFREE_GAUSSIAN, .antithetic = 0, .seed = seed, .generation = 0, .rank = 1};
  });
}

bpfree_status bpfree_perturb(float* out, const float* theta, const uint32_t* members,
                             size_t n_members, size_t n_params, double std,
                             const bpfree_shape* shapes, size_t n_shapes, const bpfree_noise* noise,
                             int n_threads) {
  return safe_call([&] {
    const NoiseOptions options = noise_of(noise);
    const std::vector<TensorShape> tensors = shapes_of(shapes, n_shapes, n_params);
    pointer("out", out, checked_product(n_members, n_params));
    perturb({out, n_members, n_params, n_params}, pointer("theta", theta, n_params), n_params,
            {pointer("members", members, n_members), n_members}, static_cast<float>(std), tensors,
            options, n_threads);
  });
}

bpfree_status bpfree_perturbation_gradient(float* out, const double* utilities,
                                           uint64_t first_member, size_t n_members, size_t n_params,
                                           const bpfree_shape* shapes, size_t n_shapes,
                                           const bpfree_noise* noise, int n_threads) {
  return safe_call([&] {
    const NoiseOptions options = noise_of(noise);
    const std::vector<TensorShape> tensors = shapes_of(shapes, n_shapes, n_params);
    const std::span<const double> u(pointer("utilities", utilities, n_members), n_members);
    check_apart({extent("out", out, n_params),
                 {"utilities", utilities, checked_product(n_members, sizeof(double))}},
                1);
    perturbation_gradient(pointer("out", out, n_params), n_params, u, first_member, tensors,
                          options, n_threads);
  });
}

bpfree_status bpfree_low_rank_forward(float* h, const float* x, int shared_x, const float* W,
                                      const float* b, uint64_t first_member, size_t n_members,
                                      size_t batch, size_t n_in, size_t n_out, double std,
                                      size_t tensor, bpfree_activation activation,
                                      const bpfree_noise* noise, int n_threads) {
  return safe_call([&] {
    const PopulationLayer layer{
        .weights = {pointer("W", W, checked_product(n_in, n_out)), n_in, n_out, n_out},
        .bias = b,
        .activation =
            enumerator<formulas::Activation>("activation", activation, BPFREE_SIGN_ACTIVATION),
        .std = static_cast<float>(std),
        .tensor = tensor,
        .first_member = first_member,
        .n_members = n_members};
    low_rank_forward(h, x, shared_x != 0, batch, layer, noise_of(noise), n_threads);
  });
}

bpfree_status bpfree_fitness_shaping(double* utilities, size_t* n_lost, const double* fitness,
                                     size_t n_members, int maximize, bpfree_shaping kind,
                                     size_t top_k, size_t group_size) {
  return safe_call([&] {
    const ShapingOptions options{enumerator<Shaping>("kind", kind, BPFREE_TOP_K), maximize != 0,
                                 top_k, group_size};
    const std::size_t lost =
        fitness_shaping({pointer("utilities", utilities, n_members), n_members},
                        {pointer("fitness", fitness, n_members), n_members}, options);
    if (n_lost != nullptr) *n_lost = lost;
  });
}
