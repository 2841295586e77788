// cudart.cpp: CUDA's runtime for PyTorch on a machine without a GPU, loaded before the real one
// (LD_PRELOAD). Two devices whose memory is the host's.
//
// What is launched waits in its stream until something that comes after it asks for it: a
// synchronising call, another stream that waits for an event, or one of PyTorch's own ops in the
// same stream (torch_ops.py). So work on the wrong stream comes too late, as it may on a GPU. While
// a stream is captured, its work goes into the graph, and calls that wait are errors.
//
// Fresh memory holds 0xff.. everywhere: a NaN in every floating type, -1 in the signed ones. A
// failed kernel is an error of all later calls, as on a GPU. The few calls not defined here reach
// the real library, which finds no driver.
//
// With SEGFAST_HOST_TIME set, every kernel is counted and none runs, nor does anything else that is
// launched: what is left of a call is the host's time (scripts/host_time.py). Fresh memory is zero.
#include <cuda_runtime_api.h>
#include <sys/mman.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

namespace {

constexpr int kDevices = 2;
constexpr int kMultiprocessors = 4;
constexpr size_t kDeviceBytes = size_t{64} << 30;

using Work = std::function<cudaError_t()>;

struct Graph {
  unsigned long long id;
  std::vector<Work> work;
};

struct Stream {
  std::deque<Work> waiting;
  std::unique_ptr<Graph> capture;
};

struct Event {
  Stream* stream = nullptr;
  std::chrono::steady_clock::time_point recorded;
};

struct Block {
  size_t bytes;
  cudaMemoryType type;
  int device;
};

// Kernels run one at a time; one may be started by a graph that runs.
std::recursive_mutex mutex;
using Lock = std::lock_guard<std::recursive_mutex>;

Stream default_streams[kDevices];
std::map<char*, Block> blocks;  // by their first bytes
unsigned long long captures_begun = 0;
int capturing = 0;
long enqueued = 0;
long failing = -1;                 // the launch that fails, counted from the next; negative: none
cudaError_t sticky = cudaSuccess;  // a kernel's
thread_local cudaError_t last = cudaSuccess;
thread_local int device = 0;

cudaError_t result(cudaError_t error) {
  if (sticky != cudaSuccess) error = sticky;
  if (error != cudaSuccess) last = error;
  return error;
}

Stream& stream_of(cudaStream_t handle, int on = device) {
  if (handle == nullptr || handle == cudaStreamLegacy) return default_streams[on];
  return *reinterpret_cast<Stream*>(handle);
}

Event& event_of(cudaEvent_t handle) { return *reinterpret_cast<Event*>(handle); }

void drain(Stream& stream) {
  while (!stream.waiting.empty() && sticky == cudaSuccess) {
    const Work work = std::move(stream.waiting.front());
    stream.waiting.pop_front();
    if (const cudaError_t error = work(); error != cudaSuccess) sticky = error;
  }
}

std::vector<Stream*>& all_streams() {
  static std::vector<Stream*> streams{&default_streams[0], &default_streams[1]};
  return streams;
}

const bool host_time_alone = std::getenv("SEGFAST_HOST_TIME") != nullptr;

cudaError_t enqueue(Stream& stream, Work work) {
  ++enqueued;
  if (host_time_alone) return cudaSuccess;
  if (failing >= 0 && failing-- == 0) return result(cudaErrorLaunchOutOfResources);
  if (stream.capture != nullptr) {
    stream.capture->work.push_back(std::move(work));
  } else {
    stream.waiting.push_back(std::move(work));
  }
  return result(cudaSuccess);
}

// A call that waits for `streams`. None may while one is captured.
cudaError_t wait_for(const std::vector<Stream*>& streams) {
  if (capturing > 0) return result(cudaErrorStreamCaptureUnsupported);
  for (Stream* stream : streams) drain(*stream);
  return result(cudaSuccess);
}

cudaError_t wait_for(Stream& stream) { return wait_for(std::vector<Stream*>{&stream}); }

cudaError_t add_block(void** pointer, size_t bytes, cudaMemoryType type) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return result(cudaErrorMemoryAllocation);
  if (!host_time_alone) std::memset(memory, 0xff, bytes);
  blocks[static_cast<char*>(memory)] = {bytes, type, device};
  *pointer = memory;
  return result(cudaSuccess);
}

