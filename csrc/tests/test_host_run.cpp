// test_host_run.cpp: the harness that runs CUDA kernels on a CPU must catch what it is there to
// catch. Each fault is planted in a kernel here. Those that only a sanitizer sees are run by name,
// one a process; ctest expects its report.
#include "common/copy_async.cuh"
#include "common/launch.h"
#include "common/vec.h"
#include "tensors.h"

using namespace segfast;
using namespace segfast::test;

namespace {

constexpr int kThreads = 64;
constexpr unsigned kAllLanes = 0xffffffffu;

struct Params {
  const float* input;
  float* output;
  int64_t count;
};

enum class Fault {
  none,
  // Seen by the values, under some order of threads.
  missed,          // an element that no thread writes
  raced,           // one that two threads write
  barrier,         // a __syncthreads left out
  second_barrier,  // the one that keeps a second round from overtaking readers of the first
  far_barrier,     // the same, where a warp's lanes meet five times before they overtake
  warp_barrier,    // a __syncwarp left out
  unset_shared,    // shared memory read before it is written
  copy,            // a copy to shared memory not waited for
  // Seen by a sanitizer.
  read,        // one element beyond a tensor
  copied,      // the same, by a copy to shared memory
  write,       // one element beyond a tensor
  shared,      // one element beyond a shared array
  local,       // one element beyond a thread's own array, after a barrier
  misaligned,  // a vector access at an address that a GPU refuses
  overflow,    // a 32-bit offset beyond 2^31
};

// output[i] = the sum of all inputs of i's block, each kernel with one fault at most.
template <Fault fault>
__global__ void __launch_bounds__(kThreads) block_sum_kernel(Params params) {
  SEGFAST_SHARED(float[kThreads], values);
  SEGFAST_SHARED(float[kThreads / 32], sums);
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t i = int64_t{blockIdx.x} * kThreads + thread;
  const bool inside = fault == Fault::read ? i <= params.count : i < params.count;
  if (inside && fault != Fault::read) {
    const int64_t from = fault == Fault::copied ? i + 1 : i;
    copy_async<sizeof(float)>(&values[thread], params.input + from);
    if (fault != Fault::copy) wait_for_copies();
  } else if (fault != Fault::unset_shared) {
    values[thread] = inside ? params.input[i] : 0.0f;
  }
  if (fault != Fault::warp_barrier) __syncwarp();
  float sum = values[thread ^ 1] + values[thread];  // each pair twice
  for (int distance = 16; distance > 1; distance /= 2) {
    sum += __shfl_xor_sync(kAllLanes, sum, distance);
  }
  if (thread % 32 == 0) sums[thread / 32] = sum;
  if (fault != Fault::barrier) __syncthreads();
  const float* second = sums + (fault == Fault::shared ? 2 : 1);  // by a pointer: without bounds
  float total = sums[0] + *second;
  // A second round over the same shared memory.
  if (fault != Fault::second_barrier && fault != Fault::far_barrier) __syncthreads();
  for (int k = 0; fault == Fault::far_barrier && k < 5; ++k) __syncwarp();
  if (thread % 32 == 0) sums[thread / 32] = -1.0f;
  if (fault == Fault::local) {
    float local[4] = {};
    volatile float* element = local + thread / 13;  // 4 for the last threads
    asm volatile("" : "+r"(element));  // the compiler forgets where it points: ASan must know
    __syncthreads();
    *element = total;
    total = *element;
  }
  if (fault == Fault::misaligned) total += Vec<float, 2>::load(params.input + 1).at[0];
  if (fault == Fault::overflow) total += params.input[0x7fffffff + thread];
  const int64_t written = fault == Fault::missed ? params.count - 1 : params.count;
  if (i < written) params.output[i] = total;
  if (fault == Fault::raced && thread < 2) params.output[0] = static_cast<float>(thread);
  if (fault == Fault::write && i == params.count) params.output[i] = total;
}

constexpr int64_t kCount = 5 * kThreads + 7;  // the last block is not full

// Runs the kernel under several orders of threads. Returns what the checks every op's test makes
// would report, "" for nothing.
template <Fault fault>
std::string find_fault() {
  Array<float> input(kCount), output(kCount), expected(kCount);
  fill_random(input, Values::ties);  // small integers: any order of summation is exact
  for (int64_t i = 0; i < kCount; ++i) {
    const int64_t first = i / kThreads * kThreads;
    for (int64_t j = first; j < std::min(first + kThreads, kCount); ++j) expected[i] += input[j];
  }
  const Params params{input.data(), output.data(), kCount};
  for (int repeat = 0; repeat < 5; ++repeat) {
    const std::string missing = unwritten(
        [&] {
          check_launch(launch(block_sum_kernel<fault>, ceil_div<int64_t>(kCount, kThreads),
                              kThreads, nullptr, params));
        },
        output);
    if (!missing.empty()) return missing;
    if (first_difference(output, expected) >= 0) return "wrong value";
  }
  return "";
}

enum class Divergence {
  exits,
  waits_elsewhere,
  warp_exits,
  outside_mask,
  other_mask,
  foreign_lane
};

template <Divergence divergence>
__global__ void divergent_kernel(Params) {
  const bool odd_one = threadIdx.x == 37;
  const unsigned mask = kAllLanes;
  if (divergence == Divergence::exits) {
    if (odd_one) return;
    __syncthreads();
  } else if (divergence == Divergence::waits_elsewhere) {
    if (odd_one) {
      __syncthreads();
    } else {
      __syncthreads();
    }
  } else if (divergence == Divergence::warp_exits) {
    if (odd_one) return;
    __syncwarp();
  } else if (divergence == Divergence::outside_mask) {
    __syncwarp(mask & ~1u);
  } else if (divergence == Divergence::other_mask) {
    __syncwarp(odd_one ? 0x7fffffffu : mask);
  } else {
    if (threadIdx.x % 2 == 0) __shfl_xor_sync(0x55555555u, 1, 1);
  }
}

template <Divergence divergence>
void check_divergence(const std::string& expected) {
  const cudaError_t error = launch(divergent_kernel<divergence>, 3, kThreads, nullptr, Params{});
  CHECK(error == cudaErrorLaunchFailure, "a divergent kernel must fail");
  const cudaError_t next = launch(divergent_kernel<divergence>, 3, kThreads, nullptr, Params{});
  CHECK(next == error, "an error must last until it is taken");
  const std::string message = host_run::take_failure();
  CHECK(message.find(expected) != std::string::npos, "unexpected message: " + message);
}

__global__ void checking_kernel(Params params) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  SEGFAST_DEVICE_CHECK(i != 70, "index is 70");
  params.output[i] = 1.0f;
}

