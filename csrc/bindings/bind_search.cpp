// SPDX-License-Identifier: BSD-3-Clause
// Members and sums of search distributions: check the arrays, release the GIL, one call.
#include <optional>
#include <span>

#include "bindings/bindings.h"
#include "methods/search.h"

namespace bpfree::bindings {

namespace {

SearchNoise search_noise(std::uint64_t seed, std::uint32_t generation, const std::string& kind,
                         bool antithetic) {
  using random::Distribution;
  return {
      seed, generation,
      named<Distribution, 2>(
          "kind", kind, {{{"gaussian", Distribution::normal}, {"rademacher", Distribution::sign}}}),
      antithetic};
}

template <class T>
void members_of(py::array& out, const py::array& mean, const std::optional<py::array>& scale,
                double std, const py::array& members, const SearchNoise& noise, int n_threads) {
  const auto n = static_cast<std::size_t>(mean.size());
  const T* center = checked<T>("mean", mean, n, 0);
  const T* scales = scale ? checked<T>("scale", *scale, n, 0) : nullptr;
  const std::uint32_t* indices = checked<std::uint32_t>("members", members, kAny, 0);
  const auto rows = static_cast<std::size_t>(members.size());
  T* data = checked_out<T>("out", out, rows, n);
  // One member may take the mean's place: each number is read before it is written.
  if (rows != 1 || data != center) check_apart("out", out, "mean", mean);
  if (scale) check_apart("out", out, "scale", *scale);
  const py::gil_scoped_release release;
  search_members<T>({data, rows, n, n}, center, scales, static_cast<T>(std), noise, {indices, rows},
                    n_threads);
}

void members(py::array out, const py::array& mean, const std::optional<py::array>& scale,
             double std, const py::array& members, std::uint64_t seed, std::uint32_t generation,
             const std::string& kind, bool antithetic, int n_threads) {
  const SearchNoise noise = search_noise(seed, generation, kind, antithetic);
  if (py::isinstance<py::array_t<double>>(out))
    members_of<double>(out, mean, scale, std, members, noise, n_threads);
  else
    members_of<float>(out, mean, scale, std, members, noise, n_threads);
}

template <class T>
void sums_of(py::array& first, const py::array& u, std::optional<py::array>& second,
             const std::optional<py::array>& v, const SearchNoise& noise, int n_threads) {
  if (second.has_value() != v.has_value()) fail("second and v go together, but one is missing");
  const auto n = static_cast<std::size_t>(first.size());
  const auto n_members = static_cast<std::size_t>(u.size());
  const std::span<T> sum = {checked_out<T>("first", first, kAny, 0), n};
  const std::span<const T> of_first = {checked<T>("u", u, kAny, 0), n_members};
  T* squares = second ? checked_out<T>("second", *second, n, 0) : nullptr;
  std::span<const T> of_second;
  if (v) of_second = {checked<T>("v", *v, n_members, 0), n_members};
  if (second) check_apart("second", *second, "first", first);
  if (noise.antithetic && n_members % 2 == 1)
    fail("u has " + std::to_string(n_members) + " members, expected pairs");
  const py::gil_scoped_release release;
  search_sums<T>(sum, squares, of_first, of_second, noise, n_threads);
}

void sums(py::array first, const py::array& u, std::optional<py::array> second,
          const std::optional<py::array>& v, std::uint64_t seed, std::uint32_t generation,
          const std::string& kind, bool antithetic, int n_threads) {
  const SearchNoise noise = search_noise(seed, generation, kind, antithetic);
  if (py::isinstance<py::array_t<double>>(first))
    sums_of<double>(first, u, second, v, noise, n_threads);
  else
    sums_of<float>(first, u, second, v, noise, n_threads);
}

// A state's vector of n doubles, to be written to.
double* state(const char* name, py::array& a, std::size_t n) {
  return checked_out<double>(name, a, n, 0);
}

std::span<const double> utilities_of(const char* name, const py::array& u, bool antithetic) {
  const std::span<const double> values = {checked<double>(name, u, kAny, 0),
                                          static_cast<std::size_t>(u.size())};
  if (antithetic && values.size() % 2 == 1)
    fail(std::string(name) + " has " + std::to_string(values.size()) + " members, expected pairs");
  return values;
}

double snes(py::array mean, py::array relative_std, const py::array& utilities, double std,
            double learning_rate, double std_learning_rate, std::uint64_t seed,
            std::uint32_t generation, bool antithetic, int n_threads) {
  const auto n = static_cast<std::size_t>(mean.size());
  const std::span<double> center = {state("mean", mean, n), n};
  double* scale = state("relative_std", relative_std, n);
  const auto u = utilities_of("utilities", utilities, antithetic);
  const py::gil_scoped_release release;
  return snes_step(center, scale, u, std, learning_rate, std_learning_rate,
                   {seed, generation, random::Distribution::normal, antithetic}, n_threads);
}

std::pair<double, double> sep_cma(py::array mean, py::array relative_std, py::array path_std,
                                  py::array path, double std, const py::array& weights,
                                  const std::array<double, 7>& c, std::uint64_t seed,
                                  std::uint32_t generation, int n_threads) {
  const auto n = static_cast<std::size_t>(mean.size());
  const std::span<double> center = {state("mean", mean, n), n};
  double* scale = state("relative_std", relative_std, n);
  double* of_std = state("path_std", path_std, n);
  double* of_covariance = state("path", path, n);
  const auto w = utilities_of("weights", weights, false);
  const py::gil_scoped_release release;
  const double move = sep_cma_step(
      center, scale, of_std, of_covariance, std, w, {c[0], c[1], c[2], c[3], c[4], c[5], c[6]},
      {seed, generation, random::Distribution::normal, false}, n_threads);
  return {move, std};
}

}  // namespace

void bind_search(py::module_& m) {
  m.def("search_members", &members, py::arg("out"), py::arg("mean"), py::arg("scale"),
        py::arg("std"), py::arg("members"), py::arg("seed"), py::arg("generation"),
        py::arg("kind") = "gaussian", py::arg("antithetic") = false, py::arg("n_threads") = 0);
  m.def("search_sums", &sums, py::arg("first"), py::arg("u"), py::arg("second"), py::arg("v"),
        py::arg("seed"), py::arg("generation"), py::arg("kind") = "gaussian",
        py::arg("antithetic") = false, py::arg("n_threads") = 0);
  m.def("snes_step", &snes, py::arg("mean"), py::arg("relative_std"), py::arg("utilities"),
        py::arg("std"), py::arg("learning_rate"), py::arg("std_learning_rate"), py::arg("seed"),
        py::arg("generation"), py::arg("antithetic") = false, py::arg("n_threads") = 0);
  // constants: mu_eff, c_path_std, damping, c_path, c_one, c_mu, expected_norm. Gives the norm of the mean's move and the new std.
  m.def("sep_cma_step", &sep_cma, py::arg("mean"), py::arg("relative_std"), py::arg("path_std"),
        py::arg("path"), py::arg("std"), py::arg("weights"), py::arg("constants"), py::arg("seed"),
        py::arg("generation"), py::arg("n_threads") = 0);
}

}  // namespace bpfree::bindings
