// SPDX-License-Identifier: BSD-3-Clause
#include "bindings/bindings.h"
#include "product/product.h"

namespace bpfree::bindings {

namespace {

// A two-dimensional C-contiguous array of one of the product's types; bf16 comes as uint16.
product::Matrix matrix(const char* name, const py::array& a, product::Dtype dtype) {
  const bool fits = dtype == product::Dtype::f32   ? py::isinstance<py::array_t<float>>(a)
                    : dtype == product::Dtype::f64 ? py::isinstance<py::array_t<double>>(a)
                                                   : py::isinstance<py::array_t<std::uint16_t>>(a);
  if (!fits || a.ndim() != 2 || (a.flags() & py::array::c_style) == 0)
    fail(std::string(name) + " is " + describe(a) +
         ", expected a C-contiguous matrix of float32, float64 or bfloat16 (as uint16), of the same type as the other");
  return {a.data(), static_cast<std::size_t>(a.shape(0)), static_cast<std::size_t>(a.shape(1)),
          static_cast<std::size_t>(a.shape(1))};
}

void bound_product(const py::array& a, const py::array& b, py::array out, bool transpose_a, bool transpose_b,
                   int n_threads) {
  using product::Dtype;
  const Dtype dtype = py::isinstance<py::array_t<double>>(a)          ? Dtype::f64
                      : py::isinstance<py::array_t<std::uint16_t>>(a) ? Dtype::bf16
                                                                      : Dtype::f32;
  const product::Matrix left = matrix("a", a, dtype);
  const product::Matrix right = matrix("b", b, dtype);
  const std::size_t m = transpose_a ? left.columns : left.rows;
  const std::size_t n = transpose_b ? right.rows : right.columns;
  void* result = nullptr;
  if (dtype == Dtype::f64)
    result = checked_out<double>("out", out, m, n == 0 ? kAny : n);
  else
    result = checked_out<float>("out", out, m, n == 0 ? kAny : n);
  check_apart("out", out, "a", a);
  check_apart("out", out, "b", b);
  py::gil_scoped_release release;
  product::product(result, n, left, transpose_a, right, transpose_b, dtype, false, n_threads);
}

}  // namespace

void bind_kernels(py::module_& m) {
  m.def("product", &bound_product, py::arg("a"), py::arg("b"), py::arg("out"), py::arg("transpose_a"),
        py::arg("transpose_b"), py::arg("n_threads") = 0, "out = op(a) op(b) on plain arrays.");
}

}  // namespace bpfree::bindings