// Thread 5 alone copies from an odd place.
__global__ void misaligned_copy_kernel(Params params) {
  SEGFAST_SHARED(float[4 * kThreads], values);
  copy_async<16>(&values[4 * threadIdx.x], params.input + (threadIdx.x == 5 ? 1 : 0));
  wait_for_copies();
}

// Lanes 0-15 and 16-31 work apart; intrinsics read only their own lanes.
__global__ void warp_kernel(Params params) {
  const unsigned lane = threadIdx.x % 32;
  const unsigned mask = lane < 16 ? 0x0000ffffu : 0xffff0000u;
  const int value = static_cast<int>(lane) / 3;
  const unsigned peers = __match_any_sync(mask, value);
  const unsigned odd = __ballot_sync(mask, value % 2);
  const int down = __shfl_down_sync(kAllLanes, value, 4);
  const int first = __shfl_sync(mask, value, lane < 16 ? 0 : 16);
  unsigned expected_peers = 0, expected_odd = 0;
  for (unsigned other = 0; other < 32; ++other) {
    if (((mask >> other) & 1u) == 0) continue;
    if (static_cast<int>(other) / 3 == value) expected_peers |= 1u << other;
    if (other / 3 % 2 == 1) expected_odd |= 1u << other;
  }
  SEGFAST_DEVICE_CHECK(peers == expected_peers, "__match_any_sync");
  SEGFAST_DEVICE_CHECK(odd == expected_odd, "__ballot_sync");
  SEGFAST_DEVICE_CHECK(down == (lane < 28 ? static_cast<int>(lane + 4) / 3 : value), "shfl_down");
  SEGFAST_DEVICE_CHECK(first == (lane < 16 ? 0 : 5), "__shfl_sync");
  atomicAdd(params.output, 1.0f);
}

