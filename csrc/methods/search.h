// SPDX-License-Identifier: BSD-3-Clause
// Search distributions with a mean and a deviation for each parameter: members made from a seed, the sums over a population that
// a step of PGPE takes, and whole steps of SNES and sep-CMA-ES. No noise is stored: all make it where they use it.
//
// Shapes: n_params parameters, one tensor; out [n, n_params]; mean, scale, first, second [n_params].
// Noise:  Philox, c1 = member, c2 = generation, purpose noise, tensor 0; with `antithetic` c1 = member / 2, members
//         2 k and 2 k + 1 have eps_k and -eps_k.
// Source: Wierstra et al. 2014 (JMLR 15), algorithms 1 and 6; Ros & Hansen 2008; Sehnke et al. 2010.
// Cost:   one normal for each number of a member (of a pair with `antithetic`), in both directions; memory: a tile a thread.
// Result: the same bits for any number of threads, any choice of members, and any instruction set: sums go over members in
//         ascending order, one fused multiply-add each. float is the float of the double's noise, but not of its sums.
// Tried:  keeping the noise of ask() for tell(): 10 % of a generation at 1,000 parameters and 50 members, for a population's
//         memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/view.h"
#include "random/random.h"

namespace bpfree {

struct SearchNoise {
  std::uint64_t seed = 0;
  std::uint32_t generation = 0;
  random::Distribution kind = random::Distribution::normal;  // or sign
  bool antithetic = false;
};

// out row i = mean + std * scale * eps of members[i]; a null scale is 1. One member may be written over the mean.
template <class T>
void search_members(MatrixView<T> out, const T* mean, const T* scale, T std,
                    const SearchNoise& noise, std::span<const std::uint32_t> members,
                    int n_threads);

// first = sum_i u_i eps_i and, where `second` is not null, second = sum_i v_i eps_i^2, over members 0, 1, ...
template <class T>
void search_sums(std::span<T> first, T* second, std::span<const T> u, std::span<const T> v,
                 const SearchNoise& noise, int n_threads);

// A generation of SNES: mean += rate std s (sum u z), s *= exp(std_rate / 2 sum u (z^2 - 1)), with s = relative_std.
// Returns the norm of std s (sum u z); NaN when the state is no longer finite.
double snes_step(std::span<double> mean, double* relative_std, std::span<const double> u,
                 double std, double rate, double std_rate, const SearchNoise& noise, int n_threads);

struct SepCmaConstants {
  double mu_eff, c_path_std, damping, c_path, c_one, c_mu, expected_norm;
};

// A generation of sep-CMA-ES: D = relative_std, weights by member; `std` is changed. Returns the norm of the mean's move; NaN
// when the state is no longer finite.
double sep_cma_step(std::span<double> mean, double* relative_std, double* path_std, double* path,
                    double& std, std::span<const double> weights, const SepCmaConstants& constants,
                    const SearchNoise& noise, int n_threads);

}  // namespace bpfree
