// SPDX-License-Identifier: BSD-3-Clause
// Checks of the caller's own arrays and numbers, before a kernel touches them. Each throws an Error that holds the offending
// value.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/view.h"
#include "formulas/kinds.h"

namespace bpfree {

std::string shape_text(std::size_t rows, std::size_t columns);

template <class T>
void check_shape(const char* name, MatrixView<T> m, std::size_t rows, std::size_t columns) {
  if (m.rows != rows || m.columns != columns)
    fail(std::string(name) + " is " + shape_text(m.rows, m.columns) + ", expected " +
         shape_text(rows, columns));
  if (m.rows > 1 && m.stride < m.columns)
    fail(std::string(name) + " has a row stride of " + std::to_string(m.stride) +
         ", expected at least its " + std::to_string(m.columns) + " columns");
  if (m.data == nullptr && rows != 0 && columns != 0)
    fail(std::string(name) + " is a null pointer");
}

struct Extent {
  const char* name;
  const void* data;
  std::size_t bytes;
};

template <class T>
Extent extent(const char* name, MatrixView<T> m) {
  const bool empty = m.rows == 0 || m.columns == 0 || m.data == nullptr;
  return {name, m.data, empty ? 0 : ((m.rows - 1) * m.stride + m.columns) * sizeof(T)};
}

Extent extent(const char* name, const float* data, std::size_t n);

// The first `n_written` are written to: they share memory with nothing else of the list.
void check_apart(const std::vector<Extent>& all, std::size_t n_written);

// Fails for step and sign.
void check_has_derivative(formulas::Activation activation);

void check_range(const char* name, double value, double low, double high);

}  // namespace bpfree
