// SPDX-License-Identifier: BSD-3-Clause
#include "network/network.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "base/error.h"
#include "base/parallel.h"
#include "product/row_blocks.h"
#include "random/random.h"

namespace bpfree {

using product::kPanel;

namespace {

constexpr std::size_t kPredictRows =
    112;  // 8 tiles of 14: a panel of W is read once for all of them
constexpr std::size_t kPredictBytes = std::size_t{2}
                                      << 20;  // of activations a thread holds at most, and one tile

}  // namespace

std::size_t row_stride(std::size_t n, std::size_t element_size) {
  const std::size_t stride = round_up(n, kPanel);
  return stride * element_size % 1024 == 0 ? stride + 64 / element_size : stride;
}

void pack_panels(float* panels, const float* rows, std::size_t n_in, std::size_t n_out) {
  for (std::size_t j = 0; j < n_out; j += kPanel)
    for (std::size_t k = 0; k < n_in; ++k)
      std::copy_n(rows + k * n_out + j, std::min(kPanel, n_out - j),
                  panels + j * n_in + k * kPanel);
}

void unpack_panels(float* rows, const float* panels, std::size_t n_in, std::size_t n_out) {
  for (std::size_t j = 0; j < n_out; j += kPanel)
    for (std::size_t k = 0; k < n_in; ++k)
      std::copy_n(panels + j * n_in + k * kPanel, std::min(kPanel, n_out - j),
                  rows + k * n_out + j);
}

Network::Network(std::vector<std::size_t> sizes, formulas::Activation activation,
                 formulas::Loss loss, Compute compute, std::size_t first_head)
    : sizes_(std::move(sizes)),
      activation_(activation),
      loss_(loss),
      compute_(compute),
      first_head_(first_head) {
  if (sizes_.size() < 2)
    fail("a network needs at least 2 layer sizes (inputs and outputs), got " +
         std::to_string(sizes_.size()));
  for (std::size_t i = 0; i < sizes_.size(); ++i)
    if (sizes_[i] == 0) fail("layer_sizes[" + std::to_string(i) + "] is 0, expected at least 1");
  for (std::size_t l = 0; l + 1 < sizes_.size(); ++l) place(layers_, sizes_[l], sizes_[l + 1]);
  if (has_heads())
    for (std::size_t l = first_head; l + 2 < layers_.size(); ++l)
      place(heads_, sizes_[l + 1], sizes_.back());
  allocate();
}

Network::Network(const BlockShape& blocks, formulas::Activation activation, Compute compute)
    : sizes_({blocks.n_features, blocks.n_classes}),
      blocks_(blocks),
      activation_(activation),
      loss_(formulas::Loss::softmax_cross_entropy),
      compute_(compute),
      first_head_(kNoHeads) {
  const auto at_least = [](const char* name, std::size_t value, std::size_t least) {
    if (value < least)
      fail(std::string(name) + " is " + std::to_string(value) + ", expected at least " +
           std::to_string(least));
  };
  const auto whole_panels = [&](const char* name, std::size_t units) {
    at_least(name, units, 1);
    if (units % kPanel != 0)
      fail(std::string(name) + " is " + std::to_string(units) + ", expected a multiple of " +
           std::to_string(kPanel));
  };
  at_least("n_blocks", blocks.n_blocks, 1);
  at_least("n_features", blocks.n_features, 1);
  whole_panels("n_input_units", blocks.n_input_units);
  at_least("n_label", blocks.n_label, 1);
  whole_panels("n_label_units", blocks.n_label_units);
  for (const std::size_t units : blocks.join) at_least("a layer of join", units, 1);
  at_least("n_classes", blocks.n_classes, 1);
  for (std::size_t t = 0; t < blocks.n_blocks; ++t) {
    place(layers_, blocks.n_features, blocks.n_input_units);
    place(layers_, blocks.n_label, blocks.n_label_units);
    std::size_t n_in = blocks.n_joined();
    for (const std::size_t units : blocks.join) {
      place(layers_, n_in, units);
      n_in = units;
    }
    place(layers_, n_in, blocks.n_classes);
  }
  allocate();
}

void Network::place(std::vector<Layer>& layers, std::size_t n_in, std::size_t n_out) {
  Layer layer{n_in, n_out, divide_up(n_out, kPanel), n_placed_, 0, n_shadow_};
  const std::size_t padded = layer.n_panels * kPanel;
  layer.biases = n_placed_ + checked_product(padded, layer.n_in);
  n_placed_ = layer.biases + padded;
  n_shadow_ += layer.n_panels * layer.shadow_panel_size();
  layers.push_back(layer);
}

void Network::allocate() {
  parameters_ = Buffer<float>(n_placed_);
  if (compute_ == Compute::bfloat16) shadow_ = Buffer<std::uint32_t>(n_shadow_);
}

std::size_t Network::n_params() const {
  std::size_t n = 0;
  for (const Layer& layer : layers_) n += (layer.n_in + 1) * layer.n_out;
  for (const Layer& head : heads_) n += (head.n_in + 1) * head.n_out;
  return n;
}

const product::DtypeKernels& Network::kernels() const {
  return compute_ == Compute::bfloat16 ? product::kernels().bf16 : product::kernels().f32;
}

void Network::initialize(std::uint64_t seed, Initializer named) {
  for (std::size_t l = 0; l < layers_.size() + heads_.size(); ++l) {
    const Layer& layer = this->layer(l);
    const bool is_head = has_heads() && l + 1 >= layers_.size();
    const Initializer scheme = is_head ? Initializer::zeros : named;
    const double fan_in = static_cast<double>(layer.n_in);
    const double fan_out = static_cast<double>(layer.n_out);
    double scale = 0;  // bound of the uniform, or deviation of the normal
    switch (scheme) {
      case Initializer::uniform:
        scale = 1 / std::sqrt(fan_in);
        break;
      case Initializer::glorot_uniform:
        scale = std::sqrt(6 / (fan_in + fan_out));
        break;
      case Initializer::he_uniform:
        scale = std::sqrt(6 / fan_in);
        break;
      case Initializer::he_normal:
        scale = std::sqrt(2 / fan_in);
        break;
      case Initializer::zeros:
        break;
    }
    std::vector<float> values(layer.n_in * layer.n_out);
    const auto tensor = static_cast<std::uint32_t>(l);
    const random::Counter counter{random::Purpose::weights, tensor, 0, 0};
    if (scheme == Initializer::he_normal)
      random::normal_matrix(values.data(), layer.n_in, layer.n_out, layer.n_out, seed, counter,
                            static_cast<float>(scale));
    else if (scheme != Initializer::zeros)
      random::uniform_matrix(values.data(), layer.n_in, layer.n_out, layer.n_out, seed, counter,
                             static_cast<float>(scale));
    set_weights(l, values.data());
    std::vector<float> biases(layer.n_out);
    if (scheme == Initializer::uniform)
      random::uniform_matrix(biases.data(), 1, layer.n_out, layer.n_out, seed,
                             {random::Purpose::biases, tensor, 0, 0}, static_cast<float>(scale));
    set_biases(l, biases.data());
  }
}

void Network::get_weights(std::size_t layer, float* out) const {
  const Layer& y = this->layer(layer);
  unpack_panels(out, parameters_.data() + y.weights, y.n_in, y.n_out);
}

void Network::set_weights(std::size_t layer, const float* value) {
  const Layer& y = this->layer(layer);
  pack_panels(parameters_.data() + y.weights, value, y.n_in, y.n_out);
  refresh_shadows(layer);
  count_change();
}

void Network::get_biases(std::size_t layer, float* out) const {
  std::copy_n(parameters_.data() + this->layer(layer).biases, this->layer(layer).n_out, out);
}

void Network::set_biases(std::size_t layer, const float* value) {
  std::copy_n(value, this->layer(layer).n_out, parameters_.data() + this->layer(layer).biases);
  count_change();
}

void Network::refresh_shadows(std::size_t layer) {
  if (compute_ == Compute::float32) return;
  for (std::size_t p = 0; p < this->layer(layer).n_panels; ++p)
    product::kernels().make_shadows(panel_parameters(layer, p), this->layer(layer).n_in);
}

void Network::keep_shadow_rows() {
  if (compute_ == Compute::float32 || shadow_rows_.size() > 0) return;
  shadow_rows_ = Buffer<std::uint16_t>(parameters_.size());
  for (std::size_t l = 0; l < layers_.size() + heads_.size(); ++l) refresh_shadows(l);
}

std::uint16_t* Network::shadow_rows(std::size_t layer) const {
  return shadow_rows_.size() == 0 ? nullptr : shadow_rows_.data() + this->layer(layer).weights;
}

product::Parameters Network::panel_parameters(std::size_t layer, std::size_t panel) const {
  const Layer& y = this->layer(layer);
  const std::size_t at = panel * y.panel_size();
  return {.value = parameters_.data() + y.weights + at,
          .state1 = nullptr,
          .state2 = nullptr,
          .shadow = shadow_.size() == 0 ? nullptr
                                        : shadow_.data() + y.shadow + panel * y.shadow_panel_size(),
          .shadow_rows = shadow_rows_.size() == 0 ? nullptr : shadow_rows(layer) + at};
}

const void* Network::forward_panel(std::size_t layer, std::size_t panel) const {
  const Layer& y = this->layer(layer);
  if (compute_ == Compute::bfloat16)
    return shadow_.data() + y.shadow + panel * y.shadow_panel_size();
  return parameters_.data() + y.weights + panel * y.panel_size();
}

namespace {

// Runs some rows through all layers, in one thread's memory.
class Prediction {
 public:
  Prediction(const Network& network, const InputView& x, float* out, bool logits, bool sums_heads,
             std::size_t n_rows)
      : network_(network),
        x_(x),
        out_(out),
        logits_(logits),
        n_heads_(sums_heads ? network.heads().size() : 0),
        chunk_(n_rows) {
    element_ = network.compute() == Compute::bfloat16 ? 2 : 4;
    for (std::size_t i = 0; i + 1 < network.sizes().size(); ++i)
      widest_ = std::max(widest_, row_stride(network.sizes()[i], element_));
    const std::size_t fits = kPredictBytes / (2 * widest_ * element_);
    const std::size_t tile = network.kernels().tile_rows;
    chunk_ = std::min(chunk_, std::max(std::min(fits, kPredictRows) / tile, std::size_t{1}) * tile);
    blocks_ = product::row_blocks(chunk_, tile);
    if (x.rows % chunk_ != 0) tail_blocks_ = product::row_blocks(x.rows % chunk_, tile);
  }

