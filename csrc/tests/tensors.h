// tensors.h: inputs, outputs and comparisons shared by the tests of all ops.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "check.h"
#include "common/dispatch.h"
#include "common/isa.h"
#include "common/launch.h"
#include "common/types.h"
#include "kernels_run.h"

namespace segfast::test {

// `count` elements, `offset` elements past a 64-byte boundary (where torch starts a tensor; a view
// may start anywhere). The allocation ends with the last element, so that the address sanitizer
// sees a read of the next one.
template <typename T>
class Array {
 public:
  explicit Array(int64_t count, int64_t offset = 0)
      : count_(count),
        offset_(offset),
        memory_(
            ::operator new(static_cast<size_t>(count + offset) * sizeof(T), std::align_val_t{64})) {
    fill_bytes(0);
  }
  Array(const Array& other) : Array(other.count_, other.offset_) {
    std::memcpy(data(), other.data(), bytes());
  }
  Array& operator=(const Array&) = delete;
  ~Array() { ::operator delete(memory_, std::align_val_t{64}); }

  T* data() { return static_cast<T*>(memory_) + offset_; }
  const T* data() const { return static_cast<const T*>(memory_) + offset_; }
  int64_t size() const { return count_; }
  size_t bytes() const { return static_cast<size_t>(count_) * sizeof(T); }
  T& operator[](int64_t i) { return data()[i]; }
  const T& operator[](int64_t i) const { return data()[i]; }
  void fill_bytes(int byte) { std::memset(data(), byte, bytes()); }

