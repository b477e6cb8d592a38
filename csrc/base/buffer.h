// SPDX-License-Identifier: BSD-3-Clause
// Aligned, zeroed memory. Large buffers ask for huge pages: panels are walked with strides of a page and more.
#pragma once

#include <cstddef>
#include <utility>

namespace bpfree {

void* allocate(std::size_t bytes);  // 64-byte aligned (2 MiB above 1 MiB); throws Error
void* allocate_zeroed(std::size_t bytes);
void release(void* memory) noexcept;

template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::size_t size);
  static Buffer uninitialized(std::size_t size);  // for what is written before it is read
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { release(data_); }

  T* data() const { return data_; }
  std::size_t size() const { return size_; }
  std::size_t bytes() const { return size_ * sizeof(T); }
  T& operator[](std::size_t i) const { return data_[i]; }
  T* begin() const { return data_; }
  T* end() const { return data_ + size_; }

 private:
  T* data_ = nullptr;
  std::size_t size_ = 0;
};

// The product of sizes, or an Error when it does not fit into memory.
std::size_t checked_product(std::size_t a, std::size_t b, std::size_t c = 1);

template <class T>
Buffer<T>::Buffer(std::size_t size)
    : data_(size == 0 ? nullptr
                      : static_cast<T*>(allocate_zeroed(checked_product(size, sizeof(T))))),
      size_(size) {}

template <class T>
Buffer<T> Buffer<T>::uninitialized(std::size_t size) {
  Buffer buffer;
  if (size > 0) buffer.data_ = static_cast<T*>(allocate(checked_product(size, sizeof(T))));
  buffer.size_ = size;
  return buffer;
}

constexpr std::size_t round_up(std::size_t value, std::size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

constexpr std::size_t divide_up(std::size_t value, std::size_t divisor) {
  return (value + divisor - 1) / divisor;
}

}  // namespace bpfree
