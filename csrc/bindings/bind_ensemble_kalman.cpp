// SPDX-License-Identifier: BSD-3-Clause
// What ensemble Kalman training has beyond a trainer: reports of iterations, and the members.
#include <vector>

#include "bindings/bound_trainer.h"
#include "methods/ensemble_kalman.h"

namespace bpfree::bindings {

namespace {

const EnsembleKalman& ensemble_kalman(const BoundTrainer& bound) {
  const auto* trainer = dynamic_cast<const EnsembleKalman*>(bound.trainer.get());
  if (trainer == nullptr) fail("this trainer does not train by ensemble Kalman methods");
  return *trainer;
}

py::array_t<double> reports(const BoundTrainer& bound) {
  const std::vector<EnsembleKalman::Iteration>& iterations = ensemble_kalman(bound).iterations();
  constexpr std::size_t kColumns = 7;
  py::array_t<double> out({iterations.size(), kColumns});
  double* p = out.mutable_data();
  for (const EnsembleKalman::Iteration& i : iterations)
    for (const double value :
         {i.misfit_mean, i.misfit_min, i.misfit_max, i.spread, i.dt, i.effective_rank, i.n_failed})
      *p++ = value;
  return out;
}

py::array_t<float> members(BoundTrainer& bound) {
  const EnsembleKalman& t = ensemble_kalman(bound);
  const Running running(bound);
  py::array_t<float> out({t.n_ens(), t.network().n_params()});
  float* data = out.mutable_data();
  {
    py::gil_scoped_release release;
    t.get_members(data);
  }
  return out;
}

}  // namespace

void bind_ensemble_kalman(py::class_<BoundTrainer>& trainer) {
  trainer.def("kalman_reports", &reports).def("members", &members);
}

}  // namespace bpfree::bindings
