// SPDX-License-Identifier: BSD-3-Clause
// What the blocks of NoProp have in common: how much noise is in a label, how estimates of it are put together, and the error
// of such an estimate.
//
// Noise:  z_t = sqrt(alpha_bar_t) u_y + sqrt(1 - alpha_bar_t) eps,   alpha_bar from 0 (noise) up to 1 (the label).
// Step:   z_t = a_t u^ + b_t z_{t-1} (+ sqrt(c_t) eps): the posterior q(z_t | z_{t-1}, u^).
// Head:   u^ = p W with p = softmax(logits) and W the class embeddings; loss = w |u^ - target|^2,
//         d loss / d logits = p * (s - <p, s>),   s = 2 w W (u^ - target); without softmax it is s.
// Shapes: W [n_classes, dim], row-major; u^ and target [dim]; logits, p and s [n_classes].
// Source: Li, Teh & Pascanu 2025, arXiv:2503.24322, equations 3 to 8 and appendix A.
#pragma once

#include <cstddef>
#include <vector>

namespace bpfree {

enum class NoPropVariant { dt, ct, fm };  // discrete time, continuous time, flow matching
enum class NoiseSchedule { cosine, linear };

inline constexpr double kAlphaBarMax = 0.99;  // where the signal-to-noise ratio is cut off

// alpha_bar_0 .. alpha_bar_n, at most kAlphaBarMax: sin^2(pi t / 2 n), or t / n.
std::vector<double> noise_schedule(NoiseSchedule kind, std::size_t n_blocks);
// Fails unless there are at least 3 values from 0 to 1, each above the one before.
void check_noise_schedule(const std::vector<double>& alpha_bar);

struct PosteriorCoefficients {
  double a, b, c;
};
// Of blocks 1 .. n, from alpha_bar_0 .. alpha_bar_n. Where alpha_bar_n is 1 the last block has a = 1 and b = c = 0.
std::vector<PosteriorCoefficients> posterior_coefficients(const std::vector<double>& alpha_bar);

// Weights of the blocks' losses: n eta / 2 times the step of the signal-to-noise ratio alpha_bar / (1 - alpha_bar), with
// alpha_bar cut off at kAlphaBarMax. A step that lies beyond it altogether counts as the last one before.
std::vector<double> snr_weights(const std::vector<double>& alpha_bar, double eta);

// Continuous time t in [0, 1]: alpha_bar(t) = kAlphaBarMax times sin^2(pi t / 2), or t.
double alpha_bar_at(NoiseSchedule kind, double t);
// d (alpha_bar / (1 - alpha_bar)) / d t
double snr_derivative(NoiseSchedule kind, double t);

// The head of an estimate. embedding null: one-hot, the identity.
struct DenoisingHead {
  const float* embedding;
  std::size_t n_classes;
  std::size_t dim;
  bool softmax;
};

// out [dim] = p W.
void embed(float* out, const DenoisingHead& head, const float* p);
// error = d loss / d logits of one row, from p (or the logits themselves, without softmax); returns the loss. `scratch` holds
// dim floats, and afterwards u^ - target.
float denoising_error(float* error, const DenoisingHead& head, const float* p, const float* target,
                      float weight, float* scratch);

}  // namespace bpfree
