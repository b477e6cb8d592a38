// SPDX-License-Identifier: BSD-3-Clause
// The random streams: check the array, release the GIL, one call.
#include <span>

#include "bindings/bindings.h"
#include "random/random.h"

namespace bpfree::bindings {

namespace {

template <class T>
std::span<T> output(py::array& out) {
  return {checked_out<T>("out", out, kAny, 0), static_cast<std::size_t>(out.size())};
}

void random_bits(py::array out, std::uint64_t seed, std::uint64_t stream, std::uint64_t offset,
                 int n_threads) {
  const auto span = output<std::uint32_t>(out);
  const py::gil_scoped_release release;
  random::random_bits(span, seed, stream, offset, n_threads);
}

// fill(span) for a span of double where `out` is one, else of float.
template <class Fill>
void fill_floats(py::array& out, Fill fill) {
  const auto run = [&](auto span) {
    const py::gil_scoped_release release;
    fill(span);
  };
  if (py::isinstance<py::array_t<double>>(out))
    run(output<double>(out));
  else
    run(output<float>(out));
}

void uniform(py::array out, std::uint64_t seed, std::uint64_t stream, std::uint64_t offset,
             int n_threads) {
  fill_floats(out, [&](auto span) { random::uniform(span, seed, stream, offset, n_threads); });
}
void normal(py::array out, std::uint64_t seed, std::uint64_t stream, std::uint64_t offset,
            int n_threads) {
  fill_floats(out, [&](auto span) { random::normal(span, seed, stream, offset, n_threads); });
}
void sign(py::array out, std::uint64_t seed, std::uint64_t stream, std::uint64_t offset,
          int n_threads) {
  fill_floats(out, [&](auto span) { random::sign(span, seed, stream, offset, n_threads); });
}

py::array_t<std::uint32_t> permutation(std::size_t n, std::uint64_t seed, std::uint64_t epoch) {
  py::array_t<std::uint32_t> out(static_cast<py::ssize_t>(n));
  std::uint32_t* data = out.mutable_data();
  const py::gil_scoped_release release;
  random::permutation(data, n, seed, epoch);
  return out;
}

}  // namespace

void bind_random(py::module_& m) {
  const auto bind_fill = [&](const char* name, auto function) {
    m.def(name, function, py::arg("out"), py::arg("seed"), py::arg("stream") = 0,
          py::arg("offset") = 0, py::arg("n_threads") = 0);
  };
  bind_fill("random_bits", &random_bits);
  bind_fill("uniform", &uniform);
  bind_fill("normal", &normal);
  bind_fill("sign", &sign);
  m.def("philox", &random::philox, py::arg("counter"), py::arg("key"));
  m.def("permutation", &permutation, py::arg("n"), py::arg("seed"), py::arg("epoch"));
}

}  // namespace bpfree::bindings
