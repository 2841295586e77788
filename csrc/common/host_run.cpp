// host_run.cpp: runs a grid on the CPU, one GPU thread at a time.
//
// A fiber starts the threads of a block one after another and, while none of them waits, no switch
// happens. A thread that waits keeps the fiber it runs on; another fiber goes on with the rest.
// Whenever there is a choice of who goes on, a random generator makes it: a result that depends
// on the order of threads (a barrier forgotten) differs from seed to seed. In every other block who
// waited last goes on first, so that one warp runs far ahead of the rest.
#include "common/host_run.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <random>
#include <vector>

#include "common/host_run_fiber.h"

// Where a launch waits for its turn in a stream, in a process that keeps streams: the tests of the
// extension on a machine without a GPU do (tests/host_gpu/cudart.cpp).
extern "C" [[gnu::weak]] cudaError_t host_gpu_enqueue(cudaStream_t stream,
                                                      std::function<cudaError_t()> work);

// The address sanitizer's, in a program that is linked with it. This file is compiled without, as a
// rule (CMakeLists.txt).
extern "C" {
[[gnu::weak]] void __sanitizer_start_switch_fiber(void** fake_stack, const void* bottom,
                                                  size_t size);
[[gnu::weak]] void __sanitizer_finish_switch_fiber(void* fake_stack, const void** bottom,
                                                   size_t* size);
}

