// SPDX-License-Identifier: BSD-3-Clause
#include "methods/feedback.h"

#include <cmath>
#include <string>

#include "base/error.h"
#include "methods/direct_feedback.h"
#include "methods/layerwise_feedback.h"

namespace bpfree {

std::unique_ptr<Trainer> make_feedback_trainer(Network& network, const TrainerOptions& options,
                                               const FeedbackOptions& feedback) {
  if (!(feedback.scale >= 0) || !std::isfinite(feedback.scale))
    fail("feedback_scale is " + std::to_string(feedback.scale) +
         ", expected a finite number of at least 0");
  switch (feedback.rule) {
    case FeedbackRule::direct:
    case FeedbackRule::direct_kolen_pollack:
    case FeedbackRule::target:
      return std::make_unique<DirectFeedback>(network, options, feedback);
    default:
      return std::make_unique<LayerwiseFeedback>(network, options, feedback);
  }
}

}  // namespace bpfree
