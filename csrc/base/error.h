// SPDX-License-Identifier: BSD-3-Clause
// The one exception of the core: a code for C callers and one sentence that holds the offending value.
#pragma once

#include <stdexcept>
#include <string>

namespace bpfree {

enum class ErrorCode { kInvalidArgument = 1, kUnsupported = 2, kOutOfMemory = 3, kInternal = 4 };

class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& sentence) : std::runtime_error(sentence), code_(code) {}
  ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

[[noreturn]] inline void fail(const std::string& sentence) {
  throw Error(ErrorCode::kInvalidArgument, sentence);
}

inline void require(bool condition, const char* sentence) {
  if (!condition) fail(sentence);
}

}  // namespace bpfree