  std::size_t n_chunks() const { return divide_up(x_.rows, chunk_); }
  std::size_t hidden_bytes() const {
    return round_up(checked_product(chunk_, widest_, element_), 64);
  }
  std::size_t scratch_bytes() const {
    return 2 * hidden_bytes() + (n_heads_ > 0 ? 2 : 1) * logits_size() * sizeof(float);
  }

  void run(std::size_t chunk, void* scratch) const {
    const product::DtypeKernels& k = network_.kernels();
    const std::size_t first = chunk * chunk_;
    const std::size_t rows = std::min(chunk_, x_.rows - first);
    const std::vector<product::RowBlock>& blocks = rows == chunk_ ? blocks_ : tail_blocks_;
    char* h[2] = {static_cast<char*>(scratch), static_cast<char*>(scratch) + hidden_bytes()};
    auto* logits = reinterpret_cast<float*>(static_cast<char*>(scratch) + 2 * hidden_bytes());
    const std::size_t n_layers = network_.layers().size();
    const std::size_t x_stride = row_stride(x_.columns, element_);
    const product::GatherArgs gather{h[0],    x_stride, x_.data,   x_.row_stride,
                                     nullptr, first,    x_.columns};
    (x_.type == InputType::u8    ? k.gather_u8
     : x_.type == InputType::f32 ? k.gather_f32
                                 : k.gather_f64)(gather, 0, rows);
    float* head_logits = logits + logits_size();
    std::fill_n(head_logits, n_heads_ > 0 ? logits_size() : 0, 0.0f);
    for (std::size_t l = 0; l < n_layers; ++l) {
      const bool last = l + 1 == n_layers;
      // Heads come after the layers, from hidden layer first_head on.
      if (l > network_.first_head() && !last && n_heads_ > 0) {
        multiply(n_layers + l - 1 - network_.first_head(), h[l % 2], 1, blocks, logits, nullptr);
        for (std::size_t i = 0; i < logits_size(); ++i) head_logits[i] += logits[i];
      }
      multiply(l, h[l % 2], l == 0 ? x_.scale : 1.0f, blocks, last ? logits : nullptr,
               h[(l + 1) % 2]);
    }
    for (std::size_t i = 0; n_heads_ > 0 && i < logits_size(); ++i) logits[i] += head_logits[i];
    product::kernels().output({.loss = network_.loss(),
                               .logits = logits,
                               .panel_stride = chunk_ * kPanel,
                               .n_outputs = network_.n_outputs(),
                               .n_rows = rows,
                               .out = out_ + first * network_.n_outputs(),
                               .logits_only = logits_});
  }

