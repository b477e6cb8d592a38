// SPDX-License-Identifier: BSD-3-Clause
// The one wrapper from exception to status: nothing is thrown into C.
#pragma once

#include <exception>
#include <new>
#include <string>

#include "base/error.h"
#include "bpfree/bpfree.h"

namespace bpfree::capi {

// Keeps the sentence for bpfree_last_error(); never throws.
bpfree_status remember(bpfree_status status, const char* sentence) noexcept;

template <class F>
bpfree_status safe_call(const F& f) noexcept {
  try {
    f();
    return BPFREE_OK;
  } catch (const Error& e) {
    return remember(static_cast<bpfree_status>(e.code()), e.what());
  } catch (const std::bad_alloc&) {
    return remember(BPFREE_OUT_OF_MEMORY, "out of memory");
  } catch (const std::exception& e) {
    return remember(BPFREE_INTERNAL, e.what());
  } catch (...) {
    return remember(BPFREE_INTERNAL, "an unknown error");
  }
}

template <class T>
T* pointer(const char* name, T* data, std::size_t n) {
  if (data == nullptr && n > 0)
    fail(std::string(name) + " is a null pointer, expected " + std::to_string(n) + " elements");
  return data;
}

// A number that C passes as an enumeration, which may hold anything: at most `last`.
template <class To, class From>
To enumerator(const char* name, From value, From last) {
  const int number = static_cast<int>(value);
  if (number < 0 || number > static_cast<int>(last))
    fail(std::string(name) + " is " + std::to_string(number) + ", expected 0 to " +
         std::to_string(static_cast<int>(last)));
  return static_cast<To>(number);
}

}  // namespace bpfree::capi
