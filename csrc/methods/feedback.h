// SPDX-License-Identifier: BSD-3-Clause
// Feedback alignment: fixed (or learned) matrices carry the output error to the hidden layers in the place of W^T.
//
// direct                    delta_l = (e B_l) * f'(a_l), B_l [n_outputs, n_l]                            Nøkland 2016, arXiv:1609.01596
// direct_kolen_pollack      the same, and B_l learns: B_l <- step(B_l, e^T h_l / n), with decay on B_l and W
// target                    delta_l = (y B_l) * f'(a_l): the target, not the error (DRTP)                Frenkel 2019, arXiv:1909.01311
// layerwise                 delta_l = (delta_{l+1} B_{l+1}^T) * f'(a_l), B in W's place                  Lillicrap 2014, arXiv:1411.0247
// sign_symmetric            B = sign(W) * scale (uSF)                                                    Liao 2015, arXiv:1510.05067
// sign_symmetric_batchwise  B = |M| * sign(W), M drawn anew each step (brSF)
// sign_symmetric_fixed      the same with one fixed M (frSF)
// kolen_pollack             layerwise, and B receives the gradient of W, both decayed                    Akrout 2019, arXiv:1904.05391
//
// The output layer always gets its exact gradient. error_signal `sign` projects sign(e) in the direct rules (sDFA), and
// starts the layerwise ones from it.
#pragma once

#include <memory>

#include "methods/backward_trainer.h"
#include "random/random.h"

namespace bpfree {

enum class FeedbackRule {
  direct,
  layerwise,
  sign_symmetric,
  sign_symmetric_batchwise,
  sign_symmetric_fixed,
  kolen_pollack,
  direct_kolen_pollack,
  target
};
enum class ErrorSignal { exact, sign };

struct FeedbackOptions {
  FeedbackRule rule = FeedbackRule::direct;
  ErrorSignal error_signal = ErrorSignal::exact;
  random::Distribution distribution = random::Distribution::uniform;
  float scale = 1;  // bound or deviation is scale / sqrt(number of values that are projected)
};

std::unique_ptr<Trainer> make_feedback_trainer(Network& network, const TrainerOptions& options,
                                               const FeedbackOptions& feedback);

}  // namespace bpfree
