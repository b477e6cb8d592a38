// SPDX-License-Identifier: BSD-3-Clause
// The version of the library, as the build passes it in.
#pragma once

namespace bpfree {

const char* version();

}  // namespace bpfree
