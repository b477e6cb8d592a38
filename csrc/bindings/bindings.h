// SPDX-License-Identifier: BSD-3-Clause
// What the binding files share: names to enums, arrays checked at the edge, and who binds what.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "network/network.h"
#include "random/random.h"

namespace bpfree::bindings {

namespace py = pybind11;

void bind_config(py::module_& m);
void bind_random(py::module_& m);
void bind_kernels(py::module_& m);
void bind_goodness(py::module_& m);
void bind_local_loss(py::module_& m);
void bind_perturbation(py::module_& m);
void bind_ensemble(py::module_& m);
void bind_noise(py::module_& m);
void bind_network(py::module_& m);
void bind_trainer(py::module_& m);
void bind_search(py::module_& m);

// The value that a name stands for; otherwise a sentence with all names.
template <class T, std::size_t N>
T named(const char* what, const std::string& name,
        const std::array<std::pair<std::string_view, T>, N>& values) {
  std::string all;
  for (const auto& [key, value] : values) {
    if (key == name) return value;
    all += (all.empty() ? "'" : ", '") + std::string(key) + "'";
  }
  fail(std::string(what) + " is '" + name + "', expected one of " + all);
}

formulas::Activation activation_named(const std::string& name);
formulas::Loss loss_named(const std::string& name);
random::Distribution distribution_named(const char* what, const std::string& name);
// Plain sgd has a solver of its own, which keeps no state.
formulas::Solver solver_named(const std::string& name, double momentum, bool nesterov);

// "float32 of shape (3, 4)", for error texts.
std::string describe(const py::array& a);

// A C-contiguous array of exactly T. `columns` 0: one-dimensional; rows and columns that are not `kAny` must fit.
inline constexpr std::size_t kAny = static_cast<std::size_t>(-1);
template <class T>
const T* checked(const char* name, const py::array& a, std::size_t rows, std::size_t columns,
                 bool writable = false) {
  const bool two = columns != 0;
  const auto size = [&](int i) { return static_cast<std::size_t>(a.shape(i)); };
  const bool fits = py::isinstance<py::array_t<T>>(a) && a.ndim() == (two ? 2 : 1) &&
                    (a.flags() & py::array::c_style) != 0 && (rows == kAny || size(0) == rows) &&
                    (!two || columns == kAny || size(1) == columns);
  if (!fits) {
    const auto text = [](std::size_t n) {
      return n == kAny ? std::string("n") : std::to_string(n);
    };
    fail(std::string(name) + " is " + describe(a) + ", expected a C-contiguous " +
         std::string(py::str(py::dtype::of<T>())) + " array of shape (" + text(rows) +
         (two ? ", " + text(columns) + ")" : ",)"));
  }
  if (writable && !a.writeable())
    fail(std::string(name) + " is read-only, expected an array that can be written to");
  return static_cast<const T*>(a.data());
}

template <class T>
T* checked_out(const char* name, py::array& a, std::size_t rows, std::size_t columns) {
  checked<T>(name, a, rows, columns, true);
  return static_cast<T*>(a.mutable_data());
}

// Fails when the two share memory.
void check_apart(const char* out_name, const py::array& out, const char* in_name,
                 const py::array& in);

// Rows of uint8, float32 or float64, contiguous along a row.
InputView input_view(const py::array& x, double scale);

}  // namespace bpfree::bindings
