// SPDX-License-Identifier: BSD-3-Clause
// The names that Python gives a method's options, as the core's enums.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "methods/ensemble_kalman.h"
#include "methods/evolution.h"
#include "methods/feedback.h"
#include "methods/forward_forward.h"
#include "methods/local_loss.h"
#include "methods/noprop.h"

namespace bpfree::bindings {

FeedbackOptions feedback_options(const std::string& rule, const std::string& error_signal,
                                 const std::string& distribution, double scale);

ForwardForwardOptions forward_forward_options(const std::string& goodness, const std::string& loss,
                                              const std::string& label_position,
                                              const std::string& negatives,
                                              std::optional<double> threshold, double temperature,
                                              double symba_scale, double peer_normalization);

LocalLossOptions local_loss_options(const std::string& kind, double similarity_weight,
                                    bool sim_projection, bool batch_normalization, double dropout);

EvolutionOptions evolution_options(std::int64_t population_size, double std, double std_decay,
                                   const std::string& perturbation, std::int64_t rank,
                                   bool antithetic, const std::string& fitness_shaping,
                                   std::int64_t top_k, std::int64_t group_size,
                                   const std::string& fitness);

NoPropOptions noprop_options(const std::string& variant, const std::string& block_feedback,
                             const std::vector<double>& alpha_bar, const std::string& schedule,
                             double eta, double max_snr_weight, std::int64_t embedding_dim,
                             bool learn_embedding, bool batch_normalization);

EnsembleKalmanOptions kalman_options(std::int64_t n_ens, const std::string& update,
                                     bool squared_error, bool gauss_newton, double obs_noise_var,
                                     double spread, bool redraw);

}  // namespace bpfree::bindings
