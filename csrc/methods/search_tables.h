// SPDX-License-Identifier: BSD-3-Clause
// The kernels of search.h on one tile of noise, one table per instruction set; search.cpp chooses.
#pragma once

#include <cstddef>

namespace bpfree {

inline constexpr std::size_t kSearchTile = 512;

template <class T>
struct SearchTile {
  // plus = mean + std * scale * eps, and minus = mean - std * scale * eps where it is not null; a null scale is 1.
  void (*members)(T* plus, T* minus, const T* mean, const T* scale, T std, const float* eps,
                  std::size_t n);
  // first += u eps; second += v eps^2 where it is not null.
  void (*sums)(T* first, T* second, T u, T v, const float* eps, std::size_t n);
};

struct SearchKernels {
  SearchTile<float> f32;
  SearchTile<double> f64;
};

const SearchKernels* search_kernels_scalar();
const SearchKernels* search_kernels_avx2();
const SearchKernels* search_kernels_avx512();
const SearchKernels* search_kernels_avx512bf16();
const SearchKernels* search_kernels_neon();

}  // namespace bpfree
