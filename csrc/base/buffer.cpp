// SPDX-License-Identifier: BSD-3-Clause
#include "base/buffer.h"

#include <cstdlib>
#include <cstring>
#include <string>

#include "base/error.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace bpfree {

namespace {
constexpr std::size_t kHugePage = std::size_t{2} << 20;
constexpr std::size_t kCacheLine = 64;
}  // namespace

void* allocate(std::size_t bytes) {
  const bool large = bytes >= kHugePage / 2;
  const std::size_t alignment = large ? kHugePage : kCacheLine;
  const std::size_t rounded = round_up(bytes, kCacheLine);
  void* memory = nullptr;
  if (rounded < bytes || posix_memalign(&memory, alignment, rounded) != 0) memory = nullptr;
  if (memory == nullptr)
    throw Error(ErrorCode::kOutOfMemory,
                "cannot allocate " + std::to_string(bytes) + " bytes: more than this machine has");
#ifdef __linux__
  if (large) madvise(memory, rounded, MADV_HUGEPAGE);
#endif
  return memory;
}

void* allocate_zeroed(std::size_t bytes) {
  void* memory = allocate(bytes);
  std::memset(memory, 0, round_up(bytes, kCacheLine));
  return memory;
}

void release(void* memory) noexcept { std::free(memory); }

std::size_t checked_product(std::size_t a, std::size_t b, std::size_t c) {
  std::size_t result = 0;
  if (__builtin_mul_overflow(a, b, &result) || __builtin_mul_overflow(result, c, &result))
    throw Error(ErrorCode::kOutOfMemory, "a size of " + std::to_string(a) + " x " +
                                             std::to_string(b) + " x " + std::to_string(c) +
                                             " does not fit into memory");
  return result;
}

}  // namespace bpfree
