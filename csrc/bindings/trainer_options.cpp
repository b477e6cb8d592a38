// SPDX-License-Identifier: BSD-3-Clause
#include "bindings/trainer_options.h"

#include "bindings/bindings.h"

namespace bpfree::bindings {

FeedbackOptions feedback_options(const std::string& rule, const std::string& error_signal,
                                 const std::string& distribution, double scale) {
  FeedbackOptions options;
  options.rule =
      named<FeedbackRule, 8>("feedback", rule,
                             {{{"direct", FeedbackRule::direct},
                               {"layerwise", FeedbackRule::layerwise},
                               {"sign_symmetric", FeedbackRule::sign_symmetric},
                               {"sign_symmetric_batchwise", FeedbackRule::sign_symmetric_batchwise},
                               {"sign_symmetric_fixed", FeedbackRule::sign_symmetric_fixed},
                               {"kolen_pollack", FeedbackRule::kolen_pollack},
                               {"direct_kolen_pollack", FeedbackRule::direct_kolen_pollack},
                               {"target", FeedbackRule::target}}});
  options.error_signal = named<ErrorSignal, 2>(
      "error_signal", error_signal, {{{"exact", ErrorSignal::exact}, {"sign", ErrorSignal::sign}}});
  options.distribution = distribution_named("feedback_distribution", distribution);
  options.scale = static_cast<float>(scale);
  return options;
}

ForwardForwardOptions forward_forward_options(const std::string& goodness, const std::string& loss,
                                              const std::string& label_position,
                                              const std::string& negatives,
                                              std::optional<double> threshold, double temperature,
                                              double symba_scale, double peer_normalization) {
  using formulas::Goodness, formulas::GoodnessLoss;
  ForwardForwardOptions options;
  options.goodness = named<Goodness, 4>("goodness", goodness,
                                        {{{"sum", Goodness::sum},
                                          {"mean", Goodness::mean},
                                          {"grouped_squares", Goodness::grouped_squares},
                                          {"grouped_mean", Goodness::grouped_mean}}});
  options.loss = named<GoodnessLoss, 2>(
      "goodness_loss", loss,
      {{{"logistic", GoodnessLoss::logistic}, {"symba", GoodnessLoss::symba}}});
  options.label_position = named<LabelPosition, 3>("label_position", label_position,
                                                   {{{"append", LabelPosition::append},
                                                     {"overwrite", LabelPosition::overwrite},
                                                     {"none", LabelPosition::none}}});
  options.negatives = named<Negatives, 3>(
      "negatives", negatives,
      {{{"random", Negatives::random}, {"hard", Negatives::hard}, {"given", Negatives::given}}});
  if (threshold) options.threshold = static_cast<float>(*threshold);
  options.temperature = static_cast<float>(temperature);
  options.symba_scale = static_cast<float>(symba_scale);
  options.peer_normalization = static_cast<float>(peer_normalization);
  return options;
}

LocalLossOptions local_loss_options(const std::string& kind, double similarity_weight,
                                    bool sim_projection, bool batch_normalization, double dropout) {
  LocalLossOptions options;
  options.kind = named<LocalLossKind, 3>("local_loss", kind,
                                         {{{"pred", LocalLossKind::pred},
                                           {"sim", LocalLossKind::sim},
                                           {"predsim", LocalLossKind::predsim}}});
  options.similarity_weight = static_cast<float>(similarity_weight);
  options.sim_projection = sim_projection;
  options.batch_normalization = batch_normalization;
  options.dropout = static_cast<float>(dropout);
  return options;
}

EvolutionOptions evolution_options(std::int64_t population_size, double std, double std_decay,
                                   const std::string& perturbation, std::int64_t rank,
                                   bool antithetic, const std::string& fitness_shaping,
                                   std::int64_t top_k, std::int64_t group_size,
                                   const std::string& fitness) {
  if (population_size < 2)
    fail("population_size is " + std::to_string(population_size) + ", expected at least 2");
  if (rank < 1) fail("rank is " + std::to_string(rank) + ", expected at least 1");
  EvolutionOptions options;
  options.population_size = static_cast<std::size_t>(population_size);
  options.std = std;
  options.std_decay = std_decay;
  options.perturbation = named<NoiseKind, 3>("perturbation", perturbation,
                                             {{{"gaussian", NoiseKind::gaussian},
                                               {"rademacher", NoiseKind::rademacher},
                                               {"low_rank", NoiseKind::low_rank}}});
  options.rank = static_cast<std::size_t>(rank);
  options.antithetic = antithetic;
  options.shaping.kind = named<Shaping, 6>("fitness_shaping", fitness_shaping,
                                           {{{"centered_rank", Shaping::centered_rank},
                                             {"nes", Shaping::nes},
                                             {"z_score", Shaping::z_score},
                                             {"group", Shaping::group},
                                             {"pair", Shaping::pair},
                                             {"top_k", Shaping::top_k}}});
  if (top_k < 0) fail("top_k is " + std::to_string(top_k) + ", expected at least 0");
  options.shaping.top_k = static_cast<std::size_t>(top_k);
  if (group_size < 0) fail("group_size is " + std::to_string(group_size) + ", expected at least 0");
  options.shaping.group_size = static_cast<std::size_t>(group_size);
  options.fitness = named<Fitness, 2>("fitness", fitness,
                                      {{{"loss", Fitness::loss}, {"accuracy", Fitness::accuracy}}});
  return options;
}

NoPropOptions noprop_options(const std::string& variant, const std::string& block_feedback,
                             const std::vector<double>& alpha_bar, const std::string& schedule,
                             double eta, double max_snr_weight, std::int64_t embedding_dim,
                             bool learn_embedding, bool batch_normalization) {
  if (embedding_dim < 0)
    fail("embedding_dim is " + std::to_string(embedding_dim) + ", expected at least 0");
  NoPropOptions options;
  options.variant = named<NoPropVariant, 3>(
      "variant", variant,
      {{{"dt", NoPropVariant::dt}, {"ct", NoPropVariant::ct}, {"fm", NoPropVariant::fm}}});
  options.feedback =
      named<bool, 2>("block_feedback", block_feedback, {{{"exact", false}, {"direct", true}}});
  options.alpha_bar = alpha_bar;
  options.learn_schedule = schedule == "learned";
  if (!options.learn_schedule)
    options.schedule = named<NoiseSchedule, 2>(
        "noise_schedule", schedule,
        {{{"cosine", NoiseSchedule::cosine}, {"linear", NoiseSchedule::linear}}});
  options.eta = eta;
  options.max_snr_weight = max_snr_weight;
  options.embedding_dim = static_cast<std::size_t>(embedding_dim);
  options.learn_embedding = learn_embedding;
  options.batch_normalization = batch_normalization;
  return options;
}

EnsembleKalmanOptions kalman_options(std::int64_t n_ens, const std::string& update,
                                     bool squared_error, bool gauss_newton, double obs_noise_var,
                                     double spread, bool redraw) {
  if (n_ens < 2) fail("n_ens is " + std::to_string(n_ens) + ", expected at least 2");
  return {.n_ens = static_cast<std::size_t>(n_ens),
          .method = named<EnsembleMethod, 4>("update", update,
                                             {{{"eki", EnsembleMethod::eki},
                                               {"etki", EnsembleMethod::etki},
                                               {"denkf", EnsembleMethod::denkf},
                                               {"enkf", EnsembleMethod::enkf}}}),
          .squared_error = squared_error,
          .gauss_newton = gauss_newton,
          .obs_noise_var = obs_noise_var,
          .spread = spread,
          .redraw = redraw};
}

}  // namespace bpfree::bindings
