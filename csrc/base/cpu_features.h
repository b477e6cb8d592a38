// SPDX-License-Identifier: BSD-3-Clause
// Which instruction sets this CPU has, and which one the library runs. Chosen once; BPFREE_ISA forces.
#pragma once

#include <span>
#include <string_view>
#include <vector>

namespace bpfree {

enum class IsaId { scalar, avx2, avx512, avx512bf16, neon };

std::string_view isa_name(IsaId id);

// Those that this build contains and this CPU runs, slowest first.
std::vector<IsaId> available_isas();

// The chosen one: the last of available_isas(), or what BPFREE_ISA names. Throws Error when BPFREE_ISA names
// one that is unknown, or that this CPU or build lacks.
IsaId active_isa();

// Whether bf16 products take the CPU's dot product: where the active instruction set has one and it outruns float32
// multiply-adds, or as BPFREE_BF16 = dot | widened says. Throws Error when that names anything else, or a dot product that the
// instruction set lacks.
bool uses_bf16_dot();

// Cores that this process may use.
unsigned available_cores();

}  // namespace bpfree
