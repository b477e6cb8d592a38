// SPDX-License-Identifier: BSD-3-Clause
#include "network/array_checks.h"

#include <cmath>

namespace bpfree {

std::string shape_text(std::size_t rows, std::size_t columns) {
  return "[" + std::to_string(rows) + ", " + std::to_string(columns) + "]";
}

Extent extent(const char* name, const float* data, std::size_t n) {
  return {name, data, data == nullptr ? 0 : n * sizeof(float)};
}

void check_apart(const std::vector<Extent>& all, std::size_t n_written) {
  for (std::size_t i = 0; i < n_written; ++i)
    for (std::size_t j = i + 1; j < all.size(); ++j) {
      const auto* a = static_cast<const char*>(all[i].data);
      const auto* b = static_cast<const char*>(all[j].data);
      if (all[i].bytes > 0 && all[j].bytes > 0 && a < b + all[j].bytes && b < a + all[i].bytes)
        fail(std::string(all[i].name) + " overlaps " + all[j].name +
             ", expected arrays that share no memory");
    }
}

void check_has_derivative(formulas::Activation activation) {
  if (formulas::has_derivative(activation)) return;
  fail(std::string("activation is ") +
       (activation == formulas::Activation::step ? "step" : "sign") +
       ", expected one that has a derivative: evolution strategies alone train without it");
}

void check_range(const char* name, double value, double low, double high) {
  if (value >= low && value < high) return;
  std::string text = std::string(name) + " is " + std::to_string(value) +
                     ", expected a finite number of at least " + std::to_string(low);
  if (std::isfinite(high)) text += " and below " + std::to_string(high);
  fail(text);
}

}  // namespace bpfree
