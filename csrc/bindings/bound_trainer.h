// SPDX-License-Identifier: BSD-3-Clause
// A trainer as Python holds it, and what the files that bind its methods share.
#pragma once

#include <memory>
#include <string>

#include "bindings/bindings.h"
#include "methods/trainer.h"

namespace bpfree::bindings {

// A trainer with the network that it trains kept alive, and what Python asks of it besides.
struct BoundTrainer {
  py::object network;
  std::unique_ptr<Trainer> trainer;
  bool stopped = false;
  bool running = false;  // an epoch is on its way, perhaps in a callback of its own
  py::object data{};     // of an epoch that runs a generation at a time
};

struct Running {
  explicit Running(BoundTrainer& bound) : bound_(bound) {
    if (bound.running)
      throw Error(ErrorCode::kUnsupported, "this trainer is already running an epoch");
    bound.running = true;
  }
  ~Running() { bound_.running = false; }
  BoundTrainer& bound_;
};

TrainingData training_data(const Trainer& t, const py::array& x, const py::array& y,
                           const py::object& sample_weight, double input_scale);

formulas::Schedule schedule_of(const std::string& name, double learning_rate,
                               std::uint64_t total_steps, std::uint64_t step_size, double gamma,
                               double power_t);

void bind_evolution(py::class_<BoundTrainer>& trainer);
void bind_noprop(py::class_<BoundTrainer>& trainer);
void bind_ensemble_kalman(py::class_<BoundTrainer>& trainer);

}  // namespace bpfree::bindings
