// SPDX-License-Identifier: BSD-3-Clause
// Random streams against Philox4x32-10 written from its definition, at every offset and length around a vector.

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <vector>

#include "check.h"
#include "random/random.h"

namespace bpfree::test {

namespace {

using Words = std::array<std::uint32_t, 4>;

// Salmon et al. 2011, section 3.3: ten rounds, the key bumped between them.
Words naive_philox(Words c, std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53} * c[0];
    const std::uint64_t b = std::uint64_t{0xCD9E8D57} * c[2];
    c = {static_cast<std::uint32_t>(b >> 32) ^ c[1] ^ key[0], static_cast<std::uint32_t>(b),
         static_cast<std::uint32_t>(a >> 32) ^ c[3] ^ key[1], static_cast<std::uint32_t>(a)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return c;
}

constexpr std::uint64_t kSeed = 0x0123456789abcdef;
constexpr std::uint64_t kStream = 0xfedcba9876543210;

// Word i of the public stream: counter (block, stream's low half, high half, 0).
std::uint32_t word(std::uint64_t i) {
  const std::uint64_t block = i / 4;
  const auto low = [](std::uint64_t v) { return static_cast<std::uint32_t>(v); };
  return naive_philox({low(block), low(kStream), low(kStream >> 32), low(block >> 32)},
                      {low(kSeed), low(kSeed >> 32)})[i % 4];
}

// Box-Muller. The radius comes from an odd multiple of 2^-31; of the angle's word the two high bits choose an axis, and the
// others, as a signed number, how far to turn from it.
double naive_normal(std::uint64_t i) {
  const double u = static_cast<double>((word(i / 2 * 2) & 0x7fffffffu) | 1u) * 0x1p-31;
  const std::uint32_t w = word(i / 2 * 2 + 1);
  const double from_axis = static_cast<double>(static_cast<std::int32_t>(w << 2)) * 0x1p-34;
  const double angle = 2 * std::numbers::pi * (static_cast<double>(w >> 30) / 4 + from_axis);
  return std::sqrt(-2 * std::log(u)) * (i % 2 == 0 ? std::cos(angle) : std::sin(angle));
}

constexpr std::array<std::uint64_t, 5> kOffsets = {0, 1, 6, 33, (std::uint64_t{1} << 34) - 9};

void against_the_definition() {
  for (const std::uint64_t offset : kOffsets) {
    for (const std::size_t n : {0, 1, 3, 4, 7, 16, 17, 31, 64, 67, 1000}) {
      std::vector<std::uint32_t> bits(n);
      std::vector<float> uniforms(n);
      std::vector<float> signs(n);
      std::vector<double> normals(n);
      random::random_bits(bits, kSeed, kStream, offset, 2);
      random::uniform(std::span<float>(uniforms), kSeed, kStream, offset, 2);
      random::sign(std::span<float>(signs), kSeed, kStream, offset, 2);
      random::normal(std::span<double>(normals), kSeed, kStream, offset, 2);
      for (std::size_t k = 0; k < n; ++k) {
        const std::uint64_t i = offset + k;
        const bool set = (word(i / 32) >> (i % 32) & 1u) != 0;
        check(bits[k] == word(i), "a word");
        check(uniforms[k] == static_cast<float>(word(i) >> 8) * 0x1p-24f, "a uniform");
        check(signs[k] == (set ? -1.0f : 1.0f), "a sign");
        check(std::abs(normals[k] - naive_normal(i)) < 3e-6, "a normal");
      }
    }
  }
}

void threads_change_no_bit() {
  constexpr std::size_t kN = 300007;
  std::vector<float> first(kN);
  random::normal(std::span<float>(first), kSeed, kStream, 5, 1);
  for (const int n_threads : {2, 3, 7}) {
    std::vector<float> again(kN);
    random::normal(std::span<float>(again), kSeed, kStream, 5, n_threads);
    check(again == first, "the number of threads changed a normal");
  }
}

// A block cut out of a matrix is that part of the whole, and nothing beside it is written.
void blocks_of_a_matrix() {
  constexpr std::size_t kRows = 5;
  constexpr std::size_t kColumns = 37;
  constexpr std::size_t kStride = 40;
  const random::Counter counter{random::Purpose::feedback, 3, 2, 1};
  for (const auto distribution :
       {random::Distribution::uniform, random::Distribution::normal, random::Distribution::sign}) {
    std::vector<float> whole(kRows * kColumns);
    random::matrix_block(whole.data(), kColumns, distribution, 0.5f, kSeed, counter, kColumns, 0,
                         kRows, 0, kColumns);
    for (const std::size_t begin : {0, 1, 5, 32, 36}) {
      std::vector<float> part(kRows * kStride, 9.0f);
      const std::size_t n = kColumns - begin;
      random::matrix_block(part.data(), kStride, distribution, 0.5f, kSeed, counter, kColumns, 1,
                           kRows - 1, begin, n);
      for (std::size_t i = 0; i < kRows; ++i)
        for (std::size_t j = 0; j < kStride; ++j)
          check(part[i * kStride + j] ==
                    (i + 1 < kRows && j < n ? whole[(i + 1) * kColumns + begin + j] : 9.0f),
                "a part of a random matrix");
    }
  }
}

// Sums over members are those of the members' own blocks, in any cut, and nothing beside them is written.
void sums_over_members() {
  constexpr std::size_t kRows = 5;
  constexpr std::size_t kColumns = 300;
  constexpr std::size_t kStride = 304;
  const random::Counter counter{random::Purpose::noise, 3, 2, 0};
  for (const auto distribution : {random::Distribution::normal, random::Distribution::sign})
    for (const std::size_t n_members : {0, 1, 3, 70, 600}) {
      std::vector<std::uint32_t> members(n_members);
      std::vector<float> weights(n_members);
      std::vector<double> expected(kRows * kColumns);
      std::vector<float> block(kRows * kColumns);
      for (std::size_t k = 0; k < n_members; ++k) {
        members[k] = static_cast<std::uint32_t>(7 * k + 1);
        weights[k] = static_cast<float>(k % 5) - 1.75f;
        random::Counter own = counter;
        own.member = members[k];
        random::matrix_block(block.data(), kColumns, distribution, 1, kSeed, own, kColumns, 0,
                             kRows, 0, kColumns);
        for (std::size_t i = 0; i < block.size(); ++i)
          expected[i] += static_cast<double>(weights[k]) * static_cast<double>(block[i]);
      }
      std::vector<float> whole(kRows * kColumns);
      random::accumulate_noise(whole.data(), kColumns,
                               {distribution, kSeed, counter, kColumns, 0, kRows, 0, kColumns},
                               members, weights);
      for (std::size_t i = 0; i < whole.size(); ++i)
        check(std::abs(static_cast<double>(whole[i]) - expected[i]) < 2e-3, "a sum over members");
      for (const std::size_t begin : {0, 1, 5, 32, 127, 256, 299})
        for (const std::size_t n : {std::size_t{1}, std::size_t{32}, kColumns - begin}) {
          if (n > kColumns - begin) continue;
          std::vector<float> part(kRows * kStride, 9.0f);
          const random::NoiseWindow window{distribution, kSeed, counter, kColumns, 1,
                                           kRows - 2,    begin, n};
          random::accumulate_noise(part.data(), kStride, window, members, weights);
          for (int twice = 0; twice < 2; ++twice) {
            for (std::size_t i = 0; i < kRows; ++i)
              for (std::size_t j = 0; j < kStride; ++j) {
                const bool inside = i + 2 < kRows && j < n;
                const float sum = inside ? whole[(i + 1) * kColumns + begin + j] : 9.0f;
                check(std::abs(part[i * kStride + j] - (inside && twice ? 2 * sum : sum)) <=
                          (twice ? 1e-3f : 0.0f),
                      "a part of a sum over members");
              }
            random::accumulate_noise(part.data(), kStride, window, members, weights, true);
          }
        }
    }
}

// Parameters with noise added and taken away, each rounded once; in place too.
void perturbed_blocks() {
  constexpr std::size_t kRows = 6;
  constexpr std::size_t kColumns = 1100;
  const random::Counter counter{random::Purpose::noise, 1, 2, 9};
  for (const auto distribution : {random::Distribution::normal, random::Distribution::sign})
    for (const std::size_t begin : {0, 3, 1060})
      for (const std::size_t n : {0, 1, 17, 32, 40, 1097}) {
        if (begin + n > kColumns) continue;
        const random::NoiseWindow window{distribution, kSeed, counter, kColumns, 1,
                                         kRows - 1,    begin, n};
        std::vector<float> noise(kRows * n), base(kRows * n), plus(kRows * n, 9.0f),
            minus(kRows * n, 9.0f);
        random::matrix_block(noise.data(), n, distribution, 1, kSeed, counter, kColumns, 1,
                             kRows - 1, begin, n);
        for (std::size_t i = 0; i < base.size(); ++i) base[i] = static_cast<float>(i) * 0.25f - 7;
        random::perturb_block(plus.data(), minus.data(), n, base.data(), n, 0.3f, window);
        for (std::size_t i = 0; i < base.size(); ++i) {
          const bool inside = i < (kRows - 1) * n;
          check(plus[i] == (inside ? std::fma(0.3f, noise[i], base[i]) : 9.0f), "plus noise");
          check(minus[i] == (inside ? std::fma(-0.3f, noise[i], base[i]) : 9.0f), "minus noise");
        }
        random::perturb_block(nullptr, base.data(), n, base.data(), n, 0.3f, window);
        check(std::equal(base.begin(), base.begin() + static_cast<std::ptrdiff_t>((kRows - 1) * n),
                         minus.begin()),
              "noise in place");
      }
}

void perturbed_by_low_rank() {
  constexpr std::size_t kRows = 4;
  for (const std::size_t n : {0, 1, 16, 33})
    for (const std::size_t rank : {1, 3}) {
      std::vector<float> left(rank * kRows), right(rank * n), base(kRows * n),
          plus(kRows * n, 9.0f), minus(kRows * n, 9.0f);
      random::normal(std::span<float>(left), 1, 0, 0, 1);
      random::normal(std::span<float>(right), 2, 0, 0, 1);
      random::normal(std::span<float>(base), 3, 0, 0, 1);
      random::perturb_low_rank(plus.data(), minus.data(), n, base.data(), n, 0.3f,
                               {left.data(), kRows, right.data(), n, rank}, kRows, n);
      for (std::size_t i = 0; i < kRows; ++i)
        for (std::size_t j = 0; j < n; ++j) {
          double noise = 0;
          for (std::size_t q = 0; q < rank; ++q)
            noise +=
                static_cast<double>(left[q * kRows + i]) * static_cast<double>(right[q * n + j]);
          const double at = static_cast<double>(base[i * n + j]);
          check(std::abs(static_cast<double>(plus[i * n + j]) - (at + 0.3 * noise)) <
                    2e-6 * (2 + std::abs(noise)),
                "plus low rank");
          check(std::abs(static_cast<double>(minus[i * n + j]) - (at - 0.3 * noise)) <
                    2e-6 * (2 + std::abs(noise)),
                "minus low rank");
        }
    }
}

void permutations() {
  for (const std::size_t n : {0, 1, 2, 17, 1000}) {
    std::vector<std::uint32_t> order(n);
    random::permutation(order.data(), n, kSeed, 3);
    std::sort(order.begin(), order.end());
    for (std::size_t i = 0; i < n; ++i) check(order[i] == i, "not a permutation");
  }
}

}  // namespace

void test_random() {
  check(naive_philox({0, 0, 0, 0}, {0, 0}) == Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
        "the published answer for zeros");
  check(random::philox({1, 2, 3, 4}, {5, 6}) == naive_philox({1, 2, 3, 4}, {5, 6}), "a block");
  against_the_definition();
  threads_change_no_bit();
  blocks_of_a_matrix();
  sums_over_members();
  perturbed_blocks();
  perturbed_by_low_rank();
  permutations();
}

}  // namespace bpfree::test
