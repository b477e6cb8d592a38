// SPDX-License-Identifier: BSD-3-Clause
// The kernels of search_tables.h, for one instruction set.
#pragma once

#include "methods/search_tables.h"
#include "simd/vec.h"

namespace bpfree {

template <class Isa>
struct SearchFills {
  using F = simd::Vec<Isa, float>;

  // The noise as T: itself, or widened into `wide`.
  [[gnu::always_inline]] static const float* as(float*, const float* eps, std::size_t) {
    return eps;
  }
  [[gnu::always_inline]] static const double* as(double* wide, const float* eps, std::size_t n) {
    for (std::size_t i = 0; i < n; i += F::N)
      F::load_partial(eps + i, left(n, i)).store_double(wide + i);
    return wide;
  }
  [[gnu::always_inline]] static std::size_t left(std::size_t n, std::size_t i) {
    return n - i < F::N ? n - i : F::N;
  }

  // f(i, load, store) for each vector; tails are masked.
  template <class T, class Step>
  [[gnu::always_inline]] static void each(std::size_t n, Step step) {
    using V = simd::Vec<Isa, T>;
    std::size_t i = 0;
    for (; i + V::N <= n; i += V::N)
      step(
          i, [](const T* p) __attribute__((always_inline)) { return V::load(p); },
          [](V v, T* p) __attribute__((always_inline)) { v.store(p); });
    if (i < n)
      step(
          i, [&](const T* p) __attribute__((always_inline)) { return V::load_partial(p, n - i); },
          [&](V v, T* p) __attribute__((always_inline)) { v.store_partial(p, n - i); });
  }

  template <class T>
  static void members(T* plus, T* minus, const T* mean, const T* scale, T std, const float* noise,
                      std::size_t n) {
    using V = simd::Vec<Isa, T>;
    T wide[sizeof(T) == sizeof(float) ? 1 : kSearchTile + F::N];
    const T* eps = as(wide, noise, n);
    const V deviation = V::set(std);
    each<T>(n, [&](std::size_t i, auto load, auto store) __attribute__((always_inline)) {
      const V s = scale == nullptr ? deviation : deviation * load(scale + i);
      const V e = load(eps + i);
      const V m = load(mean + i);
      store(V::fma(s, e, m), plus + i);
      if (minus != nullptr) store(V::fnma(s, e, m), minus + i);
    });
  }

  template <class T>
  static void sums(T* first, T* second, T u, T v, const float* noise, std::size_t n) {
    using V = simd::Vec<Isa, T>;
    T wide[sizeof(T) == sizeof(float) ? 1 : kSearchTile + F::N];
    const T* eps = as(wide, noise, n);
    const V of_first = V::set(u);
    const V of_second = V::set(v);
    each<T>(n, [&](std::size_t i, auto load, auto store) __attribute__((always_inline)) {
      const V e = load(eps + i);
      store(V::fma(of_first, e, load(first + i)), first + i);
      if (second != nullptr) store(V::fma(of_second, e * e, load(second + i)), second + i);
    });
  }
};

template <class Isa>
constexpr SearchKernels kSearchTable = {
    {SearchFills<Isa>::template members<float>, SearchFills<Isa>::template sums<float>},
    {SearchFills<Isa>::template members<double>, SearchFills<Isa>::template sums<double>}};

}  // namespace bpfree