namespace segfast::host_run {
namespace {

constexpr size_t kStackBytes = 256 * 1024;
constexpr int kMaxBlock = 1024;

enum class State { unborn, running, at_barrier, in_warp, ready, returned };

struct Copy {
  void* to;
  const void* from;
  size_t size;
};

struct Thread {
  State state = State::unborn;
  Fiber* fiber = nullptr;  // where it goes on
  Site site = {""};
  unsigned mask = 0;
  uint64_t value = 0;        // what it brings to its warp
  std::vector<Copy> copies;  // under way
};

// The launch that is running. There is one at a time.
const std::function<void()>* thread_body;
std::vector<Thread> threads;         // of the running block
std::vector<unsigned> unborn;        // threads not yet started, in random order
std::vector<unsigned> ready;         // suspended threads that may go on
unsigned running;                    // the thread that runs
bool last_goes_first;                // in the running block
size_t at_barrier;                   // how many wait for the block
uint64_t brought[kMaxBlock][kWarp];  // to each thread, by the lanes of its warp
std::map<const void*, std::unique_ptr<char[]>> shared;
std::mt19937_64 random_bits;
unsigned char shared_fill = 0xff;

cudaError_t sticky_error = cudaSuccess;
std::string failure;

Fiber main_fiber;
Fiber* current = &main_fiber;
Fiber* came_from = nullptr;
std::vector<std::unique_ptr<Fiber>> fibers;
std::vector<Fiber*> idle;

// What a fiber does first whenever it is switched to.
void arrive(void* fake_stack) {
  if (__sanitizer_finish_switch_fiber == nullptr) return;
  __sanitizer_finish_switch_fiber(fake_stack, &came_from->bottom, &came_from->size);
}

void switch_to(Fiber* next) {
  if (next == current) return;
  Fiber* self = current;
  void* fake_stack = nullptr;
  if (__sanitizer_start_switch_fiber != nullptr) {
    __sanitizer_start_switch_fiber(&fake_stack, next->bottom, next->size);
  }
  came_from = self;
  current = next;
  switch_fibers(*self, *next);
  arrive(fake_stack);
}

void fiber_main();

Fiber* idle_fiber() {
  if (idle.empty()) {
    auto fiber = std::make_unique<Fiber>();
    fiber->stack.reset(new char[kStackBytes]);
    fiber->bottom = fiber->stack.get();
    fiber->size = kStackBytes;
    begin_at(*fiber, fiber_main);
    idle.push_back(fiber.get());
    fibers.push_back(std::move(fiber));
  }
  Fiber* fiber = idle.back();
  idle.pop_back();
  return fiber;
}

// Leaves the running fiber for any thread that can run; for the launch when none can.
void switch_away() {
  if (ready.empty() && unborn.empty()) return switch_to(&main_fiber);
  const size_t choice = last_goes_first && !ready.empty()
                            ? ready.size() - 1
                            : random_bits() % (ready.size() + unborn.size());
  if (choice >= ready.size()) return switch_to(idle_fiber());
  const unsigned chosen = ready[choice];
  ready[choice] = ready.back();
  ready.pop_back();
  switch_to(threads[chosen].fiber);
}

void go_on(unsigned id) {
  running = id;
  threadIdx.x = id;
  threads[id].state = State::running;
}

void fiber_main() {
  arrive(nullptr);
  for (;;) {
    while (!unborn.empty()) {
      const unsigned id = unborn.back();
      unborn.pop_back();
      go_on(id);
      (*thread_body)();
      threads[running].state = State::returned;
    }
    idle.push_back(current);
    switch_away();
  }
}

void release(unsigned id) {
  threads[id].state = State::ready;
  ready.push_back(id);
}

// Suspends the running thread, which its caller has put in a waiting state or released.
void suspend() {
  const unsigned id = running;
  threads[id].fiber = current;
  switch_away();
  go_on(id);
}

bool same_site(const Site& a, const Site& b) {
  const auto same = [](const char* x, const char* y) { return x == y || std::strcmp(x, y) == 0; };
  return a.line == b.line && same(a.word, b.word) && same(a.file, b.file);
}

void record(cudaError_t error, const std::string& message) {
  sticky_error = error;
  failure =
      "block " + std::to_string(blockIdx.x) + " of " + std::to_string(gridDim.x) + ", " + message;
}

// "3 threads (first: 5) wait at __syncthreads, x_cuda.cu:40; 29 threads (first: 0) have returned"
std::string where_threads_are() {
  std::map<std::string, std::vector<size_t>> places;
  for (size_t id = 0; id < threads.size(); ++id) {
    const Thread& thread = threads[id];
    std::string place = "returned";
    if (thread.state != State::returned) {
      place = std::string("waiting at ") + thread.site.word + ", " + thread.site.file + ":" +
              std::to_string(thread.site.line);
      if (thread.state == State::in_warp) place += ", mask " + std::to_string(thread.mask);
    }
    places[place].push_back(id);
  }
  std::string text;
  for (const auto& [place, ids] : places) {
    text += (text.empty() ? "" : "; ") + std::to_string(ids.size()) +
            " threads (first: " + std::to_string(ids.front()) + ") " + place;
  }
  return text;
}

void run_block(unsigned block) {
  threads.assign(block, Thread{});
  ready.clear();
  last_goes_first = random_bits() % 2 == 0;
  at_barrier = 0;
  unborn.resize(block);
  for (unsigned id = 0; id < block; ++id) unborn[id] = id;
  std::shuffle(unborn.begin(), unborn.end(), random_bits);
  switch_away();  // and back here when no thread can run
  if (sticky_error == cudaSuccess) {
    const bool all_returned = std::all_of(threads.begin(), threads.end(), [](const Thread& thread) {
      return thread.state == State::returned;
    });
    if (!all_returned) {
      record(cudaErrorLaunchFailure,
             "threads wait for each other for ever: " + where_threads_are());
    }
  }
  if (sticky_error != cudaSuccess) {  // suspended threads never go on
    idle.clear();
    fibers.clear();
  }
  shared.clear();
}

cudaError_t run_grid(const void* kernel, int64_t grid, int block,
                     const std::function<void()>& thread) {
  kernels_run().insert(kernel);
  thread_body = &thread;
  gridDim.x = static_cast<unsigned>(grid);
  blockDim.x = static_cast<unsigned>(block);
  std::vector<unsigned> order(static_cast<size_t>(grid));
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<unsigned>(i);
  std::shuffle(order.begin(), order.end(), random_bits);
  for (unsigned index : order) {
    blockIdx.x = index;
    run_block(static_cast<unsigned>(block));
    if (sticky_error != cudaSuccess) break;
  }
  return sticky_error;
}

}  // namespace

void set_seed(uint64_t seed) {
  random_bits.seed(seed);
  // 0xff.. is a NaN in every floating type and -1 in the signed ones.
  shared_fill = seed % 2 == 0 ? 0xff : 0x5a;
}

std::string take_failure() {
  sticky_error = cudaSuccess;
  std::string text;
  text.swap(failure);
  return text;
}

void fail(cudaError_t error, const char* word, const char* message) {
  record(error, "thread " + std::to_string(running) + ": " + word + message);
  switch_to(&main_fiber);
  __builtin_unreachable();
}

void wait_for_block(Site site) {
  threads[running].state = State::at_barrier;
  threads[running].site = site;
  const bool complete = ++at_barrier == threads.size() &&
                        std::all_of(threads.begin(), threads.end(), [&](const Thread& thread) {
                          return same_site(thread.site, site);
                        });
  if (complete) {
    at_barrier = 0;
    const size_t first = random_bits() % threads.size();
    for (size_t i = 0; i < threads.size(); ++i) {
      release(static_cast<unsigned>((first + i) % threads.size()));
    }
  }
  suspend();
}

const uint64_t* exchange(unsigned mask, uint64_t value, Site site) {
  const unsigned lane = running % kWarp;
  const unsigned first = running - lane;
  if (((mask >> lane) & 1u) == 0) {
    fail(cudaErrorLaunchFailure, site.word, " called by a lane outside its mask");
  }
  Thread& self = threads[running];
  self.state = State::in_warp;
  self.site = site;
  self.mask = mask;
  self.value = value;
  const auto in_mask = [&](unsigned other) { return ((mask >> other) & 1u) != 0; };
  bool complete = true;
  for (unsigned other = 0; other < kWarp && complete; ++other) {
    if (!in_mask(other)) continue;
    complete = first + other < threads.size() && threads[first + other].state == State::in_warp &&
               threads[first + other].mask == mask && same_site(threads[first + other].site, site);
  }
  if (complete) {
    uint64_t values[kWarp] = {};
    for (unsigned other = 0; other < kWarp; ++other) {
      if (in_mask(other)) values[other] = threads[first + other].value;
    }
    for (unsigned reader = 0; reader < kWarp; ++reader) {
      if (!in_mask(reader)) continue;
      std::memcpy(brought[first + reader], values, sizeof values);
      release(first + reader);
    }
  }
  suspend();
  return brought[running];
}

void copy_async(void* to, const void* from, size_t size) {
  for (const void* address : {static_cast<const void*>(to), from}) {
    if (reinterpret_cast<uintptr_t>(address) % size == 0) continue;
    fail(cudaErrorMisalignedAddress, "copy_async", " of more bytes than an address is aligned to");
  }
  threads[running].copies.push_back({to, from, size});
}

void wait_for_copies() {
  for (const Copy& copy : threads[running].copies) std::memcpy(copy.to, copy.from, copy.size);
  threads[running].copies.clear();
}

void* shared_memory(const void* key, size_t size) {
  std::unique_ptr<char[]>& memory = shared[key];
  if (memory == nullptr) {
    memory.reset(new char[size]);
    std::memset(memory.get(), shared_fill, size);
  }
  return memory.get();
}

std::set<const void*>& kernels_run() {
  static std::set<const void*> kernels;
  return kernels;
}

cudaError_t run(const void* kernel, int64_t grid, int block, cudaStream_t stream,
                std::function<void()> thread) {
  if (sticky_error != cudaSuccess || grid == 0) return sticky_error;
  if (grid < 0 || grid > 0x7fffffff || block <= 0 || block > kMaxBlock) {
    return cudaErrorInvalidConfiguration;
  }
  if (host_gpu_enqueue == nullptr) return run_grid(kernel, grid, block, thread);
  return host_gpu_enqueue(stream, [=] {
    const cudaError_t error = run_grid(kernel, grid, block, thread);
    if (error != cudaSuccess) std::fprintf(stderr, "%s\n", failure.c_str());
    return error;
  });
}

}  // namespace segfast::host_run