void run_all() {
  CHECK(find_fault<Fault::none>().empty(), "sound kernel: " + find_fault<Fault::none>());
  CHECK(!find_fault<Fault::missed>().empty(), "an element never written goes unnoticed");
  CHECK(!find_fault<Fault::raced>().empty(), "an element written twice goes unnoticed");
  CHECK(!find_fault<Fault::barrier>().empty(), "a missing __syncthreads goes unnoticed");
  CHECK(!find_fault<Fault::second_barrier>().empty(), "an overtaken reader goes unnoticed");
  CHECK(!find_fault<Fault::far_barrier>().empty(), "a reader overtaken by far goes unnoticed");
  CHECK(!find_fault<Fault::warp_barrier>().empty(), "a missing __syncwarp goes unnoticed");
  CHECK(!find_fault<Fault::unset_shared>().empty(), "unset shared memory goes unnoticed");
  CHECK(!find_fault<Fault::copy>().empty(), "a copy not waited for goes unnoticed");

  check_divergence<Divergence::exits>("1 threads (first: 37) returned");
  check_divergence<Divergence::waits_elsewhere>("1 threads (first: 37) waiting at __syncthreads");
  check_divergence<Divergence::warp_exits>("31 threads (first: 32) waiting at __syncwarp");
  check_divergence<Divergence::outside_mask>("__syncwarp called by a lane outside its mask");
  check_divergence<Divergence::other_mask>("waiting at __syncwarp");
  check_divergence<Divergence::foreign_lane>("__shfl_xor_sync reads a lane outside its mask");

  Array<float> output(3 * kThreads);
  const Params params{nullptr, output.data(), output.size()};
  CHECK(launch(checking_kernel, 3, kThreads, nullptr, params) == cudaErrorAssert, "device check");
  const std::string message = host_run::take_failure();
  CHECK(message == "block 1 of 3, thread 6: index is 70", message);

  Array<float> input(5);
  CHECK(launch(misaligned_copy_kernel, 1, kThreads, nullptr, {input.data(), nullptr, 0}) ==
            cudaErrorMisalignedAddress,
        "a copy at an address that a GPU refuses");
  const std::string refusal = host_run::take_failure();
  CHECK(refusal.find("thread 5: copy_async of more bytes") != std::string::npos, refusal);

  output.fill_bytes(0);
  check_launch(launch(warp_kernel, 3, kThreads, nullptr, params));
  CHECK(output[0] == 3 * kThreads, "every thread runs once, got " + show(output[0]));
  check_launch(launch(warp_kernel, 0, kThreads, nullptr, params));
  CHECK(output[0] == 3 * kThreads, "an empty grid runs nothing");
  CHECK(launch(warp_kernel, 1, 2048, nullptr, params) == cudaErrorInvalidConfiguration,
        "a block of 2048 threads is too large");
}

}  // namespace

int main(int argc, char** argv) {
  const std::string name = argc > 1 ? argv[1] : "";
  if (name == "read") find_fault<Fault::read>();
  if (name == "copied") find_fault<Fault::copied>();
  if (name == "write") find_fault<Fault::write>();
  if (name == "shared") find_fault<Fault::shared>();
  if (name == "local") find_fault<Fault::local>();
  if (name == "misaligned") find_fault<Fault::misaligned>();
  if (name == "overflow") find_fault<Fault::overflow>();
  if (name.empty()) run_all();
  return finish();
}
