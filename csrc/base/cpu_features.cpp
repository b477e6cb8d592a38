// SPDX-License-Identifier: BSD-3-Clause
#include "base/cpu_features.h"

#include <array>
#include <cstdlib>
#include <string>
#include <thread>

#include "base/error.h"

#ifdef __linux__
#include <sched.h>
#endif

namespace bpfree {

namespace {

constexpr std::array<std::string_view, 5> kNames = {"scalar", "avx2", "avx512", "avx512bf16",
                                                    "neon"};

IsaId choose() {
  const std::vector<IsaId> available = available_isas();
  const char* forced = std::getenv("BPFREE_ISA");
  if (forced == nullptr || *forced == '\0') return available.back();
  std::string names;
  for (const IsaId id : available) {
    if (isa_name(id) == forced) return id;
    names += (names.empty() ? "" : ", ") + std::string(isa_name(id));
  }
  throw Error(ErrorCode::kUnsupported, "BPFREE_ISA is '" + std::string(forced) +
                                           "', but this CPU and build have only: " + names);
}

// AMD's cores do as many dot products as float32 multiply-adds in a cycle, for twice the work. Intel's (seen on Emerald
// Rapids) do one where they do four: 82 GFLOP/s of a core against 171 of float32.
bool has_fast_dot() {
#if defined(__x86_64__)
  return !__builtin_cpu_is("intel");
#else
  return false;
#endif
}

bool choose_dot() {
  const bool has_dot = active_isa() == IsaId::avx512bf16;
  const char* forced = std::getenv("BPFREE_BF16");
  if (forced == nullptr || *forced == '\0') return has_dot && has_fast_dot();
  const std::string_view name = forced;
  if (name == "widened") return false;
  if (name != "dot")
    throw Error(ErrorCode::kUnsupported,
                "BPFREE_BF16 is '" + std::string(name) + "', expected dot or widened");
  if (!has_dot)
    throw Error(ErrorCode::kUnsupported, "BPFREE_BF16 is 'dot', but the instruction set " +
                                             std::string(isa_name(active_isa())) +
                                             " has no bf16 dot product");
  return true;
}

}  // namespace

std::string_view isa_name(IsaId id) { return kNames[static_cast<std::size_t>(id)]; }

std::vector<IsaId> available_isas() {
  std::vector<IsaId> result = {IsaId::scalar};
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    result.push_back(IsaId::avx2);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
      result.push_back(IsaId::avx512);
      if (__builtin_cpu_supports("avx512bf16")) result.push_back(IsaId::avx512bf16);
    }
  }
#elif defined(__aarch64__)
  result.push_back(IsaId::neon);
#endif
  return result;
}

IsaId active_isa() {
  static const IsaId chosen = choose();
  return chosen;
}

bool uses_bf16_dot() {
  static const bool chosen = choose_dot();
  return chosen;
}

unsigned available_cores() {
#ifdef __linux__
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return static_cast<unsigned>(CPU_COUNT(&set));
#endif
  const unsigned cores = std::thread::hardware_concurrency();
  return cores == 0 ? 1 : cores;
}

}  // namespace bpfree
