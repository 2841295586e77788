// pooling.h: the tensors of the pooling ops, checked and seen as the kernels see them.
#pragma once

#include <pybind11/pybind11.h>

#include "bindings/checks.h"
#include "kernels/pool_codes/pool_codes_math.h"

namespace segfast {

// A Python tuple or list of N ints.
template <size_t N>
struct Ints : std::array<int64_t, N> {};

// kernel, stride, padding, dilation, each (height, width), as segfast/_window.py makes it.
using WindowArgument = Ints<8>;

// Keeps every sum and product of window numbers within 32 bits.
inline constexpr int64_t kLargestWindow = int64_t{1} << 28;

inline Window2d make_window(const WindowArgument& a) {
  for (int i = 0; i < 8; ++i) {
    const int64_t least = i == 4 || i == 5 ? 0 : 1;
    TORCH_CHECK(
        a[i] >= least && a[i] <= kLargestWindow,
        "window must be (kernel, stride, padding, dilation) of height and width, with padding "
        "at least 0, the rest at least 1 and none above ",
        kLargestWindow, ", got ", at::IntArrayRef(a.data(), a.size()));
  }
  TORCH_CHECK(a[0] * a[1] <= kLargestWindow, "kernel_size must have at most ", kLargestWindow,
              " taps, got ", a[0], " x ", a[1]);
  const auto at = [&](int i) { return static_cast<int>(a[i]); };
  return {at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7)};
}

inline void check_maps(const at::Tensor& tensor, const char* name) {
  bool good = tensor.dim() == 3 || tensor.dim() == 4;
  for (int64_t d = tensor.dim() - 3; good && d < tensor.dim(); ++d) good = tensor.size(d) > 0;
  TORCH_CHECK(good, "Expected 3D or 4D (batch mode) tensor with optional 0 dim batch size for ",
              name, ", but got: ", tensor.sizes());
}

// The sizes of `maps` with another height and width.
inline std::vector<int64_t> with_spatial(const at::Tensor& maps, int64_t height, int64_t width) {
  std::vector<int64_t> sizes = maps.sizes().vec();
  sizes[sizes.size() - 2] = height;
  sizes[sizes.size() - 1] = width;
  return sizes;
}

inline PoolShape make_shape(const at::Tensor& maps, at::MemoryFormat format, int64_t height,
                            int64_t width, int64_t pooled_height, int64_t pooled_width) {
  const int64_t n = maps.dim() == 4 ? maps.size(0) : 1;
  const int64_t c = maps.size(-3);
  PoolShape shape;
  const bool channels = format == at::MemoryFormat::ChannelsLast;
  shape.outer = channels ? n : n * c;
  shape.inner = channels ? c : 1;
  shape.height = height;
  shape.width = width;
  shape.pooled_height = pooled_height;
  shape.pooled_width = pooled_width;
  return shape;
}

// codes2 run along the channels of channels_last maps with more than one channel.
inline bool packs_channels(const at::Tensor& pooled, at::MemoryFormat format) {
  return format == at::MemoryFormat::ChannelsLast && pooled.size(-3) > 1;
}

inline std::vector<int64_t> codes2_sizes(at::IntArrayRef pooled, bool channels) {
  std::vector<int64_t> sizes = pooled.vec();
  const size_t d = sizes.size();
  const int64_t c = sizes[d - 3], oh = sizes[d - 2], ow = sizes[d - 1];
  if (channels) {
    sizes[d - 3] = oh;
    sizes[d - 2] = ow;
    sizes[d - 1] = ceil_div<int64_t>(c, kCodesPerByte);
  } else {
    sizes.pop_back();
    sizes[d - 2] = oh * ceil_div<int64_t>(ow, kCodesPerByte);
  }
  return sizes;
}

// A result computed in one format, in the one that was asked for.
inline at::Tensor in_format(const at::Tensor& tensor, at::MemoryFormat from, at::MemoryFormat to) {
  if (from == to) return tensor;
  return empty(tensor.sizes(), tensor.options(), to).copy_(tensor);
}

// A record as a kernel takes it, and the memory format of the maps that goes with it.
struct RecordView {
  at::Tensor tensor;
  Record kind;
  at::MemoryFormat format;
};

// Checks a record of `pooled` windows; `format` is that of the values which it accompanies.
inline RecordView view_record(const at::Tensor& record, at::IntArrayRef pooled,
                              const Window2d& window, at::MemoryFormat format, const char* name) {
  const bool is_codes = record.scalar_type() == at::kByte;
  TORCH_CHECK(is_codes || record.scalar_type() == at::kLong, name,
              " must be int64 indices or uint8 codes, got ", record.scalar_type());
  if (is_codes && window.is_2x2()) {
    const bool channels = pooled.size() == 4 && record.dim() == 4 && pooled[1] > 1;
    const std::vector<int64_t> expected = codes2_sizes(pooled, channels);
    TORCH_CHECK(record.sizes() == at::IntArrayRef(expected), "Expected shape of ", name, " to be ",
                at::IntArrayRef(expected), " for pooled maps of ", pooled,
                ", but got: ", record.sizes());
    return {record.contiguous(), Record::codes2,
            channels ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous};
  }
  TORCH_CHECK(record.sizes() == pooled, "Expected shape of ", name, " to be ", pooled,
              " as of the pooled maps, but got: ", record.sizes());
  TORCH_CHECK(!is_codes || window.taps() <= kMaxCodedTaps, name,
              " must be int64 indices for a window of more than ", kMaxCodedTaps, " taps");
  return {record.contiguous(format), is_codes ? Record::codes8 : Record::indices, format};
}

// ---- the kernels, bound for Python by max_pool2d.cpp and max_unpool2d.cpp

struct Pooled {
  at::Tensor output, record;
};

Pooled pool(const at::Tensor& input, const WindowArgument& window, bool ceil_mode, bool with_record,
            bool as_codes);

at::Tensor max_pool2d_backward(const at::Tensor& grad_output, const at::Tensor& record,
                               const WindowArgument& window, const Ints<2>& input_size);

at::Tensor max_unpool2d(const at::Tensor& input, const at::Tensor& indices,
                        const WindowArgument& window, const Ints<2>& output_size);

at::Tensor max_unpool2d_with_codes(const at::Tensor& input, const at::Tensor& codes,
                                   const WindowArgument& window, const Ints<2>& output_size);

at::Tensor max_unpool2d_backward(const at::Tensor& grad_output, const at::Tensor& record,
                                 const WindowArgument& window, const Ints<2>& pooled_size);

}  // namespace segfast

namespace pybind11::detail {

// pybind11's own conversion of eight ints takes 0.3 us longer; pooling a tiny map takes 2.
template <size_t N>
struct type_caster<segfast::Ints<N>> {
  PYBIND11_TYPE_CASTER(segfast::Ints<N>, const_name("tuple[int, ...]"));

  bool load(handle source, bool) {
    if (!PyTuple_Check(source.ptr()) && !PyList_Check(source.ptr())) return false;
    if (PySequence_Fast_GET_SIZE(source.ptr()) != static_cast<Py_ssize_t>(N)) return false;
    for (size_t i = 0; i < N; ++i) {
      value[i] =
          PyLong_AsLongLong(PySequence_Fast_GET_ITEM(source.ptr(), static_cast<Py_ssize_t>(i)));
      if (value[i] == -1 && PyErr_Occurred()) throw error_already_set();
    }
    return true;
  }
};

}  // namespace pybind11::detail
