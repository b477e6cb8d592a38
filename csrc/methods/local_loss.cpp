// SPDX-License-Identifier: BSD-3-Clause
#include "methods/local_loss.h"

#include <algorithm>
#include <numeric>
#include <string>

#include "base/error.h"

namespace bpfree {

using product::kPanel;

namespace {

std::vector<std::size_t> hidden_layers(const Network& network) {
  std::vector<std::size_t> layers(std::max(network.layers().size(), std::size_t{1}) - 1);
  std::iota(layers.begin(), layers.end(), std::size_t{0});
  return layers;
}

}  // namespace

LocalLoss::LocalLoss(Network& network, const TrainerOptions& options,
                     const LocalLossOptions& local_loss)
    : DenseTrainer(network, options),
      local_(local_loss),
      norms_(network,
             local_loss.batch_normalization ? hidden_layers(network) : std::vector<std::size_t>{},
             options.optimizer.solver) {
  const std::size_t n_outputs = network.n_outputs();
  if (n_layers() < 2) fail("local losses need at least 1 hidden layer, got 0");
  if (!(local_.similarity_weight >= 0 && local_.similarity_weight <= 1))
    fail("similarity_weight is " + std::to_string(local_.similarity_weight) +
         ", expected a number from 0 to 1");
  if (!(local_.dropout >= 0 && local_.dropout < 1))
    fail("dropout is " + std::to_string(local_.dropout) + ", expected at least 0 and below 1");
  if (has_sim() && n_outputs < 2)
    fail("a similarity of targets needs at least 2 outputs, got " + std::to_string(n_outputs));
  if (has_pred() && n_hidden() > 1 && network.first_head() != 0)
    fail("the local losses 'pred' and 'predsim' need a network with first_head=0");
  if (!has_pred() && !network.heads().empty())
    fail("the local loss 'sim' trains no heads but the output layer: expected a network with " +
         std::string("first_head=None"));
  const std::size_t batch = padded_batch_;
  const bool projects = has_sim() && local_.sim_projection;
  for (std::size_t l = 0; l < n_hidden(); ++l) {
    const Layer& y = network.layers()[l];
    LayerState s;
    const std::size_t similarity = !has_sim() ? 0 : projects ? y.n_panels : batch / kPanel;
    s.signal = Buffer<float>(checked_product(error_panels(l) + similarity, error_panel_stride()));
    if (has_pred())
      s.head_feedback = Buffer<float>(checked_product(y.n_panels * kPanel, head_depth()));
    s.head_loss = Buffer<float>(batch);
    if (has_sim()) {
      s.similarity_loss = Buffer<float>(batch);
      s.mean = Buffer<float>(batch);
      s.inverse_norm = Buffer<float>(batch);
    }
    if (projects) s.z = Buffer<float>(checked_product(batch, row_stride(y.n_out, sizeof(float))));
    if (local_.dropout > 0 && l + 1 < n_hidden()) {
      s.dropped = Buffer<char>(checked_product(batch, hidden_stride(l), element_));
      s.packed = Buffer<char>(checked_product(batch, y.n_out, element_));
    }
    if (local_.batch_normalization) {
      s.normalized = Buffer<float>(checked_product(batch, y.n_panels * kPanel));
      s.factor = Buffer<float>(y.n_panels * kPanel);
    }
    // Several tiles that update a panel would each make its delta, whose product is as deep as the batch.
    if (has_sim() && update_tiling(l, y.n_out).n_groups > 1)
      s.delta = Buffer<float>(checked_product(y.n_panels, delta_size()));
    layer_.push_back(std::move(s));
  }
  error_ = {};  // every layer has its own
  if (has_sim()) {
    for (std::size_t k = 1; k <= batch / kPanel; ++k)
      gram_blocks_.push_back(product::row_blocks(k * kPanel, kernels_.tile_rows));
    target_cosines_ = Buffer<float>(checked_product(batch, batch));
    if (network.loss() == formulas::Loss::softmax_cross_entropy) {
      labels_ = Buffer<std::int32_t>(batch);
    } else {
      target_rows_ = Buffer<float>(checked_product(batch, row_stride(n_outputs, sizeof(float))));
      target_panels_ = Buffer<float>(checked_product(batch, n_outputs));
    }
    for (Buffer<float>& p : products_) p = Buffer<float>(target_cosines_.size());
    for (Buffer<float>& f : factors_) f = Buffer<float>(projects ? target_cosines_.size() : 0);
  }
  if (has_sim() || local_.batch_normalization) weight_ = Buffer<float>(batch);
  if (projects) make_projections();
}

std::size_t LocalLoss::head_of(std::size_t layer) const {
  return layer + 1 == n_hidden() ? n_layers() - 1 : n_layers() + layer;
}

std::size_t LocalLoss::hidden_of(std::size_t head) const {
  return head < n_layers() ? n_hidden() - 1 : head - n_layers();
}

float LocalLoss::weight_of_sim() const {
  return local_.kind == LocalLossKind::predsim ? local_.similarity_weight : 1.0f;
}

std::size_t LocalLoss::head_depth() const {
  if (!has_pred()) return 0;
  // What follows e in the signal begins with a panel of its own.
  return has_sim() ? round_up(network_.n_outputs(), kPanel) : network_.n_outputs();
}

void LocalLoss::set_stage(std::optional<std::size_t> stage) {
  if (stage && *stage >= n_hidden())
    fail("stage is " + std::to_string(*stage) + ", expected a hidden layer below " +
         std::to_string(n_hidden()));
  if (stage != only_) drop_cache();
  only_ = stage;
}

void LocalLoss::check_target(const TrainingData& data) const {
  Trainer::check_target(data);
  if (data.x_negative.data != nullptr)
    fail("x_negative was given, but local losses have no use for it");
}

void LocalLoss::prepare_epoch() {
  DenseTrainer::prepare_epoch();
  norms_.drop_folded();  // its memory: the first step makes it useless
  start_cache();
  build_schedule();
}

void LocalLoss::start_cache() {
  reads_cache_ = fills_cache_ = false;
  if (!caches_ || !only_ || *only_ == 0) return drop_cache();
  const std::size_t rows = data().x.rows;
  const bool same = cache_.data == data().x.data && cache_.rows == rows && cache_.stage == *only_;
  if (same && cache_.n_done == rows) {
    reads_cache_ = true;
    return;
  }
  // An epoch that was stopped leaves rows out: it is filled anew.
  fills_cache_ = true;
  const std::size_t bytes = checked_product(rows, hidden_stride(*only_ - 1), element_);
  if (!same || cache_.values.bytes() != bytes) cache_.values = Buffer<char>::uninitialized(bytes);
  cache_.data = data().x.data;
  cache_.rows = rows;
  cache_.stage = *only_;
  cache_.n_done = 0;
}

// What a layer needs after its forward product runs beside the products of the layers above.
void LocalLoss::build_schedule() {
  schedule_.clear();
  const auto at = [&](std::size_t phase) -> std::vector<Action>& {
    if (schedule_.size() <= phase) schedule_.resize(phase + 1);
    return schedule_[phase];
  };
  const std::size_t last = only_ ? *only_ : n_hidden() - 1;
  const std::size_t first = reads_cache_ ? last : 0;
  if (reads_cache_) at(0).push_back({Do::read_cache, first - 1});
  if (has_sim() && labels_.size() == 0) at(0).push_back({Do::center_targets, 0});
  if (has_sim()) at(1).push_back({Do::targets, 0});
  std::size_t p = reads_cache_ ? 1 : 0;  // of the layer's forward product
  for (std::size_t l = first; l <= last; ++l, ++p) {
    at(p).push_back({Do::forward, l});
    if (fills_cache_ && l + 1 == last) at(p + 1).push_back({Do::fill_cache, l});
    if (!trains(l)) continue;
    at(p).push_back({Do::pack, l});
    const std::size_t head = head_of(l);
    if (has_head(l)) at(p + 1).push_back({Do::forward, head});
    if (has_pred()) at(p + 1).push_back({Do::keep_head, l});
    // Where the layer above reads the same rows, its pack serves the head too.
    if ((has_head(l) || n_projections() > 0) && (l == last || is_dropped(l)))
      at(p + 1).push_back({Do::pack, head});
    std::size_t update = p + 2;
    if (has_sim()) {
      std::size_t gram = p + 1;
      if (n_projections() > 0) at(gram++).push_back({Do::project, l});
      at(gram).push_back({Do::gram, l});
      at(gram + 1).push_back({Do::similarity, l});
      update = gram + 2;
      if (n_projections() > 0) at(update++).push_back({Do::project_back, l});
    }
    if (layer_[l].delta.size() > 0) at(update++).push_back({Do::keep_delta, l});
    at(update).push_back({Do::update, l});
    if (has_head(l)) at(p + 2).push_back({Do::update, head});
    if (n_projections() > 0) at(update + 1).push_back({Do::update_projection, l});
  }
  if (!reads_cache_) schedule_.back().push_back({Do::gather_next, 0});
}

bool LocalLoss::build_phase(std::size_t index) {
  if (index == schedule_.size()) {
    sum_losses();
    return false;
  }
  for (const Action& action : schedule_[index]) add_action(action);
  return true;
}

void LocalLoss::add_action(const Action& action) {
  const std::size_t l = action.index;
  const auto panels = [&] { return network_.layer(l).n_panels; };
  switch (action.what) {
    case Do::forward:
      return add_forward(l);
    case Do::pack:
      return add_pack(l);
    case Do::update:
      return add_update(l);
    case Do::gather_next:
      return add_gather_next();
    case Do::read_cache:
      return add(
          divide_up(n_, kCacheRows),
          [](const void* self, std::size_t tile, const Worker& worker) {
            self_of(self).read_cache(stage(self).layer, tile * kCacheRows, worker);
          },
          l);
    case Do::fill_cache:
      cache_.n_done += n_;
      return add(
          divide_up(n_, kCacheRows),
          [](const void* self, std::size_t tile, const Worker&) {
            self_of(self).fill_cache(stage(self).layer, tile * kCacheRows);
          },
          l);
    case Do::center_targets:
      return add(
          batch_panels(),
          [](const void* self, std::size_t panel, const Worker&) {
            self_of(self).center_targets(panel);
          },
          l);
    case Do::targets:
      return add(
          batch_panels(),
          [](const void* self, std::size_t panel, const Worker&) {
            self_of(self).target_cosines(panel);
          },
          l);
    case Do::keep_head:
      return add(
          panels(),
          [](const void* self, std::size_t panel, const Worker&) {
            self_of(self).keep_head(stage(self).layer, panel);
          },
          l);
    case Do::project:
      return add(
          row_tiling(network_.layer(l).n_out, panels()).n_groups * panels(),
          [](const void* self, std::size_t tile, const Worker&) {
            self_of(self).project(stage(self).layer, tile);
          },
          l);
    case Do::gram:
      return add(
          batch_panels(),
          [](const void* self, std::size_t tile, const Worker& worker) {
            self_of(self).gram(stage(self).layer, tile, worker);
          },
          l);
    case Do::similarity:
      return add(
          divide_up(n_, kSimilarityRows),
          [](const void* self, std::size_t tile, const Worker&) {
            self_of(self).similarity(stage(self).layer, tile * kSimilarityRows);
          },
          l);
    case Do::project_back:
      return add(
          panels(),
          [](const void* self, std::size_t panel, const Worker& worker) {
            self_of(self).project_back(stage(self).layer, panel, worker);
          },
          l);
    case Do::keep_delta:
      return add(
          panels(),
          [](const void* self, std::size_t panel, const Worker& worker) {
            self_of(self).keep_delta(stage(self).layer, panel, worker);
          },
          l);
    case Do::update_projection:
      return add(
          update_tiling(head_of(l), network_.layer(l).n_out).n_groups * panels(),
          [](const void* self, std::size_t tile, const Worker& worker) {
            self_of(self).update_projection(stage(self).layer, tile, worker);
          },
          l);
  }
}

std::vector<Trainer::StateArray> LocalLoss::state_arrays() const {
  std::vector<StateArray> arrays = Trainer::state_arrays();
  for (const Layer& v : projections_)
    for (int i = 0; i < projection_state_.n_slots(); ++i)
      arrays.push_back({projection_state_.slot(i) + v.weights, v.n_in, v.n_out});
  norms_.append_state(arrays);
  return arrays;
}

std::size_t LocalLoss::extra_scratch_bytes() const {
  std::size_t widest = 0;
  for (std::size_t l = 0; l < n_hidden(); ++l)
    widest = std::max(widest, network_.layers()[l].n_out);
  // Of an update: the gradient before batch normalization, and the feedback. Of the others: a panel of centred rows, or of
  // random numbers.
  const std::size_t norm = 1 + (norms_.empty() ? 0 : padded_batch_);
  const std::size_t similarity = !has_sim()            ? 0
                                 : n_projections() > 0 ? std::max(widest, padded_batch_)
                                                       : padded_batch_;
  const std::size_t rows = std::max(norm + head_depth() + similarity, has_sim() ? widest : 0);
  return checked_product(rows, kPanel, sizeof(float));
}

}  // namespace bpfree
