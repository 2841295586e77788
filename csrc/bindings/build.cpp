// What was compiled and how it runs here, for `segfast doctor` and the tests.

#include <ATen/Parallel.h>
#include <pybind11/pybind11.h>

#include <atomic>

#include "common/isa.h"

namespace segfast {
namespace {

// How many threads of torch's pool take part in a parallel loop of ours.
int parallel_threads() {
  std::atomic<int> threads{0};
  at::parallel_for(0, at::get_num_threads(), 1, [&](int64_t, int64_t) { ++threads; });
  return threads;
}

}  // namespace

void bind_build(pybind11::module_& m) {
#ifdef SEGFAST_WITH_CUDA
  m.attr("with_cuda") = true;
#else
  m.attr("with_cuda") = false;
#endif
  m.def("cpu_isa", &cpu_isa_name);
  m.def("parallel_threads", &parallel_threads);
}

}  // namespace segfast
