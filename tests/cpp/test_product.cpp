// SPDX-License-Identifier: BSD-3-Clause
// The blocked product against three loops in double: every dtype, transposes, shapes around the
// tile sizes. Bound: |error| <= (k + 2) u (|A| |B|), and the same bits for any number of threads.

#include <array>
#include <bit>
#include <cstring>
#include <vector>

#include "check.h"
#include "product/product.h"

namespace bpfree::test {

namespace {

using product::Dtype;

constexpr std::array<Dtype, 3> kDtypes = {Dtype::f32, Dtype::f64, Dtype::bf16};

struct Shape {
  std::size_t m, k, n;
};

// Panels are 32 wide, tiles 4 to 14 high, vectors 1 to 16 long. The last is work for seven threads.
constexpr std::array<Shape, 9> kShapes = {{{1, 1, 1},
                                           {1, 7, 33},
                                           {3, 2, 5},
                                           {14, 16, 32},
                                           {15, 17, 31},
                                           {29, 33, 65},
                                           {64, 5, 16},
                                           {128, 40, 10},
                                           {150, 161, 149}}};

std::uint16_t to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  return static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

// An array of the dtype, and its exact values.
struct Operand {
  Operand(std::size_t rows, std::size_t columns, Dtype dtype, Numbers& numbers)
      : values(rows * columns), bytes(rows * columns * sizeof(double)) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      const double x = numbers();
      const auto single = static_cast<float>(x);
      switch (dtype) {
        case Dtype::f64:
          put(i, values[i] = x);
          break;
        case Dtype::f32:
          put(i, single);
          values[i] = single;
          break;
        case Dtype::bf16:
          const std::uint16_t half = to_bf16(single);
          put(i, half);
          values[i] = std::bit_cast<float>(static_cast<std::uint32_t>(half) << 16);
          break;
      }
    }
    matrix = {bytes.data(), rows, columns, columns};
  }

  template <class T>
  void put(std::size_t i, T value) {
    std::memcpy(bytes.data() + i * sizeof(T), &value, sizeof(T));
  }

  std::vector<double> values;
  std::vector<std::byte> bytes;
  product::Matrix matrix;
};

template <class Out>
void check_product(Dtype dtype, Shape s, bool transpose_a, bool transpose_b) {
  Numbers numbers(s.m * 10000 + s.k * 100 + s.n);
  const Operand a(transpose_a ? s.k : s.m, transpose_a ? s.m : s.k, dtype, numbers);
  const Operand b(transpose_b ? s.n : s.k, transpose_b ? s.k : s.n, dtype, numbers);

  std::vector<Out> first;
  for (const int n_threads : {1, 2, 3, 7}) {
    std::vector<Out> out(s.m * s.n, Out{7});
    product::product(out.data(), s.n, a.matrix, transpose_a, b.matrix, transpose_b, dtype, false,
                     n_threads);
    if (n_threads == 1) first = out;
    check(out == first, "the number of threads changed a product");
  }

  const double u = dtype == Dtype::f64 ? 0x1p-53 : 0x1p-24;
  for (std::size_t i = 0; i < s.m; ++i) {
    for (std::size_t j = 0; j < s.n; ++j) {
      double sum = 0;
      double magnitude = 0;
      for (std::size_t l = 0; l < s.k; ++l) {
        const double term = a.values[transpose_a ? l * s.m + i : i * s.k + l] *
                            b.values[transpose_b ? j * s.k + l : l * s.n + j];
        sum += term;
        magnitude += std::abs(term);
      }
      const double error = std::abs(static_cast<double>(first[i * s.n + j]) - sum);
      check(error <= static_cast<double>(s.k + 2) * u * magnitude, "a product beyond its bound");
    }
  }
}

// Columns beyond n and what stood in out are left alone, or added to.
void accumulates_within_a_stride() {
  Numbers numbers(1);
  const Operand a(9, 6, Dtype::f32, numbers);
  const Operand b(6, 37, Dtype::f32, numbers);
  constexpr std::size_t kStride = 41;
  std::vector<float> once(9 * kStride, 0.5f);
  std::vector<float> twice(9 * kStride, 0.5f);
  product::product(once.data(), kStride, a.matrix, false, b.matrix, false, Dtype::f32, false, 2);
  product::product(twice.data(), kStride, a.matrix, false, b.matrix, false, Dtype::f32, true, 2);
  for (std::size_t i = 0; i < once.size(); ++i) {
    const bool inside = i % kStride < 37;
    check(inside ? near(twice[i], once[i] + 0.5, 1e-6) : once[i] == 0.5f && twice[i] == 0.5f,
          "accumulation, or a write beyond the columns");
  }
}

}  // namespace

void test_product() {
  for (const Shape shape : kShapes) {
    for (const Dtype dtype : kDtypes) {
      for (const int transposed : {0, 1, 2, 3}) {
        const bool a = (transposed & 1) != 0;
        const bool b = (transposed & 2) != 0;
        if (dtype == Dtype::f64) {
          check_product<double>(dtype, shape, a, b);
        } else {
          check_product<float>(dtype, shape, a, b);
        }
      }
    }
  }
  accumulates_within_a_stride();
}

}  // namespace bpfree::test
