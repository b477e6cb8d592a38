// SPDX-License-Identifier: BSD-3-Clause
// The kernels of evolution strategies on plain arrays.
#include <optional>
#include <vector>

#include "bindings/layer_arguments.h"
#include "network/fitness.h"
#include "network/low_rank.h"
#include "network/perturbation.h"

namespace bpfree::bindings {

namespace {

using Shapes = std::optional<std::vector<std::vector<std::size_t>>>;

NoiseOptions noise_of(const std::string& kind, std::uint64_t seed, std::uint32_t generation,
                      bool antithetic, std::size_t rank) {
  const auto named_kind = named<NoiseKind, 3>("kind", kind,
                                              {{{"gaussian", NoiseKind::gaussian},
                                                {"rademacher", NoiseKind::rademacher},
                                                {"low_rank", NoiseKind::low_rank}}});
  return {named_kind, seed, generation, antithetic, rank};
}

// None: one vector of all parameters.
std::vector<TensorShape> shapes_of(const Shapes& shapes, std::size_t n_params) {
  if (!shapes) return {{.columns = n_params}};
  std::vector<TensorShape> found;
  for (const std::vector<std::size_t>& shape : *shapes) {
    if (shape.empty() || shape.size() > 2)
      fail("shapes[" + std::to_string(found.size()) + "] has " + std::to_string(shape.size()) +
           " dimensions, expected 1 or 2");
    if (shape.size() == 1)
      found.push_back({.columns = shape[0]});
    else
      found.push_back({.rows = shape[0], .columns = shape[1], .is_matrix = true});
  }
  return found;
}

void bound_perturb(const py::array& theta, py::array out, const std::vector<std::uint32_t>& members,
                   double std, std::uint64_t seed, std::uint32_t generation,
                   const std::string& kind, const Shapes& shapes, bool antithetic, std::size_t rank,
                   int n_threads) {
  const float* center = checked<float>("theta", theta, kAny, 0);
  const auto n_params = static_cast<std::size_t>(theta.size());
  const std::vector<TensorShape> tensors = shapes_of(shapes, n_params);
  const NoiseOptions noise = noise_of(kind, seed, generation, antithetic, rank);
  const MatrixView<float> rows =
      out.ndim() == 1 && members.size() == 1
          ? MatrixView<float>{checked_out<float>("out", out, n_params, 0), 1, n_params, n_params}
          : output("out", out, members.size(), n_params);
  const py::gil_scoped_release release;
  perturb(rows, center, n_params, members, static_cast<float>(std), tensors, noise, n_threads);
}

void bound_perturbation_gradient(const py::array& utilities, py::array out, std::uint64_t seed,
                                 std::uint32_t generation, const std::string& kind,
                                 const Shapes& shapes, bool antithetic, std::size_t rank,
                                 std::uint64_t first_member, int n_threads) {
  const double* u = checked<double>("utilities", utilities, kAny, 0);
  const std::span<const double> weights(u, static_cast<std::size_t>(utilities.size()));
  float* gradient = checked_out<float>("out", out, kAny, 0);
  const auto n_params = static_cast<std::size_t>(out.size());
  const std::vector<TensorShape> tensors = shapes_of(shapes, n_params);
  const NoiseOptions noise = noise_of(kind, seed, generation, antithetic, rank);
  check_apart("out", out, "utilities", utilities);
  const py::gil_scoped_release release;
  perturbation_gradient(gradient, n_params, weights, first_member, tensors, noise, n_threads);
}

// A float32 matrix for each member, one after the other; kAny: as many rows as there are.
const float* stacked(const char* name, const py::array& a, std::size_t n_members, std::size_t rows,
                     std::size_t columns) {
  const auto is = [&](int axis, std::size_t n) {
    return n == kAny || static_cast<std::size_t>(a.shape(axis)) == n;
  };
  if (!py::isinstance<py::array_t<float>>(a) || a.ndim() != 3 ||
      (a.flags() & py::array::c_style) == 0 || !is(0, n_members) || !is(1, rows) || !is(2, columns))
    fail(std::string(name) + " is " + describe(a) +
         ", expected a C-contiguous float32 array of shape (" + std::to_string(n_members) + ", " +
         (rows == kAny ? "n" : std::to_string(rows)) + ", " + std::to_string(columns) + ")");
  return static_cast<const float*>(a.data());
}

void bound_low_rank_forward(const py::array& x, const py::array& weights,
                            const std::optional<py::array>& bias, py::array out,
                            std::size_t n_members, double std, std::uint64_t seed,
                            std::uint32_t generation, bool antithetic, std::size_t rank,
                            std::size_t tensor, std::uint64_t first_member,
                            const std::string& activation, int n_threads) {
  const auto matrix = input("W", weights, kAny, kAny);
  const bool shared = x.ndim() != 3;
  const float* rows = shared ? input("x", x, kAny, matrix.rows).data
                             : stacked("x", x, n_members, kAny, matrix.rows);
  const auto batch = static_cast<std::size_t>(x.shape(shared ? 0 : 1));
  stacked("out", out, n_members, batch, matrix.columns);
  if (!out.writeable()) fail("out is read-only, expected an array that can be written to");
  const PopulationLayer layer{
      .weights = matrix,
      .bias = bias ? checked<float>("b", *bias, matrix.columns, 0) : nullptr,
      .activation = activation_named(activation),
      .std = static_cast<float>(std),
      .tensor = tensor,
      .first_member = first_member,
      .n_members = n_members};
  const NoiseOptions noise{NoiseKind::low_rank, seed, generation, antithetic, rank};
  auto* h = static_cast<float*>(out.mutable_data());
  const py::gil_scoped_release release;
  low_rank_forward(h, rows, shared, batch, layer, noise, n_threads);
}

std::size_t bound_fitness_shaping(const py::array& fitness, py::array out, bool maximize,
                                  const std::string& kind, std::size_t top_k,
                                  std::size_t group_size) {
  const double* f = checked<double>("fitness", fitness, kAny, 0);
  const auto n = static_cast<std::size_t>(fitness.size());
  const auto named_kind = named<Shaping, 6>("kind", kind,
                                            {{{"centered_rank", Shaping::centered_rank},
                                              {"nes", Shaping::nes},
                                              {"z_score", Shaping::z_score},
                                              {"group", Shaping::group},
                                              {"pair", Shaping::pair},
                                              {"top_k", Shaping::top_k}}});
  return fitness_shaping({checked_out<double>("out", out, n, 0), n}, {f, n},
                         {named_kind, maximize, top_k, group_size});
}

}  // namespace

void bind_perturbation(py::module_& m) {
  m.def("perturb", &bound_perturb, py::arg("theta"), py::arg("out"), py::arg("members"),
        py::arg("std"), py::arg("seed"), py::arg("generation") = 0, py::arg("kind") = "gaussian",
        py::arg("shapes") = py::none(), py::arg("antithetic") = false, py::arg("rank") = 1,
        py::arg("n_threads") = 0, "out[i] = theta + std * noise of members[i].");
  m.def("perturbation_gradient", &bound_perturbation_gradient, py::arg("utilities"), py::arg("out"),
        py::arg("seed"), py::arg("generation") = 0, py::arg("kind") = "gaussian",
        py::arg("shapes") = py::none(), py::arg("antithetic") = false, py::arg("rank") = 1,
        py::arg("first_member") = 0, py::arg("n_threads") = 0,
        "out = sum of utilities[i] * noise of member first_member + i.");
  m.def("low_rank_forward", &bound_low_rank_forward, py::arg("x"), py::arg("weights"),
        py::arg("bias").none(true), py::arg("out"), py::arg("n_members"), py::arg("std"),
        py::arg("seed"), py::arg("generation") = 0, py::arg("antithetic") = false,
        py::arg("rank") = 1, py::arg("tensor") = 0, py::arg("first_member") = 0,
        py::arg("activation") = "identity", py::arg("n_threads") = 0,
        "out[i] = f(x W + b) with the noise of member first_member + i on W and b.");
  m.def("fitness_shaping", &bound_fitness_shaping, py::arg("fitness"), py::arg("out"),
        py::arg("maximize"), py::arg("kind") = "centered_rank", py::arg("top_k") = 0,
        py::arg("group_size") = 0,
        "out = utilities of the members; gives how many had no finite fitness.");
}

}  // namespace bpfree::bindings
