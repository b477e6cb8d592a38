// SPDX-License-Identifier: BSD-3-Clause
#include "base/version.h"

namespace bpfree {

const char* version() { return BPFREE_VERSION; }

}  // namespace bpfree
