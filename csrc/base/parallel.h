// SPDX-License-Identifier: BSD-3-Clause
// Phases of tile tasks on a team of threads. The only file that knows OpenMP is parallel.cpp.
//
// A product has no parallelism of its own: it is a Plan, a number of tiles and a function that runs one. A phase is the
// tiles of any number of plans. Tiles are handed out by one atomic counter, and a phase is over when its tiles are done, not
// when every thread has arrived, so a thread that the system has put aside holds up at most the tile it works on.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

namespace bpfree {

// What a thread of the team may use while it runs one tile.
struct Worker {
  int thread = 0;
  void* scratch =
      nullptr;  // 64-byte aligned, PhaseSource::scratch_bytes() of it; contents do not survive the tile
};

struct Plan {
  std::size_t n_tiles = 0;
  void (*run)(const void* self, std::size_t tile, const Worker& worker) = nullptr;
  const void* self = nullptr;
};

// Hands out phases. next() is called by one thread at a time, after every tile of the last phase is done, and may do the
// serial work between two phases. It returns the plans of the next phase (none with tiles: it is asked again), or false
// to end the region. It must not throw and must not call Python.
class PhaseSource {
 public:
  virtual ~PhaseSource() = default;
  virtual bool next(std::span<const Plan>& plans) noexcept = 0;
  // Whether denormals count as zero in this region, on every thread of it. Training wants it: errors and moments of a confident
  // network are full of them, and each costs a hundred cycles (steps took twice as long).
  virtual bool flushes_denormals() const noexcept { return false; }
};

// Threads that calls with n_threads = 0 use: BPFREE_NUM_THREADS, else OMP_NUM_THREADS, else the cores that this process may use.
int default_threads();

// n_threads as a caller gave it (0: the default) bounded by what the work pays for: a thread per kFlopsPerThread. Throws Error
// when it is negative.
int threads_for(int n_threads, double flops);

// Runs phases until the source ends them. One OpenMP region; a team of one needs none.
void run_phases(int n_threads, PhaseSource& source, std::span<void* const> scratch);

// One phase of n tiles. f(tile, worker) must not throw.
template <class F>
void parallel_for(std::size_t n_tiles, int n_threads, const F& f,
                  std::span<void* const> scratch = {}) {
  struct Once final : PhaseSource {
    Plan plan;
    bool done = false;
    bool next(std::span<const Plan>& plans) noexcept override {
      if (done) return false;
      done = true;
      plans = {&plan, 1};
      return true;
    }
  } once;
  once.plan = {n_tiles,
               [](const void* self, std::size_t tile, const Worker& w) {
                 (*static_cast<const F*>(self))(tile, w);
               },
               &f};
  if (n_tiles > 0) run_phases(n_threads, once, scratch);
}

// "libgomp", "std::thread" or "serial", for show_config().
std::string_view parallel_backend();

}  // namespace bpfree
