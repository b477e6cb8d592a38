// SPDX-License-Identifier: BSD-3-Clause
// What the tests of the bare kernels need: one check, one table of tests, one source of numbers
// that is not the library's.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <source_location>
#include <string_view>
#include <vector>

namespace bpfree::test {

// Counts, and prints where it failed. A failed check does not end the test.
void check(bool ok, std::string_view what,
           std::source_location where = std::source_location::current());

// |a - b| <= tolerance * (1 + |b|), and false for NaN.
inline bool near(double a, double b, double tolerance) {
  return std::abs(a - b) <= tolerance * (1 + std::abs(b));
}

// Numbers in [-1, 1): Knuth's linear congruential generator.
class Numbers {
 public:
  explicit Numbers(std::uint64_t seed) : state_(seed) {}

  double operator()() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<double>(state_ >> 11) * 0x1p-52 - 1.0;
  }

  std::vector<float> floats(std::size_t n) {
    std::vector<float> values(n);
    for (float& value : values) value = static_cast<float>((*this)());
    return values;
  }

 private:
  std::uint64_t state_;
};

struct Test {
  std::string_view name;
  void (*run)();
};

// One per file; main.cpp lists them.
void test_parallel();
void test_row_blocks();
void test_random();
void test_product();
void test_capi();
void test_perturbation();
void test_ensemble();
void test_training();
void test_noprop();

}  // namespace bpfree::test
