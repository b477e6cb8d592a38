// SPDX-License-Identifier: BSD-3-Clause
// The blocked product on plain arrays: out = op(a) op(b).
#pragma once

#include <cstddef>
#include <cstdint>

#include "product/kernels.h"

namespace bpfree::product {

enum class Dtype { f32, f64, bf16 };

// A plain row-major array [rows, columns]; bf16 elements are uint16.
struct Matrix {
  const void* data;
  std::size_t rows;
  std::size_t columns;
  std::size_t stride;
};

// out [m, n] = op(a) [m, k] op(b) [k, n], where op transposes when asked; out is float64 for f64, else float32. Packs b
// into panels and, where its rows would fall onto the same cache sets, a; both inside the call. Throws Error when the
// shapes do not fit. Result: same bits for any number of threads; |error| <= (k + 2) u (|a| |b|).
void product(void* out, std::size_t out_stride, const Matrix& a, bool transpose_a, const Matrix& b,
             bool transpose_b, Dtype dtype, bool accumulate, int n_threads);

// The most that this machine's registers can do, GFLOP/s on n_threads, measured for about `seconds`.
double peak_gflops(bool bf16, int n_threads, double seconds);

}  // namespace bpfree::product
