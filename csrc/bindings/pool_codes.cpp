#include <torch/csrc/utils/pybind.h>

#include <vector>

#include "bindings/pooling.h"
#include "kernels/pool_codes/pool_codes.h"

namespace segfast {
namespace {

PoolCodesParams make_params(const at::Tensor& pooled, at::MemoryFormat format,
                            const Window2d& window, const Ints<2>& map_size) {
  TORCH_CHECK(map_size[0] >= 1 && map_size[1] >= 1, "map_size must be positive, got ",
              at::IntArrayRef(map_size.data(), 2));
  PoolCodesParams p;
  p.window = window;
  p.shape = make_shape(pooled, format, map_size[0], map_size[1], pooled.size(-2), pooled.size(-1));
  return p;
}

at::Tensor codes_to_indices(const at::Tensor& codes, const WindowArgument& window_argument,
                            const Ints<2>& map_size, const std::vector<int64_t>& pooled) {
  check_device(codes);
  TORCH_CHECK(codes.scalar_type() == at::kByte, "codes must be uint8, got ", codes.scalar_type());
  TORCH_CHECK(pooled.size() == 3 || pooled.size() == 4, "pooled must have 3 or 4 sizes, got ",
              at::IntArrayRef(pooled));
  const Window2d window = make_window(window_argument);
  const RecordView view = view_record(codes, pooled, window, format_of(codes), "codes");
  at::Tensor indices = empty(pooled, codes.options().dtype(at::kLong), view.format);
  if (indices.numel() == 0) return indices;
  PoolCodesParams p = make_params(indices, view.format, window, map_size);
  int32_t bad = 0;  // of the CPU: on CUDA the kernel stops
  p.codes = static_cast<uint8_t*>(view.tensor.data_ptr());
  p.indices = indices.mutable_data_ptr<int64_t>();
  p.bad = &bad;
  SEGFAST_RUN(codes_to_indices, p, codes, indices.nbytes());
  TORCH_CHECK_VALUE(bad == 0,
                    "codes hold a position outside the map: they must come from a pooling of a map "
                    "of ",
                    map_size[0], " x ", map_size[1], " with the same window");
  return indices;
}

at::Tensor indices_to_codes(const at::Tensor& indices_any, const WindowArgument& window_argument,
                            const Ints<2>& map_size) {
  check_device(indices_any);
  check_maps(indices_any, "indices");
  TORCH_CHECK(indices_any.scalar_type() == at::kLong, "indices must be int64, got ",
              indices_any.scalar_type());
  const Window2d window = make_window(window_argument);
  TORCH_CHECK_VALUE(window.taps() <= kMaxCodedTaps, "kernel_size must have at most ", kMaxCodedTaps,
                    " taps to be coded in a byte, got ", window.kernel_h, " x ", window.kernel_w);
  const at::MemoryFormat format = format_of(indices_any);
  const at::Tensor indices = indices_any.contiguous(format);
  const auto options = indices.options().dtype(at::kByte);
  at::Tensor codes =
      window.is_2x2()
          ? empty(codes2_sizes(indices.sizes(), packs_channels(indices, format)), options)
          : empty(indices.sizes(), options, format);
  if (indices.numel() == 0) return codes;
  PoolCodesParams p = make_params(indices, format, window, map_size);
  int32_t bad = 0;  // of the CPU: on CUDA the kernel stops
  p.codes = codes.mutable_data_ptr<uint8_t>();
  p.indices = static_cast<int64_t*>(indices.data_ptr());
  p.bad = &bad;
  SEGFAST_RUN(indices_to_codes, p, indices, indices.nbytes());
  TORCH_CHECK_VALUE(
      bad == 0,
      "indices hold a position that its own window does not cover: codes can only say "
      "which element of a window it was, over a map of ",
      map_size[0], " x ", map_size[1]);
  return codes;
}

}  // namespace

void bind_pool_codes(pybind11::module_& m) {
  m.def("codes_to_indices", &codes_to_indices,
        pybind11::call_guard<pybind11::gil_scoped_release>());
  m.def("indices_to_codes", &indices_to_codes,
        pybind11::call_guard<pybind11::gil_scoped_release>());
}

}  // namespace segfast
