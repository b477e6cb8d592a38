// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <span>

namespace bpfree {

enum class FitnessShaping { centered_rank, z_score, nes, pair };

void shape_fitness(std::span<float> utilities, std::span<const double> fitness,
                   FitnessShaping kind);

}  // namespace bpfree
