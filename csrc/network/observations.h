// SPDX-License-Identifier: BSD-3-Clause
// Outputs of an ensemble as the algebra wants them: anomalies over the noise's deviation, one row an observation.
#pragma once

#include <cstddef>
#include <vector>

#include "base/buffer.h"
#include "base/view.h"
#include "network/ensemble.h"

namespace bpfree {

// A stretch of observations. Rows are observations, columns members.
struct ObservationRows {
  std::size_t count = 0;
  MatrixView<double> whitened;   // Y^T, and in one more column Gamma^(-1/2) (y - mean)
  MatrixView<double> plain;      // without the noise; where it was asked for
  MatrixView<double> companion;  // the score, or standard normal numbers; where there are any
};

class Observations {
 public:
  // Checks everything. `keep_plain`: rows have `plain` even where no score asks for it. `whole`: all observations at once.
  Observations(const EnsembleOutputs& outputs, bool keep_plain, bool whole, int n_threads);

  std::size_t n_ens() const { return n_ens_; }
  std::size_t n_obs() const { return n_obs_; }
  std::size_t chunk() const { return chunk_; }
  bool has_companion() const { return companion_.size() > 0; }
  bool has_score() const { return outputs_.score.data != nullptr; }
  // Fills the rows first, first + 1, ...: chunk() of them, or what is left. They live until the next call.
  ObservationRows rows(std::size_t first);
  // L of Gamma = L L^T, where the noise is a matrix.
  MatrixView<const double> factor() const {
    return {factor_.data(), factor_.size() > 0 ? n_obs_ : 0, n_obs_, n_obs_};
  }

 private:
  void check() const;
  void factor_noise();
  template <class T>
  void fill(const ObservationRows& rows, std::size_t first, std::size_t begin,
            std::size_t end) const;
  template <class T>
  void fill_score(const ObservationRows& rows, std::size_t first, std::size_t begin,
                  std::size_t end) const;
  void fill_normals(const ObservationRows& rows, std::size_t first, std::size_t begin,
                    std::size_t end) const;
  void metric_of_softmax(const ObservationRows& rows, std::size_t begin, std::size_t end,
                         const double* mean) const;
  double inverse_deviation(std::size_t observation) const;

  EnsembleOutputs outputs_;
  std::size_t n_ens_, n_obs_, chunk_, stride_, tile_;
  int n_threads_;
  Buffer<double> factor_, whitened_, plain_, companion_;
};

// Sums over observations that are no product: Y^T times the mean's residual, and what each member is off by.
class ObservationSums {
 public:
  ObservationSums(std::size_t n_ens, bool wants_misfit);
  void add(const ObservationRows& rows, int n_threads);
  const std::vector<double>& slope() const { return slope_; }
  std::vector<double>& misfit() { return misfit_; }

 private:
  std::vector<double> slope_, misfit_;
  std::size_t n_;
};

}  // namespace bpfree
