// SPDX-License-Identifier: BSD-3-Clause
#include "bindings/bindings.h"

namespace bpfree::bindings {

formulas::Activation activation_named(const std::string& name) {
  using formulas::Activation;
  return named<Activation, 9>("activation", name,
                              {{{"identity", Activation::identity},
                                {"relu", Activation::relu},
                                {"leaky_relu", Activation::leaky_relu},
                                {"tanh", Activation::tanh},
                                {"logistic", Activation::logistic},
                                {"sigmoid", Activation::logistic},
                                {"gelu", Activation::gelu},
                                {"step", Activation::step},
                                {"sign", Activation::sign}}});
}

formulas::Loss loss_named(const std::string& name) {
  using formulas::Loss;
  return named<Loss, 3>("loss", name,
                        {{{"softmax_cross_entropy", Loss::softmax_cross_entropy},
                          {"binary_cross_entropy", Loss::binary_cross_entropy},
                          {"squared_error", Loss::squared_error}}});
}

random::Distribution distribution_named(const char* what, const std::string& name) {
  using random::Distribution;
  return named<Distribution, 3>(what, name,
                                {{{"uniform", Distribution::uniform},
                                  {"normal", Distribution::normal},
                                  {"sign", Distribution::sign}}});
}

formulas::Solver solver_named(const std::string& name, double momentum, bool nesterov) {
  using formulas::Solver;
  const auto solver = named<Solver, 4>("solver", name,
                                       {{{"sgd", Solver::sgd},
                                         {"adam", Solver::adam},
                                         {"adamw", Solver::adam},
                                         {"rmsprop", Solver::rmsprop}}});
  if (solver != Solver::sgd || momentum == 0) return solver;
  return nesterov ? Solver::nesterov : Solver::momentum;
}

std::string describe(const py::array& a) {
  std::string text = std::string(py::str(a.dtype())) + " of shape (";
  for (py::ssize_t i = 0; i < a.ndim(); ++i)
    text += (i == 0 ? "" : ", ") + std::to_string(a.shape(i));
  text += a.ndim() == 1 ? ",)" : ")";
  return (a.flags() & py::array::c_style) != 0 ? text : text + ", not C-contiguous";
}

void check_apart(const char* out_name, const py::array& out, const char* in_name,
                 const py::array& in) {
  const auto* a = static_cast<const char*>(out.data());
  const auto* b = static_cast<const char*>(in.data());
  if (a < b + in.nbytes() && b < a + out.nbytes())
    fail(std::string(out_name) + " overlaps " + in_name + ", expected arrays that share no memory");
}

InputView input_view(const py::array& x, double scale) {
  InputView view;
  if (py::isinstance<py::array_t<std::uint8_t>>(x))
    view.type = InputType::u8;
  else if (py::isinstance<py::array_t<float>>(x))
    view.type = InputType::f32;
  else if (py::isinstance<py::array_t<double>>(x))
    view.type = InputType::f64;
  else
    fail("x is " + describe(x) +
         ", expected uint8, float32 or float64 rows of shape (n, n_features)");
  if (x.ndim() != 2 || (x.flags() & py::array::c_style) == 0)
    fail("x is " + describe(x) + ", expected C-contiguous rows of shape (n, n_features)");
  view.data = x.data();
  view.rows = static_cast<std::size_t>(x.shape(0));
  view.columns = static_cast<std::size_t>(x.shape(1));
  view.row_stride = view.columns;
  view.scale = static_cast<float>(scale);
  return view;
}

}  // namespace bpfree::bindings
