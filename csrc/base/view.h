// SPDX-License-Identifier: BSD-3-Clause
// Non-owning views of row-major arrays, with the words of std::mdspan.
#pragma once

#include <cstddef>

namespace bpfree {

template <class T>
struct VectorView {
  T* data = nullptr;
  std::size_t size = 0;

  T& operator[](std::size_t i) const { return data[i]; }
};

// Element (i, j) is data[i * stride + j].
template <class T>
struct MatrixView {
  T* data = nullptr;
  std::size_t rows = 0;
  std::size_t columns = 0;
  std::size_t stride = 0;

  T* row(std::size_t i) const { return data + i * stride; }
  T& operator()(std::size_t i, std::size_t j) const { return data[i * stride + j]; }
};

template <class T>
MatrixView<const T> constant(MatrixView<T> m) {
  return {m.data, m.rows, m.columns, m.stride};
}

}  // namespace bpfree
