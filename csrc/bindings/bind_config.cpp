// SPDX-License-Identifier: BSD-3-Clause
#include "base/cpu_features.h"
#include "base/parallel.h"
#include "bindings/bindings.h"
#include "product/product.h"

namespace bpfree::bindings {

namespace {

std::vector<std::string> isa_names() {
  std::vector<std::string> names;
  for (const IsaId id : available_isas()) names.emplace_back(isa_name(id));
  return names;
}

py::dict config() {
  py::dict result;
  result["isa"] = std::string(isa_name(active_isa()));
  result["isa_available"] = isa_names();
  result["bfloat16"] = product::kernels().bf16_widens ? "widened" : "dot";
  result["openmp"] = std::string(parallel_backend());
  result["n_threads"] = default_threads();
  result["compiler"] = std::string(__VERSION__);
  result["version"] = std::string(BPFREE_VERSION);
  return result;
}

}  // namespace

void bind_config(py::module_& m) {
  m.attr("__version__") = BPFREE_VERSION;
  m.def("config", &config,
        "What runs: instruction set, bfloat16 path, threads, compiler, version.");
  m.def("isa", [] { return std::string(isa_name(active_isa())); });
  m.def("available_isas", &isa_names);
  m.def("default_threads", &default_threads);
  m.def(
      "peak_gflops",
      [](const std::string& dtype, int n_threads, double seconds) {
        const bool bf16 =
            named<bool, 2>("dtype", dtype, {{{"float32", false}, {"bfloat16", true}}});
        py::gil_scoped_release release;
        return product::peak_gflops(bf16, n_threads, seconds);
      },
      py::arg("dtype"), py::arg("n_threads") = 0, py::arg("seconds") = 0.5,
      "GFLOP/s of a loop that never leaves the registers: what this machine can do at most.");
}

}  // namespace bpfree::bindings