 private:
  std::size_t logits_size() const { return network_.layers().back().n_panels * chunk_ * kPanel; }

  // Rows through weights `index`: to logits in panels, or to activations.
  void multiply(std::size_t index, const char* rows, float scale,
                const std::vector<product::RowBlock>& blocks, float* logits, char* h) const {
    const product::DtypeKernels& k = network_.kernels();
    const Layer& layer = network_.layer(index);
    const std::size_t stride = row_stride(layer.n_in, element_) / k.depth_per_word;
    const std::size_t depth = divide_up(layer.n_in, k.depth_per_word);
    for (std::size_t p = 0; p < layer.n_panels; ++p) {
      const product::ForwardArgs args{
          .x = {rows, stride, depth, 0},
          .panel = network_.forward_panel(index, p),
          .next_panel = p + 1 < layer.n_panels ? network_.forward_panel(index, p + 1) : nullptr,
          .depth = depth,
          .blocks = blocks.data(),
          .n_blocks = blocks.size(),
          .n_columns = std::min(kPanel, layer.n_out - p * kPanel),
          .bias = network_.parameters() + layer.biases + p * kPanel,
          .scale = scale,
          .activation = logits != nullptr ? formulas::Activation::identity : network_.activation(),
          .h = logits != nullptr ? static_cast<void*>(logits + p * chunk_ * kPanel)
                                 : h + p * kPanel * element_,
          .h_stride = logits != nullptr ? kPanel : row_stride(layer.n_out, element_),
          .preactivation = nullptr,
          .preactivation_stride = 0};
      (logits != nullptr ? k.forward_f32 : k.forward)(args);
    }
  }