cudaError_t remove_block(void* pointer) {
  if (pointer == nullptr) return result(cudaSuccess);
  const auto block = blocks.find(static_cast<char*>(pointer));
  if (block == blocks.end()) return result(cudaErrorInvalidValue);
  munmap(pointer, block->second.bytes);
  blocks.erase(block);
  return result(cudaSuccess);
}

// The block that holds this byte, or null.
const Block* block_of(const void* pointer) {
  char* const byte = static_cast<char*>(const_cast<void*>(pointer));
  auto after = blocks.upper_bound(byte);
  if (after == blocks.begin()) return nullptr;
  const auto& [begin, block] = *--after;
  return byte < begin + block.bytes ? &block : nullptr;
}

cudaError_t copy(void* to, const void* from, size_t bytes, Stream& stream) {
  const Work work = [=] {
    std::memmove(to, from, bytes);
    return cudaSuccess;
  };
  // Pageable memory of the host is free to change once the call returns.
  if (block_of(to) != nullptr && block_of(from) != nullptr) return enqueue(stream, work);
  if (const cudaError_t error = wait_for(stream); error != cudaSuccess) return error;
  return result(work());
}

// A kernel of nvcc's.
cudaError_t start(const char* call) {
  if (host_time_alone) return ++enqueued, cudaSuccess;
  std::fprintf(stderr, "host_gpu: %s: PyTorch starts a kernel of its own\n", call);
  return result(cudaErrorInvalidDeviceFunction);
}

template <typename Handle, typename Object>
cudaError_t give(Handle* handle, Object* object) {
  *handle = reinterpret_cast<Handle>(object);
  return result(cudaSuccess);
}

}  // namespace

extern "C" {

// Where launch() of a kernel that runs on the CPU leaves it (csrc/common/host_run.cpp).
cudaError_t host_gpu_enqueue(cudaStream_t stream, Work work) {
  const Lock lock(mutex);
  return enqueue(stream_of(stream), std::move(work));
}

// What has been launched, kernels and copies and fills, since the process began.
long host_gpu_launches() { return enqueued; }

// Of the launches to come, the one of this number fails, from 0.
void host_gpu_fail(long launch) { failing = launch; }

// For torch_ops.py. Whether the stream is captured; if it is not, its work has been done.
int host_gpu_is_captured(int on, cudaStream_t stream, cudaError_t* error) {
  const Lock lock(mutex);
  const bool captured = stream_of(stream, on).capture != nullptr;
  *error = captured ? result(cudaSuccess) : wait_for(stream_of(stream, on));
  return captured;
}

// Leaves a function in a stream that is captured.
void host_gpu_record(int on, cudaStream_t stream, void (*work)()) {
  const Lock lock(mutex);
  enqueue(stream_of(stream, on), [work] { return work(), cudaSuccess; });
}

// Devices.
cudaError_t cudaGetDeviceCount(int* count) { return *count = kDevices, cudaSuccess; }
cudaError_t cudaGetDevice(int* current) { return *current = device, cudaSuccess; }
cudaError_t cudaSetDevice(int next) { return device = next, result(cudaSuccess); }
cudaError_t cudaDriverGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) { return *can = 0, cudaSuccess; }
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  return *free = *total = kDeviceBytes, result(cudaSuccess);
}
// What PyTorch divides by or chooses its launches by.
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {};
  std::strcpy(properties->name, "host");
  properties->major = 9;
  properties->totalGlobalMem = kDeviceBytes;
  properties->multiProcessorCount = kMultiprocessors;
  properties->warpSize = 32;
  properties->maxThreadsPerBlock = 1024;
  properties->maxThreadsPerMultiProcessor = 2048;
  properties->maxBlocksPerMultiProcessor = 32;
  properties->sharedMemPerBlock = properties->sharedMemPerBlockOptin = 48 << 10;
  properties->sharedMemPerMultiprocessor = 228 << 10;
  properties->regsPerBlock = properties->regsPerMultiprocessor = 65536;
  const int threads[] = {1024, 1024, 64}, blocks[] = {0x7fffffff, 65535, 65535};
  std::memcpy(properties->maxThreadsDim, threads, sizeof threads);
  std::memcpy(properties->maxGridSize, blocks, sizeof blocks);
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount ? kMultiprocessors : 0;
  return cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  *attributes = {};
  attributes->maxThreadsPerBlock = 1024;
  attributes->numRegs = 32;
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void*, int,
                                                                   size_t, unsigned) {
  return *blocks = 8, cudaSuccess;
}
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  return *least = 0, *greatest = -1, cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  const Lock lock(mutex);
  return wait_for(all_streams());
}

