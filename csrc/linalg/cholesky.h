// SPDX-License-Identifier: BSD-3-Clause
// Symmetric positive definite matrices in float64: Cholesky's factor, and what is solved with it. No LAPACK: whatever is not a
// block of 64 columns is the library's own product.
#pragma once

#include <cstddef>

#include "base/view.h"

namespace bpfree::linalg {

// The lower triangle of a becomes L with a = L L^T; the upper one is neither read nor kept. Gives the number of the first pivot
// that is not above `floor` (or is NaN), and then L is not complete; a.rows where all are.
// Source: blocked, right-looking (Golub & Van Loan, Matrix Computations, section 4.2).
// Cost:   n^3 / 3 flops; the trailing update is the product. Workspace: 64 n doubles.
// Result: same bits for any number of threads; |L L^T - a| <= about n u |L| |L^T|.
std::size_t cholesky(MatrixView<double> a, double floor, int n_threads);

// What rounding alone can make of a pivot that should be 0: n u times the largest number of the diagonal.
double rounding_of_pivots(MatrixView<const double> a);

// b <- L^-1 b, and b <- L^-T b, for b [n, n_columns] and the lower triangle of l. Cost: n^2 n_columns flops each.
void solve_lower(MatrixView<double> b, MatrixView<const double> l, int n_threads);
void solve_lower_transposed(MatrixView<double> b, MatrixView<const double> l, int n_threads);

}  // namespace bpfree::linalg