  const Network& network_;
  const InputView& x_;
  float* out_;
  bool logits_;
  std::size_t n_heads_;  // that are added to the output layer
  std::size_t element_ = 4;
  std::size_t widest_ = kPanel;
  std::size_t chunk_;
  std::vector<product::RowBlock> blocks_, tail_blocks_;
};

}  // namespace

void Network::predict(const InputView& x, float* out, bool logits, int n_threads,
                      bool sum_of_heads) const {
  if (blocks_) fail("a network of blocks predicts by its trainer, block after block");
  if (x.columns != sizes_[0])
    fail("x has " + std::to_string(x.columns) + " columns, the network was made for " +
         std::to_string(sizes_[0]));
  const int threads =
      threads_for(n_threads, 2.0 * static_cast<double>(x.rows) * static_cast<double>(n_params()));
  if (x.rows == 0) return;
  const Prediction prediction(*this, x, out, logits, sum_of_heads,
                              divide_up(x.rows, static_cast<std::size_t>(threads)));
  std::vector<Buffer<char>> memory;
  std::vector<void*> scratch;
  for (int t = 0; t < threads; ++t) {
    memory.emplace_back(prediction.scratch_bytes());
    scratch.push_back(memory.back().data());
  }
  parallel_for(
      prediction.n_chunks(), threads,
      [&](std::size_t chunk, const Worker& worker) { prediction.run(chunk, worker.scratch); },
      scratch);
}

}  // namespace bpfree