// Errors.
cudaError_t cudaPeekAtLastError() { return sticky != cudaSuccess ? sticky : last; }
cudaError_t cudaGetLastError() {
  const cudaError_t error = cudaPeekAtLastError();
  last = cudaSuccess;
  return error;
}

// Memory.
cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  const Lock lock(mutex);
  return add_block(pointer, bytes, cudaMemoryTypeDevice);
}
cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned) {
  const Lock lock(mutex);
  return add_block(pointer, bytes, cudaMemoryTypeHost);
}
cudaError_t cudaFree(void* pointer) {
  const Lock lock(mutex);
  if (const cudaError_t error = wait_for(all_streams()); error != cudaSuccess) return error;
  return remove_block(pointer);
}
cudaError_t cudaFreeHost(void* pointer) { return cudaFree(pointer); }
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  const Lock lock(mutex);
  *attributes = {};
  attributes->type = cudaMemoryTypeUnregistered;
  if (const Block* block = block_of(pointer)) {
    attributes->type = block->type;
    attributes->device = block->device;
    attributes->devicePointer = const_cast<void*>(pointer);
  }
  return result(cudaSuccess);
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                            cudaStream_t stream) {
  const Lock lock(mutex);
  return copy(to, from, bytes, stream_of(stream));
}
cudaError_t cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t bytes,
                                cudaStream_t stream) {
  return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream);
}
cudaError_t cudaMemsetAsync(void* pointer, int value, size_t bytes, cudaStream_t stream) {
  const Lock lock(mutex);
  return enqueue(stream_of(stream), [=] {
    std::memset(pointer, value, bytes);
    return cudaSuccess;
  });
}

// Streams and events.
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* handle, unsigned, int) {
  const Lock lock(mutex);
  all_streams().push_back(new Stream);  // PyTorch keeps its streams for ever
  return give(handle, all_streams().back());
}
cudaError_t cudaStreamGetPriority(cudaStream_t, int* priority) {
  return *priority = 0, cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const Lock lock(mutex);
  return wait_for(stream_of(stream));
}
cudaError_t cudaStreamQuery(cudaStream_t stream) { return cudaStreamSynchronize(stream); }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  return give(event, new Event);
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return give(event, new Event); }
cudaError_t cudaEventDestroy(cudaEvent_t event) { return delete &event_of(event), cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const Lock lock(mutex);
  event_of(event) = {&stream_of(stream), std::chrono::steady_clock::now()};
  return result(cudaSuccess);
}
cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned) {
  return cudaEventRecord(event, stream);
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const Lock lock(mutex);
  Stream* stream = event_of(event).stream;
  return stream == nullptr ? result(cudaSuccess) : wait_for(*stream);
}
cudaError_t cudaEventQuery(cudaEvent_t event) { return cudaEventSynchronize(event); }
// The other stream's work so far comes first: it is done at once. (What a captured stream waits for
// comes before the capture.)
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t event, unsigned) {
  const Lock lock(mutex);
  if (event_of(event).stream != nullptr) drain(*event_of(event).stream);
  return result(cudaSuccess);
}
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t start, cudaEvent_t end) {
  const std::chrono::duration<float, std::milli> elapsed =
      event_of(end).recorded - event_of(start).recorded;
  return *ms = elapsed.count(), result(cudaSuccess);
}

