// SPDX-License-Identifier: BSD-3-Clause
#include "methods/evolution.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "base/error.h"

namespace bpfree {

using product::kPanel;

namespace {

constexpr std::size_t kHiddenBytes = std::size_t{1}
                                     << 17;  // of a low-rank tile's activations: a part of L2
constexpr std::size_t kTilesPerThread = 4;

// Phases outside of a trainer's run(), with its treatment of denormals: the same bits.
class Outside final : public PhaseSource {
 public:
  void add(const Plan& plan) { plans_.push_back(plan); }

 private:
  bool next(std::span<const Plan>& plans) noexcept override {
    if (index_ == plans_.size()) return false;
    plans = {&plans_[index_++], 1};
    return true;
  }
  bool flushes_denormals() const noexcept override { return true; }

  std::vector<Plan> plans_;
  std::size_t index_ = 0;
};

void check_options(const EvolutionOptions& es, const Network& network) {
  const std::string size = std::to_string(es.population_size);
  if (es.population_size < 2) fail("population_size is " + size + ", expected at least 2");
  if (es.antithetic && es.population_size % 2 != 0)
    fail("population_size is " + size + ", expected an even number: antithetic members are pairs");
  if (es.population_size > std::numeric_limits<std::uint32_t>::max())
    fail("population_size is " + size + ", expected fewer than 2^32");
  const auto positive = [](const char* name, double value) {
    if (!(value > 0) || !std::isfinite(value))
      fail(std::string(name) + " is " + std::to_string(value) +
           ", expected a finite number above 0");
  };
  positive("std", es.std);
  positive("std_decay", es.std_decay);
  if (es.rank == 0) fail("rank is 0, expected at least 1");
  if (es.perturbation != NoiseKind::low_rank && es.rank != 1)
    fail("rank is " + std::to_string(es.rank) + ", which only low_rank noise has");
  const Shaping kind = es.shaping.kind;
  if ((kind == Shaping::pair || kind == Shaping::top_k) && !es.antithetic)
    fail(std::string("fitness_shaping is ") + (kind == Shaping::pair ? "pair" : "top_k") +
         ", which needs antithetic members");
  check_shaping(es.population_size, es.shaping);
  if (es.fitness == Fitness::accuracy && network.loss() == formulas::Loss::squared_error)
    fail("fitness is accuracy, which a squared error does not have: expected loss");
  if (network.has_heads()) fail("evolution strategies train a network without heads");
}

}  // namespace

Evolution::Evolution(Network& network, const TrainerOptions& options,
                     const EvolutionOptions& evolution)
    : Trainer(network, options), es_(evolution), n_noises_(evolution.population_size / n_sides()) {
  check_options(es_, network);
  team_ = threads_for(options.n_threads, static_cast<double>(network.n_params()) *
                                             static_cast<double>(options.batch_size) *
                                             static_cast<double>(es_.population_size));
  const std::size_t wanted =
      divide_up(n_noises_, kTilesPerThread * static_cast<std::size_t>(team_));
  group_ = std::clamp(wanted, std::size_t{1}, std::max(kPanel / es_.rank, std::size_t{1}));
  base_ = Buffer<float>(checked_product(padded_batch_, base_stride()));
  fitness_ = Buffer<double>(es_.population_size);
  noise_index_.resize(n_noises_);
  for (std::size_t k = 0; k < n_noises_; ++k) noise_index_[k] = static_cast<std::uint32_t>(k);
  weights_.resize(n_noises_);
  utilities_.resize(es_.population_size);
  plan_memory();
  plan_update();
}

void Evolution::plan_memory() {
  const std::vector<Layer>& layers = network_.layers();
  std::size_t widest = 0, deepest = 0;
  for (std::size_t l = 0; l + 1 < layers.size(); ++l) widest = std::max(widest, h_stride(l));
  for (std::size_t l = 1; l < layers.size(); ++l) deepest = std::max(deepest, layers[l].n_in);
  const std::size_t n_in = layers[0].n_in, per_word = kernels_.depth_per_word;
  tile_rows_ = padded_batch_;
  if (low_rank()) {
    const std::size_t row_bytes = 2 * n_sides() * std::max(widest, kPanel) * element_;
    const std::size_t n_blocks =
        std::max<std::size_t>(kHiddenBytes / row_bytes / kernels_.tile_rows, 1);
    tile_rows_ = std::min(n_blocks * kernels_.tile_rows, padded_batch_);
  }
  std::size_t size = 0;
  const auto place = [&](std::size_t n, std::size_t element) {
    const std::size_t offset = size;
    size += round_up(checked_product(n, element), 64);
    return offset;
  };
  for (std::size_t side = 0; side < n_sides(); ++side) {
    for (std::size_t i = 0; i < 2; ++i)
      layout_.h[i][side] = place(checked_product(tile_rows_, widest), element_);
    layout_.logits[side] = place(checked_product(tile_rows_, padded(layers.size() - 1)), 4);
    layout_.row_loss[side] = place(padded_batch_, 4);
  }
  if (low_rank()) {
    const std::size_t columns = group_ * es_.rank;
    layout_.noise = place(checked_product(columns, n_in), 4);
    layout_.panel[0] = place(checked_product(divide_up(n_in, per_word), kPanel), 4);
    layout_.panel[1] = place(bf16() ? checked_product(kPanel, n_in + 1) : 0, 2);
    layout_.z = place(checked_product(padded_batch_, round_up(columns, kPanel)), 4);
    std::size_t right = 0, left = 0, bias = 0;
    for (std::size_t l = 0; l < layers.size(); ++l) {
      factors_.push_back({right, left, bias});
      right += es_.rank * padded(l);
      if (!is_output(l)) left += es_.rank * padded(l);
      bias += n_sides() * padded(l);
    }
    layout_.right = place(right, 4);
    layout_.left = place(left, 4);
    layout_.bias = place(bias, 4);
    for (std::size_t side = 0; side < n_sides(); ++side) {
      layout_.factors[side] = place(checked_product(tile_rows_, es_.rank), 4);
      layout_.sums[side] = place(checked_product(tile_rows_, es_.rank, product::kSumLanes), 4);
    }
  } else {
    const std::size_t rows = bf16() ? kNoiseRows : n_in;
    layout_.noise = place(rows * kPanel, 4);
    const std::size_t pairs = divide_up(std::max(deepest, n_in), 2);
    layout_.panel[0] = place((bf16() ? pairs : deepest) * kPanel, 4);
    layout_.panel[1] = place((bf16() ? padded_batch_ : deepest) * kPanel, 4);
    layout_.bias = place(2 * kPanel, 4);
  }
  scratch_size_ = size;
}

std::size_t Evolution::columns_of(std::size_t layer, std::size_t panel) const {
  return std::min(kPanel, network_.layers()[layer].n_out - panel * kPanel);
}

random::Counter Evolution::counter(random::Purpose purpose, std::size_t tensor,
                                   std::size_t noise) const {
  return {purpose, static_cast<std::uint32_t>(tensor), static_cast<std::uint32_t>(step()),
          static_cast<std::uint32_t>(noise)};
}

void Evolution::prepare_epoch() {
  std_ = static_cast<float>(es_.std * std::pow(es_.std_decay, static_cast<double>(epoch().epoch)));
  if (!(std_ > 0) || !std::isfinite(std_))
    fail("std of epoch " + std::to_string(epoch().epoch) + " is " + std::to_string(std_) +
         ": std_decay is " + std::to_string(es_.std_decay));
  generations_.clear();
  generations_.reserve(steps_in_epoch());
  is_given_ = false;
  for (const std::size_t n : {options_.batch_size, tail_rows()})
    for (const std::size_t rows : {n, std::min(n, tile_rows_), n % tile_rows_}) add_blocks(rows);
}

void Evolution::add_blocks(std::size_t rows) {
  if (rows > 0) blocks_.try_emplace(rows, product::row_blocks(rows, kernels_.tile_rows));
}

void Evolution::before_step() {
  has_base_ = false;
  all_bad_ = false;
  if (probe_ != nullptr) backprop_gradient();
}

Plan Evolution::base_plan() const {
  return {network_.layers()[0].n_panels,
          [](const void* self, std::size_t panel, const Worker&) { self_of(self).base(panel); },
          &self_stage_};
}

Plan Evolution::member_plan(std::size_t first_noise, std::size_t end_noise) {
  first_noise_ = first_noise;
  end_noise_ = end_noise;
  return {divide_up(end_noise - first_noise, low_rank() ? group_ : 1),
          [](const void* self, std::size_t tile, const Worker& worker) {
            self_of(self).members(tile, worker);
          },
          &self_stage_};
}

bool Evolution::build_phase(std::size_t index) {
  if (is_given_) index += 2;
  switch (index) {
    case 0:
      outputs_ = {};
      if (!has_base_) add(base_plan());
      has_base_ = true;
      return true;
    case 1:
      add(member_plan(0, n_noises_));
      return true;
    case 2:
      shape();
      if (!all_bad_)
        add({update_tiles_.size(),
             [](const void* self, std::size_t tile, const Worker& worker) {
               self_of(self).update_tile(tile, worker);
             },
             &self_stage_});
      add_gather_next();
      return true;
    default:
      report();
      is_given_ = false;
      return false;
  }
}

void Evolution::after_run() {
  if (!all_bad_) return;
  all_bad_ = false;
  fail("all " + std::to_string(es_.population_size) + " members of generation " +
       std::to_string(step() - 1) + " have a fitness that is NaN or infinite: nothing was learned");
}

std::span<const std::uint32_t> Evolution::next_batch() {
  const RunGuard guard(*this);
  if (!start_batch()) return {};
  return {batch_order(), n_};
}

void Evolution::evaluate(std::size_t first_member, std::size_t n_members, float* out, bool logits) {
  const RunGuard guard(*this);
  if (!has_batch()) fail("there is no batch to evaluate: next_batch() comes first");
  if (first_member > es_.population_size || n_members > es_.population_size - first_member)
    fail("members " + std::to_string(first_member) + " to " +
         std::to_string(first_member + n_members) + " were asked for, the population has " +
         std::to_string(es_.population_size));
  if (n_members == 0) return;
  outputs_ = {out, first_member, n_members, logits};
  Outside phases;
  if (!has_base_) phases.add(base_plan());
  phases.add(member_plan(first_member / n_sides(), divide_up(first_member + n_members, n_sides())));
  run_phases(team_, phases, scratch());
  has_base_ = true;
  outputs_ = {};
}

void Evolution::update(std::span<const double> fitness) {
  if (!has_batch()) fail("there is no batch to update with: next_batch() comes first");
  if (fitness.size() != es_.population_size)
    fail("fitness has " + std::to_string(fitness.size()) + " values, the population has " +
         std::to_string(es_.population_size));
  if (std::none_of(fitness.begin(), fitness.end(), [](double f) { return std::isfinite(f); }))
    fail("fitness is NaN or infinite for all " + std::to_string(fitness.size()) + " members");
  std::copy(fitness.begin(), fitness.end(), fitness_.begin());
  is_given_ = true;
  run(0);
}

}  // namespace bpfree
