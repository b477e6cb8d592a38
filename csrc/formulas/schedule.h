// SPDX-License-Identifier: BSD-3-Clause
// Learning-rate schedules: the rate of a step from where training stands.
#pragma once

#include <cmath>
#include <cstdint>

namespace bpfree::formulas {

enum class ScheduleKind {
  constant,
  cosine,
  step,
  invscaling
};  // adaptive: constant, the caller lowers the rate

struct Schedule {
  ScheduleKind kind = ScheduleKind::constant;
  double learning_rate = 1e-3;
  std::uint64_t total_steps = 0;  // cosine
  std::uint64_t step_size = 10;   // step: epochs between two cuts
  double gamma = 0.1;             // step: the factor of a cut
  double power_t = 0.5;           // invscaling
};

// step and epoch count from 0. cosine ends at zero after total_steps and stays there.
inline double learning_rate(const Schedule& s, std::uint64_t step, std::uint64_t epoch) {
  constexpr double kPi = 3.14159265358979323846;
  switch (s.kind) {
    case ScheduleKind::constant:
      break;
    case ScheduleKind::cosine: {
      if (s.total_steps == 0) return s.learning_rate;
      const double done = static_cast<double>(step < s.total_steps ? step : s.total_steps);
      return s.learning_rate * 0.5 *
             (1 + std::cos(kPi * done / static_cast<double>(s.total_steps)));
    }
    case ScheduleKind::step:
      return s.learning_rate *
             std::pow(s.gamma, static_cast<double>(s.step_size == 0 ? 0 : epoch / s.step_size));
    case ScheduleKind::invscaling:
      return s.learning_rate / std::pow(static_cast<double>(step + 1), s.power_t);
  }
  return s.learning_rate;
}

}  // namespace bpfree::formulas
