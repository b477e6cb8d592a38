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

// Cores that this process may use.
unsigned available_cores();

}  // namespace bpfree
