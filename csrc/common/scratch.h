// scratch.h: memory of a CPU kernel's thread, aligned for vectors, uninitialised.
#pragma once

#include <cstdint>
#include <memory>

#include "common/host_device.h"

namespace segfast {

class Scratch {
 public:
  explicit Scratch(int64_t bytes)
      : storage_(new unsigned char[static_cast<size_t>(bytes) + kAlignment]) {}

  void* get() const {
    const uintptr_t address = reinterpret_cast<uintptr_t>(storage_.get());
    return reinterpret_cast<void*>(ceil_div(address, kAlignment) * kAlignment);
  }

 private:
  static constexpr uintptr_t kAlignment = 64;
  std::unique_ptr<unsigned char[]> storage_;
};

}  // namespace segfast
