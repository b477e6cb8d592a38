// SPDX-License-Identifier: BSD-3-Clause
// Sample covariances of an ensemble's columns.
#pragma once

#include "network/ensemble_transform.h"

namespace bpfree {

// out [p, q] = (a - mean)^T (b - mean) / (n_ens - 1) for a [n_ens, p] and b [n_ens, q], of one type; b.data null: b is a.
// Localised entry by entry (product/ensemble.h): `taper` [p, q] of the same type, or the correlation.
// Cost:   2 n_ens p q flops, half of that where b is a and there is no taper: then the lower half is computed, and each finished
//         piece written twice. Means are subtracted as columns are packed. Workspace: b once, and some columns of a in each
//         thread.
// Result: same bits for any number of threads, symmetric where b is a; |error| <= (2 n_ens + 8) u |x|^T |x| / (n_ens - 1), x the
//         distances from the first member.
void ensemble_covariance(const Members& out, const EnsembleRows& a, const EnsembleRows& b,
                         product::Localization localization, const void* taper, int n_threads);

}  // namespace bpfree
