// SPDX-License-Identifier: BSD-3-Clause
// The Python module _core: exact, C-contiguous arrays in, nothing copied in silence, the GIL released around the work.
#include "base/cpu_features.h"
#include "bindings/bindings.h"

PYBIND11_MODULE(_core, m) {
  using namespace bpfree;
  m.doc() = "Compiled kernels of bpfree_fast.";
  uses_bf16_dot();  // an impossible BPFREE_ISA or BPFREE_BF16 ends the import with its sentence
  pybind11::register_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const Error& e) {
      switch (e.code()) {
        case ErrorCode::kInvalidArgument:
          return pybind11::set_error(PyExc_ValueError, e.what());
        case ErrorCode::kOutOfMemory:
          return pybind11::set_error(PyExc_MemoryError, e.what());
        default:
          return pybind11::set_error(PyExc_RuntimeError, e.what());
      }
    }
  });
  bindings::bind_config(m);
  bindings::bind_random(m);
  bindings::bind_kernels(m);
  bindings::bind_goodness(m);
  bindings::bind_local_loss(m);
  bindings::bind_perturbation(m);
  bindings::bind_ensemble(m);
  bindings::bind_noise(m);
  bindings::bind_network(m);
  bindings::bind_trainer(m);
  bindings::bind_search(m);
}
