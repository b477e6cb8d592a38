// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "base/view.h"

namespace bpfree::linalg {

// out = a^(-1/2), the symmetric positive definite one, for such a matrix a [n, n]; false where a is not by more than
// rounding, and then out is not to be used. a is overwritten.
// Source: the product form of Denman and Beavers' iteration (Cheng, Higham, Kenney & Laub 2001, SIAM J. Matrix Anal. Appl. 22),
//         scaled by the determinant: products and Cholesky factors only. An eigendecomposition would run on one thread.
// Cost:   about 10 steps of 13/3 n^3 flops. Workspace: 3 n^2 doubles.
// Result: same bits for any number of threads; relative error about u times the condition of a.
bool inverse_symmetric_root(MatrixView<double> out, MatrixView<double> a, int n_threads);

}  // namespace bpfree::linalg
