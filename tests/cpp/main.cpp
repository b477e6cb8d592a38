// SPDX-License-Identifier: BSD-3-Clause
// The kernels against naive loops, in one plain program: this is what runs under the sanitizers and
// under qemu. Runs on the instruction set that BPFREE_ISA names; exits with 77 when this CPU lacks
// it.

#include <array>
#include <cstdio>
#include <cstdlib>
#include <exception>

#include "base/cpu_features.h"
#include "base/error.h"
#include "base/parallel.h"
#include "check.h"

namespace bpfree::test {

namespace {

int n_checks = 0;
int n_failed = 0;

constexpr int kSkipped = 77;

constexpr std::array kTests = {
    Test{"parallel", test_parallel}, Test{"row_blocks", test_row_blocks},
    Test{"random", test_random},     Test{"product", test_product},
    Test{"capi", test_capi},         Test{"perturbation", test_perturbation},
    Test{"training", test_training}, Test{"ensemble", test_ensemble},
    Test{"noprop", test_noprop},
};

}  // namespace

void check(bool ok, std::string_view what, std::source_location where) {
  ++n_checks;
  if (ok) return;
  ++n_failed;
  std::printf("%s:%u: %.*s\n", where.file_name(), static_cast<unsigned>(where.line()),
              static_cast<int>(what.size()), what.data());
}

int run_all() {
  try {
    const std::string_view isa = isa_name(active_isa());
    const std::string_view backend = parallel_backend();
    std::printf("instruction set %.*s, threads by %.*s\n", static_cast<int>(isa.size()), isa.data(),
                static_cast<int>(backend.size()), backend.data());
  } catch (const Error& error) {
    std::printf("skipped: %s\n", error.what());
    return kSkipped;
  }
  for (const Test& test : kTests) {
    const int failed_before = n_failed;
    try {
      test.run();
    } catch (const std::exception& error) {
      check(false, error.what());
    }
    std::printf("%-12.*s %s\n", static_cast<int>(test.name.size()), test.name.data(),
                n_failed == failed_before ? "ok" : "FAILED");
  }
  std::printf("%d checks, %d failed\n", n_checks, n_failed);
  return n_failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

}  // namespace bpfree::test

int main() { return bpfree::test::run_all(); }
