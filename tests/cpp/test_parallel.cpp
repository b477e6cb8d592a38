// SPDX-License-Identifier: BSD-3-Clause
// Every tile runs exactly once, and no tile of a phase runs before the last phase is done.

#include <algorithm>
#include <array>
#include <atomic>
#include <numeric>
#include <vector>

#include "base/parallel.h"
#include "check.h"

namespace bpfree::test {

namespace {

constexpr std::array kThreadCounts = {1, 2, 3, 7};

// Phases of two plans each. A tile adds the value that the phase before it left behind: plain
// memory, so that a thread sanitizer sees a missing edge between two phases.
class Phases final : public PhaseSource {
 public:
  static constexpr std::size_t kTiles = 13;
  static constexpr std::size_t kPhases = 200;

  bool next(std::span<const Plan>& plans) noexcept override {
    std::swap(last_, now_);
    if (phase_ == kPhases) return false;
    ++phase_;
    first_ = {kTiles, run<0>, this};
    plans_ = {first_, Plan{phase_ % 3 == 0 ? 0 : kTiles, run<kTiles>, this}};
    plans = plans_;
    return true;
  }

  std::uint64_t sum() const {
    return std::accumulate(last_.begin(), last_.end(), std::uint64_t{0});
  }

 private:
  template <std::size_t kOffset>
  static void run(const void* self, std::size_t tile, const Worker&) {
    const auto* phases = static_cast<const Phases*>(self);
    const std::size_t i = kOffset + tile;
    phases->now_[i] = phases->last_[i] + phases->last_[(i + 1) % kTiles] % 1000 + 1;
  }

  std::size_t phase_ = 0;
  Plan first_;
  std::array<Plan, 2> plans_;
  mutable std::array<std::uint64_t, 2 * kTiles> last_{};
  mutable std::array<std::uint64_t, 2 * kTiles> now_{};
};

void every_tile_once() {
  for (const int n_threads : kThreadCounts) {
    for (const std::size_t n_tiles :
         {std::size_t{0}, std::size_t{1}, std::size_t{5}, std::size_t{1000}}) {
      std::vector<int> runs(n_tiles, 0);
      parallel_for(n_tiles, n_threads, [&](std::size_t tile, const Worker&) { ++runs[tile]; });
      check(std::all_of(runs.begin(), runs.end(), [](int n) { return n == 1; }),
            "a tile ran not once");
    }
  }
}

void phases_in_order() {
  std::vector<std::uint64_t> sums;
  for (const int n_threads : kThreadCounts) {
    Phases phases;
    run_phases(n_threads, phases, {});
    sums.push_back(phases.sum());
  }
  check(std::all_of(sums.begin(), sums.end(), [&](auto sum) { return sum == sums[0]; }),
        "the number of threads changed a result");
}

void scratch_belongs_to_one_thread() {
  constexpr int kThreads = 3;
  std::array<std::array<int, 16>, kThreads> memory{};
  std::array<void*, kThreads> scratch{};
  for (std::size_t i = 0; i < kThreads; ++i) scratch[i] = memory[i].data();
  std::atomic<int> mixed{0};
  parallel_for(
      300, kThreads,
      [&](std::size_t tile, const Worker& worker) {
        int* mine = static_cast<int*>(worker.scratch);
        for (int i = 0; i < 16; ++i) mine[i] = static_cast<int>(tile);
        for (int i = 0; i < 16; ++i) mixed += mine[i] != static_cast<int>(tile);
      },
      scratch);
  check(mixed == 0, "two threads shared scratch memory");
}

}  // namespace

void test_parallel() {
  every_tile_once();
  phases_in_order();
  scratch_belongs_to_one_thread();
  check(threads_for(4, 1.0) == 1, "tiny work takes one thread");
  check(threads_for(4, 1e12) == 4 || parallel_backend() == "serial",
        "large work takes all threads");
}

}  // namespace bpfree::test
