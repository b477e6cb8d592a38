// SPDX-License-Identifier: BSD-3-Clause
#include "base/parallel.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "base/cpu_features.h"
#include "base/error.h"

#ifdef __unix__
#include <pthread.h>
#endif

namespace bpfree {

namespace {

constexpr double kFlopsPerThread =
    1e6;  // about 10 us of one core: waking and joining a second thread costs 2-5 us
constexpr int kMaxThreads = 1024;
constexpr int kSpins = 20000;  // about a millisecond of pauses
constexpr auto kSleepAfter =
    std::chrono::milliseconds(10);  // sleeping sooner costs more than the core it frees
constexpr auto kSleep = std::chrono::microseconds(100);

// After fork an OpenMP runtime hangs in its first region, so a child runs on one thread.
std::atomic<bool> forked_child{false};

#ifdef __unix__
const int fork_handler = pthread_atfork(nullptr, nullptr, [] { forked_child.store(true); });
#endif

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Denormals are zero on this thread for as long as it lives; then the caller's setting is back.
class FlushDenormals {
 public:
  explicit FlushDenormals(bool flush) : flush_(flush) {
    if (!flush_) return;
#if defined(__x86_64__)
    saved_ = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(static_cast<unsigned>(saved_) |
                           0x8040u);  // flush to zero, denormals are zero
#elif defined(__aarch64__)
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("msr fpcr, %0" : : "r"(saved_ | (std::uint64_t{1} << 24)));
#endif
  }
  ~FlushDenormals() {
    if (!flush_) return;
#if defined(__x86_64__)
    __builtin_ia32_ldmxcsr(static_cast<unsigned>(saved_));
#elif defined(__aarch64__)
    asm volatile("msr fpcr, %0" : : "r"(saved_));
#endif
  }
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
  bool flush_;
  std::uint64_t saved_ = 0;
};

int from_environment(const char* name) {
  const char* text = std::getenv(name);
  if (text == nullptr) return 0;
  const long value = std::strtol(text, nullptr, 10);
  return value > 0 ? static_cast<int>(std::min<long>(value, kMaxThreads)) : 0;
}

// The state that a team shares. `claim` holds (phase, tiles left): a thread takes a tile by lowering the count of the phase
// that it read, so one that wakes late can never take a tile of another phase.
class Team {
 public:
  Team(PhaseSource& source, int n_threads) : source_(source) {
    const FlushDenormals flush(source.flushes_denormals());
    yield_only_ = static_cast<unsigned>(n_threads) > available_cores();
    advance();
  }

  void work(const Worker& worker) {
    const FlushDenormals flush(source_.flushes_denormals());
    for (;;) {
      std::uint64_t claim = claim_.load(std::memory_order_acquire);
      if (claim == kEnd) return;
      const std::uint64_t left = claim & kCountMask;
      if (left == 0) {
        wait_for_change(claim);
        continue;
      }
      if (!claim_.compare_exchange_weak(claim, claim - 1, std::memory_order_acq_rel)) continue;
      const std::uint64_t n_tiles = n_tiles_;
      run(static_cast<std::size_t>(n_tiles - left), worker);
      if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 == n_tiles) advance();
    }
  }

 private:
  static constexpr std::uint64_t kCountMask = 0xffffffffu;
  static constexpr std::uint64_t kEnd = ~std::uint64_t{0};

  void run(std::size_t tile, const Worker& worker) const {
    for (const Plan& plan : plans_) {
      if (tile < plan.n_tiles) return plan.run(plan.self, tile, worker);
      tile -= plan.n_tiles;
    }
  }

  void advance() noexcept {
    for (;;) {
      if (!source_.next(plans_)) return claim_.store(kEnd, std::memory_order_release);
      n_tiles_ = 0;
      for (const Plan& plan : plans_) n_tiles_ += plan.n_tiles;
      if (n_tiles_ > 0) break;
    }
    done_.store(0, std::memory_order_relaxed);
    phase_ = (phase_ + 1) & 0x7fffffffu;
    claim_.store(phase_ << 32 | n_tiles_, std::memory_order_release);
  }

  void wait_for_change(std::uint64_t seen) const {
    if (!yield_only_) {
      for (int i = 0; i < kSpins; ++i) {
        if (claim_.load(std::memory_order_acquire) != seen) return;
        pause();
      }
    }
    const auto start = std::chrono::steady_clock::now();
    while (claim_.load(std::memory_order_acquire) == seen) {
      std::this_thread::yield();
      if (std::chrono::steady_clock::now() - start > kSleepAfter)
        std::this_thread::sleep_for(kSleep);
    }
  }

  alignas(64) std::atomic<std::uint64_t> claim_{0};
  alignas(64) std::atomic<std::uint64_t> done_{0};
  alignas(64) PhaseSource& source_;
  std::span<const Plan> plans_;
  std::uint64_t n_tiles_ = 0;
  std::uint64_t phase_ = 0;
  bool yield_only_ = false;
};

}  // namespace

int default_threads() {
  if (const int n = from_environment("BPFREE_NUM_THREADS")) return n;
  if (const int n = from_environment("OMP_NUM_THREADS")) return n;
  return static_cast<int>(available_cores());
}

int threads_for(int n_threads, double flops) {
  if (n_threads < 0)
    fail("n_threads is " + std::to_string(n_threads) + ", expected at least 0 (0: the default)");
#if defined(BPFREE_PARALLEL_SERIAL)
  return 1;
#endif
  const int wanted = n_threads > 0 ? n_threads : default_threads();
  const int paid =
      flops >= kFlopsPerThread * wanted ? wanted : static_cast<int>(flops / kFlopsPerThread);
  return std::clamp(paid, 1, wanted);
}

void run_phases(int n_threads, PhaseSource& source, std::span<void* const> scratch) {
  if (forked_child.load(std::memory_order_relaxed)) n_threads = 1;
  if (!scratch.empty()) n_threads = std::min(n_threads, static_cast<int>(scratch.size()));
  n_threads = std::max(n_threads, 1);
  const auto worker = [&](int thread) {
    return Worker{thread, scratch.empty() ? nullptr : scratch[static_cast<std::size_t>(thread)]};
  };
  Team team(source, n_threads);
  if (n_threads == 1) return team.work(worker(0));
#if defined(BPFREE_PARALLEL_OPENMP)
  std::atomic<int> arrived{0};
#pragma omp parallel num_threads(n_threads)
  team.work(worker(arrived.fetch_add(1)));
#elif defined(BPFREE_PARALLEL_THREADS)
  std::vector<std::thread> threads;
  for (int t = 1; t < n_threads; ++t) threads.emplace_back([&, t] { team.work(worker(t)); });
  team.work(worker(0));
  for (std::thread& thread : threads) thread.join();
#else
  team.work(worker(0));
#endif
}

std::string_view parallel_backend() {
#if defined(BPFREE_PARALLEL_OPENMP)
  return "OpenMP";
#elif defined(BPFREE_PARALLEL_THREADS)
  return "std::thread";
#else
  return "serial";
#endif
}

}  // namespace bpfree