// Graphs.
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) { return cudaSuccess; }
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  const Lock lock(mutex);
  stream_of(stream).capture.reset(new Graph{++captures_begun, {}});
  ++capturing;
  return result(cudaSuccess);
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const Lock lock(mutex);
  --capturing;
  return give(graph, stream_of(stream).capture.release());
}
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus* status,
                                     unsigned long long* id, cudaGraph_t* graph,
                                     const cudaGraphNode_t**, const cudaGraphEdgeData**,
                                     size_t* dependencies) {
  const Lock lock(mutex);
  Graph* capture = stream_of(stream).capture.get();
  *status = capture ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  if (id != nullptr) *id = capture ? capture->id : 0;
  if (graph != nullptr) give(graph, capture);
  if (dependencies != nullptr) *dependencies = 0;
  return result(cudaSuccess);
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  return cudaStreamGetCaptureInfo(stream, status, nullptr, nullptr, nullptr, nullptr, nullptr);
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* executable, cudaGraph_t graph,
                                          unsigned long long) {
  return give(executable, new Graph(*reinterpret_cast<Graph*>(graph)));
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  const Lock lock(mutex);
  for (const Work& work : reinterpret_cast<Graph*>(executable)->work) {
    stream_of(stream).waiting.push_back(work);
  }
  return result(cudaSuccess);
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t*, size_t* count) {
  return *count = reinterpret_cast<Graph*>(graph)->work.size(), cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  return delete reinterpret_cast<Graph*>(graph), cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  return delete reinterpret_cast<Graph*>(executable), cudaSuccess;
}

// PyTorch's kernels, which nothing here can run: torch_ops.py has its ops computed on the CPU.
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void*) {
  return *kernel = nullptr, cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t, dim3, dim3, void**, size_t, cudaStream_t) {
  return start("__cudaLaunchKernel");
}
cudaError_t cudaLaunchKernel(const void*, dim3, dim3, void**, size_t, cudaStream_t) {
  return start("cudaLaunchKernel");
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t*, const void*, void**) {
  return start("cudaLaunchKernelExC");
}

// The driver's functions, of which PyTorch takes the addresses when it starts, and calls two.
int cuCtxGetCurrent(void** context) { return *context = &mutex, 0; }
int cuDevicePrimaryCtxGetState(int, unsigned* flags, int* active) {
  return *flags = 0, *active = 1, 0;
}
#define SEGFAST_NOT_HERE(name) \
  int name() { return 801; }  // CUDA_ERROR_NOT_SUPPORTED
SEGFAST_NOT_HERE(cuCtxSetCurrent)
SEGFAST_NOT_HERE(cuDeviceGet)
SEGFAST_NOT_HERE(cuDeviceGetAttribute)
SEGFAST_NOT_HERE(cuDevicePrimaryCtxRetain)
SEGFAST_NOT_HERE(cuFuncGetAttribute)
SEGFAST_NOT_HERE(cuFuncSetAttribute)
SEGFAST_NOT_HERE(cuFuncSetCacheConfig)
SEGFAST_NOT_HERE(cuGetErrorString)
SEGFAST_NOT_HERE(cuLaunchCooperativeKernel)
SEGFAST_NOT_HERE(cuLaunchKernel)
SEGFAST_NOT_HERE(cuLinkAddData_v2)
SEGFAST_NOT_HERE(cuLinkComplete)
SEGFAST_NOT_HERE(cuLinkCreate_v2)
SEGFAST_NOT_HERE(cuModuleGetFunction)
SEGFAST_NOT_HERE(cuModuleLoad)
SEGFAST_NOT_HERE(cuModuleLoadData)
SEGFAST_NOT_HERE(cuModuleLoadDataEx)
SEGFAST_NOT_HERE(cuModuleUnload)
SEGFAST_NOT_HERE(cuOccupancyMaxActiveBlocksPerMultiprocessor)
SEGFAST_NOT_HERE(cuPointerGetAttribute)
SEGFAST_NOT_HERE(cuTensorMapEncodeTiled)

}  // extern "C"
