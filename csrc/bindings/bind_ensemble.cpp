// SPDX-License-Identifier: BSD-3-Clause
// Ensemble Kalman updates on plain arrays: check the arrays, release the GIL, one call.
#include <algorithm>
#include <optional>

#include "bindings/bindings.h"
#include "network/ensemble_covariance.h"

namespace bpfree::bindings {

namespace {

using Doubles = py::array_t<double>;

EnsembleMethod method_named(const std::string& name) {
  return named<EnsembleMethod, 5>("method", name,
                                  {{{"eki", EnsembleMethod::eki},
                                    {"enkf", EnsembleMethod::enkf},
                                    {"esmda", EnsembleMethod::esmda},
                                    {"etki", EnsembleMethod::etki},
                                    {"denkf", EnsembleMethod::denkf}}});
}

// A C-contiguous matrix of float32 or float64.
bool is_f64(const char* name, const py::array& a) {
  const bool f64 = py::isinstance<py::array_t<double>>(a);
  if ((!f64 && !py::isinstance<py::array_t<float>>(a)) || a.ndim() != 2 ||
      (a.flags() & py::array::c_style) == 0)
    fail(std::string(name) + " is " + describe(a) +
         ", expected a C-contiguous float32 or float64 array of shape (n_ens, n)");
  return f64;
}

EnsembleRows rows(const char* name, const py::array& a) {
  const bool f64 = is_f64(name, a);
  return {a.data(), static_cast<std::size_t>(a.shape(0)), static_cast<std::size_t>(a.shape(1)),
          f64};
}

Members members(const char* name, const py::array& a) {
  const EnsembleRows r = rows(name, a);
  return {const_cast<void*>(r.data), r.rows, r.columns, r.is_f64};
}

Members written(const py::array& out) {
  const Members found = members("out", out);
  if (!out.writeable()) fail("out is read-only, expected an array that can be written to");
  return found;
}

ObservationNoise noise_of(const py::array& noise, std::size_t n_obs) {
  const bool matrix = noise.ndim() == 2;
  const double* values =
      matrix ? checked<double>("obs_noise_cov", noise, n_obs, n_obs == 0 ? kAny : n_obs)
             : checked<double>("obs_noise_cov", noise, noise.size() == 1 ? 1 : n_obs, 0);
  return {values, static_cast<std::size_t>(noise.size()), matrix};
}

const double* optional(const char* name, const std::optional<py::array>& a, std::size_t rows,
                       std::size_t columns) {
  return a ? checked<double>(name, *a, rows, columns) : nullptr;
}

Doubles square(const Buffer<double>& values, std::size_t n) {
  Doubles out({n, n});
  std::copy(values.begin(), values.end(), out.mutable_data());
  return out;
}

Doubles vector(const std::vector<double>& values) {
  Doubles out(static_cast<py::ssize_t>(values.size()));
  std::copy(values.begin(), values.end(), out.mutable_data());
  return out;
}

product::Localization localization_named(const std::string& name) {
  using product::Localization;
  return named<Localization, 4>("localization", name,
                                {{{"none", Localization::none},
                                  {"taper", Localization::taper},
                                  {"sec", Localization::sec},
                                  {"sec_fisher", Localization::sec_fisher}}});
}

// Of the type of what it is multiplied with.
const void* taper_of(const std::optional<py::array>& taper, bool f64, std::size_t n_rows,
                     std::size_t n_columns) {
  if (!taper) return nullptr;
  const std::size_t columns = n_columns == 0 ? kAny : n_columns;
  if (f64) return checked<double>("localization", *taper, n_rows, columns);
  return checked<float>("localization", *taper, n_rows, columns);
}

void bound_covariance(const py::array& a, const std::optional<py::array>& b, const py::array& out,
                      const std::string& localization, const std::optional<py::array>& taper,
                      int n_threads) {
  const EnsembleRows left = rows("a", a), right = b ? rows("b", *b) : EnsembleRows{};
  const Members to = written(out);
  const product::Localization kind = localization_named(localization);
  const void* factors = taper_of(taper, left.is_f64, to.rows, to.columns);
  const py::gil_scoped_release release;
  ensemble_covariance(to, left, right, kind, factors, n_threads);
}

py::tuple bound_moments(const py::array& g, const std::optional<py::array>& y,
                        const py::array& obs_noise_cov, const std::optional<py::array>& score,
                        std::size_t softmax_classes, bool perturbed, std::uint64_t seed,
                        std::uint32_t iteration, int n_threads) {
  EnsembleOutputs outputs{.g = rows("g", g),
                          .softmax_classes = softmax_classes,
                          .perturbed = perturbed,
                          .seed = seed,
                          .iteration = iteration};
  const std::size_t n = outputs.g.rows, n_obs = outputs.g.columns;
  outputs.y = optional("y", y, n_obs, 0);
  outputs.noise = noise_of(obs_noise_cov, n_obs);
  if (score) outputs.score = rows("score", *score);
  EnsembleMoments moments;
  {
    const py::gil_scoped_release release;
    moments = ensemble_moments(outputs, n_threads);
  }
  const py::object noise = perturbed ? py::object(square(moments.noise, n)) : py::none();
  const py::object misfit =
      moments.misfit.empty() ? py::none() : py::object(vector(moments.misfit));
  return py::make_tuple(square(moments.gram, n), square(moments.cross, n), noise, misfit);
}

py::tuple bound_weights(const py::array& gram, const py::array& cross,
                        const std::optional<py::array>& noise, const std::string& method, double dt,
                        int n_threads) {
  const EnsembleMethod kind = method_named(method);
  checked<double>("gram", gram, kAny, kAny);
  const auto n = static_cast<std::size_t>(gram.shape(0));
  EnsembleMoments moments;
  moments.n_ens = n;
  const auto copy = [&](const char* name, const py::array& a) {
    const double* values = checked<double>(name, a, n, n);
    auto buffer = Buffer<double>::uninitialized(n * n);
    std::copy_n(values, n * n, buffer.data());
    return buffer;
  };
  if (n == 0) fail("gram is " + describe(gram) + ", expected that of at least 2 members");
  moments.gram = copy("gram", gram);
  moments.cross = copy("cross", cross);
  if (noise) moments.noise = copy("noise", *noise);
  Doubles transform({n, n});
  double* out = transform.mutable_data();
  {
    const py::gil_scoped_release release;
    ensemble_weights(out, moments, kind, dt, n_threads);
  }
  return py::make_tuple(transform, effective_rank(moments));
}

void bound_transform(const py::array& theta, const py::array& out, const py::array& transform,
                     bool bf16, int n_threads) {
  const Members from = members("theta", theta), to = written(out);
  const double* weights =
      checked<double>("transform", transform, from.rows, from.rows == 0 ? kAny : from.rows);
  const py::gil_scoped_release release;
  ensemble_transform(to, from, weights, bf16, n_threads);
}

py::tuple bound_update(const py::array& theta, const py::array& out, const py::array& g,
                       const py::array& y, const py::array& obs_noise_cov,
                       const std::string& method, double dt, std::uint64_t seed,
                       std::uint32_t iteration, const std::string& localization,
                       const std::optional<py::array>& taper,
                       const std::optional<py::array>& obs_taper, const std::string& form,
                       int n_threads) {
  const Members from = members("theta", theta), to = written(out);
  EnsembleOutputs outputs{.g = rows("g", g), .seed = seed, .iteration = iteration};
  const std::size_t n_obs = outputs.g.columns;
  outputs.y = checked<double>("y", y, n_obs, 0);
  outputs.noise = noise_of(obs_noise_cov, n_obs);
  UpdateOptions options{.method = method_named(method), .dt = dt};
  options.localization = localization_named(localization);
  options.form = named<EnsembleForm, 3>("form", form,
                                        {{{"auto", EnsembleForm::automatic},
                                          {"ensemble", EnsembleForm::ensemble},
                                          {"data", EnsembleForm::data}}});
  options.taper = taper_of(taper, from.is_f64, from.columns, n_obs);
  options.obs_taper = optional("obs_localization", obs_taper, n_obs, n_obs == 0 ? kAny : n_obs);
  EnsembleReport report;
  {
    const py::gil_scoped_release release;
    report = ensemble_update(to, from, outputs, options, n_threads);
  }
  return py::make_tuple(report.form == EnsembleForm::data ? "data" : "ensemble",
                        report.effective_rank, vector(report.misfit));
}

}  // namespace

void bind_ensemble(py::module_& m) {
  m.def("ensemble_covariance", &bound_covariance, py::arg("a"), py::arg("b").none(true),
        py::arg("out"), py::arg("localization") = "none", py::arg("taper") = py::none(),
        py::arg("n_threads") = 0, "out = (a - mean)^T (b - mean) / (n_ens - 1), localised.");
  m.def("ensemble_moments", &bound_moments, py::arg("g"), py::arg("y").none(true),
        py::arg("obs_noise_cov"), py::arg("score") = py::none(), py::arg("softmax_classes") = 0,
        py::arg("perturbed") = false, py::arg("seed") = 0, py::arg("iteration") = 0,
        py::arg("n_threads") = 0,
        "Gram matrix, cross matrix, that of the noise or None, misfits or None.");
  m.def("ensemble_weights", &bound_weights, py::arg("gram"), py::arg("cross"),
        py::arg("noise").none(true), py::arg("method"), py::arg("dt"), py::arg("n_threads") = 0,
        "The transform of the moments, and their effective rank.");
  m.def("ensemble_transform", &bound_transform, py::arg("theta"), py::arg("out"),
        py::arg("transform"), py::arg("bfloat16") = false, py::arg("n_threads") = 0,
        "out = theta + transform (theta - mean).");
  m.def("ensemble_update", &bound_update, py::arg("theta"), py::arg("out"), py::arg("g"),
        py::arg("y"), py::arg("obs_noise_cov"), py::arg("method") = "eki", py::arg("dt") = 1.0,
        py::arg("seed") = 0, py::arg("iteration") = 0, py::arg("localization") = "none",
        py::arg("taper") = py::none(), py::arg("obs_taper") = py::none(), py::arg("form") = "auto",
        py::arg("n_threads") = 0,
        "out = theta after one update; gives the form, the effective rank and the misfits.");
}

}  // namespace bpfree::bindings