 private:
  int64_t count_, offset_;
  void* memory_;
};

template <typename T>
const char* type_name();
template <>
inline const char* type_name<float>() {
  return "float32";
}
template <>
inline const char* type_name<double>() {
  return "float64";
}
template <>
inline const char* type_name<Half>() {
  return "float16";
}
template <>
inline const char* type_name<BFloat16>() {
  return "bfloat16";
}

template <typename T>
constexpr DType dtype_of() {
  if constexpr (std::is_same_v<T, float>) return DType::float32;
  if constexpr (std::is_same_v<T, double>) return DType::float64;
  if constexpr (std::is_same_v<T, Half>) return DType::float16;
  return DType::bfloat16;
}

// f(TypeTag<T>{}) for each floating type.
template <typename F>
void for_each_type(F&& f) {
  f(TypeTag<float>{});
  f(TypeTag<double>{});
  f(TypeTag<Half>{});
  f(TypeTag<BFloat16>{});
}

// Offset of element [n, c, h, w] of a dense tensor with C channels and planes of H x W.
struct Layout {
  bool channels_last;
  int64_t C, H, W;
  int64_t operator()(int64_t n, int64_t c, int64_t h, int64_t w) const {
    return channels_last ? ((n * H + h) * W + w) * C + c : ((n * C + c) * H + h) * W + w;
  }
};

inline std::mt19937_64& generator() {
  static std::mt19937_64 bits(20240607);
  return bits;
}

// Names the case that begins. Whether it is to run: where only some are, their names contain
// `only`. Random numbers follow from the name, so that a case by itself is what it is among all.
inline std::string only;
inline bool begin_case(const std::string& name) {
  context = name;
  std::seed_seq seed(name.begin(), name.end());
  generator().seed(seed);
  return name.find(only) != std::string::npos;
}

inline int64_t random_integer(int64_t low, int64_t high) {  // both inclusive
  return std::uniform_int_distribution<int64_t>(low, high)(generator());
}

enum class Values {
  normal,
  ties,     // eight values, so that windows hold equal maxima
  special,  // one in eight is NaN, an infinity or a signed zero
  low,      // three in four are -infinity, so that windows hold nothing else
};

template <typename T>
void fill_random(Array<T>& array, Values values = Values::normal) {
  std::normal_distribution<double> normal;
  const double specials[] = {std::numeric_limits<double>::quiet_NaN(),
                             std::numeric_limits<double>::infinity(),
                             -std::numeric_limits<double>::infinity(), 0.0, -0.0};
  for (int64_t i = 0; i < array.size(); ++i) {
    double value = normal(generator());
    if (values == Values::ties) value = static_cast<double>(random_integer(-4, 3));
    if (values == Values::special && random_integer(0, 7) == 0) {
      value = specials[random_integer(0, 4)];
    }
    if (values == Values::low && random_integer(0, 3) != 0) value = specials[2];
    array[i] = from_float<T>(static_cast<accumulate_t<T>>(value));
  }
}

template <typename T>
std::string show(T value) {
  if constexpr (std::is_integral_v<T>) {
    return std::to_string(value);
  } else {
    char text[32];
    std::snprintf(text, sizeof text, "%.9g", static_cast<double>(to_float(value)));
    return text;
  }
}

// The first element that differs, or -1: to the bit, the sign of zero included, but any NaN equals
// any other. (Which of two NaN a sum is, a compiler decides.)
template <typename T>
int64_t first_difference(const Array<T>& a, const Array<T>& b) {
  if (std::memcmp(a.data(), b.data(), a.bytes()) == 0) return -1;
  for (int64_t i = 0; i < a.size(); ++i) {
    if (std::memcmp(&a[i], &b[i], sizeof(T)) == 0) continue;
    if constexpr (!std::is_integral_v<T>) {
      if (std::isnan(to_float(a[i])) && std::isnan(to_float(b[i]))) continue;
    }
    return i;
  }
  return -1;
}

template <typename T>
void check_same(const Array<T>& actual, const Array<T>& expected, const std::string& name) {
  const int64_t i = first_difference(actual, expected);
  if (i < 0) return CHECK(true, name);
  CHECK(false, name + "[" + std::to_string(i) + "] of " + std::to_string(actual.size()) + " is " +
                   show(actual[i]) + ", expected " + show(expected[i]));
}

// |actual - expected| <= relative * |expected| + absolute for all elements, NaN where it is
// expected.
template <typename T>
void check_close(const Array<T>& actual, const Array<double>& expected, double relative,
                 double absolute, const std::string& name) {
  for (int64_t i = 0; i < actual.size(); ++i) {
    const double value = static_cast<double>(to_float(actual[i]));
    const double error = std::abs(value - expected[i]);
    const bool close =
        std::isnan(expected[i])
            ? std::isnan(value)
            : value == expected[i] || error <= relative * std::abs(expected[i]) + absolute;
    if (!close) {
      CHECK(false, name + "[" + std::to_string(i) + "] of " + std::to_string(actual.size()) +
                       " is " + show(value) + ", expected " + show(expected[i]));
      return;
    }
  }
  CHECK(true, name);
}

// Runs `run` twice, each time on outputs filled with other bytes and with the GPU threads in
// another order. Names the first element that came out different, one that was not written or that
// depends on the order; "" if there is none.
template <typename Run, typename... T>
std::string unwritten(Run&& run, Array<T>&... outputs) {
  host_run::set_seed(0);
  (outputs.fill_bytes(0xff), ...);
  run();
  const std::tuple<Array<T>...> before{outputs...};
  host_run::set_seed(1);
  (outputs.fill_bytes(0x5a), ...);  // no NaN of any type
  const int64_t limit = std::exchange(max_numel_32, 0);
  run();
  max_numel_32 = limit;
  std::string text;
  int number = 0;
  const auto compare = [&](const auto& output, const auto& first) {
    const int64_t i = first_difference(output, first);
    if (i >= 0 && text.empty()) {
      text = "output " + std::to_string(number) + ", element " + std::to_string(i) + " of " +
             std::to_string(output.size()) + " was not written or depends on the order of threads";
    }
    ++number;
  };
  std::apply([&](const auto&... first) { (compare(outputs, first), ...); }, before);
  return text;
}

// What an op's test runs: its CPU kernel, or its CUDA kernel on the CPU.
enum class Backend { cpu, cuda };

// A CUDA launcher's result.
inline void check_launch(cudaError_t error) {
  const std::string failure = host_run::take_failure();
  CHECK(error == cudaSuccess, "launch failed with " + std::to_string(error) + ": " + failure);
}

// Calls the launcher, or the range function for all items, in random ranges and out of order.
template <typename Params>
void run_op(Backend backend, const Params& params, int64_t items,
            void (*cpu)(const Params&, int64_t, int64_t),
            cudaError_t (*cuda)(const Params&, cudaStream_t)) {
  if (backend == Backend::cuda) return check_launch(cuda(params, nullptr));
  std::vector<std::pair<int64_t, int64_t>> ranges;
  for (int64_t begin = 0; begin < items;) {
    const int64_t length = random_integer(1, 5) * (random_integer(0, 3) == 0 ? 16 : 1);
    const int64_t end = std::min(items, begin + length);
    ranges.emplace_back(begin, end);
    begin = end;
  }
  std::shuffle(ranges.begin(), ranges.end(), generator());
  for (const auto& [begin, end] : ranges) cpu(params, begin, end);
}

// main() of an op's test: all cases, or those whose names contain the second argument. 77 tells
// ctest that this machine lacks the instruction set asked for.
inline int op_main(int argc, char** argv, void (*test)(Backend)) {
  const std::string name = argc > 1 ? argv[1] : "";
  if (name != "cpu" && name != "cuda") {
    std::fprintf(stderr, "usage: %s cpu|cuda [part of a case's name]\n", argv[0]);
    return 2;
  }
  try {
    if (name == "cpu") cpu_isa();
  } catch (const std::runtime_error& error) {
    std::fprintf(stderr, "skipped: %s\n", error.what());
    return 77;
  }
  if (argc > 2) only = argv[2];
  test(name == "cpu" ? Backend::cpu : Backend::cuda);
  if (name == "cuda" && only.empty()) {
    context = "";
    for (const std::string& kernel : kernels_not_run()) CHECK(false, "no test runs " + kernel);
  }
  return finish();
}

}  // namespace segfast::test
