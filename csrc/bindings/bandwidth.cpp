#include "kernels/bandwidth/bandwidth.h"

#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/utils/pybind.h>

#include <utility>

#include "bindings/checks.h"
#include "bindings/node.h"

namespace segfast {
namespace {

using Tensors = std::vector<at::Tensor>;

// Reads every byte of `reads`, and returns fresh tensors of the sizes of `writes`, filled with 0.
Tensors read_and_write(const Tensors& reads, const Tensors& writes) {
  std::vector<const unsigned char*> read_data;
  std::vector<unsigned char*> write_data;
  std::vector<size_t> read_bytes, write_bytes;
  Tensors outputs;
  size_t bytes = 0;
  for (const at::Tensor& tensor : reads) {
    TORCH_CHECK_VALUE(tensor.is_cpu() && tensor.is_non_overlapping_and_dense(),
                      "reads must be dense tensors on the CPU");
    read_data.push_back(static_cast<const unsigned char*>(tensor.const_data_ptr()));
    read_bytes.push_back(tensor.nbytes());
    bytes += tensor.nbytes();
  }
  for (const at::Tensor& tensor : writes) {
    TORCH_CHECK_VALUE(tensor.is_cpu(), "writes must be on the CPU");
    outputs.push_back(empty(tensor.sizes(), tensor.options()));
    write_data.push_back(static_cast<unsigned char*>(outputs.back().mutable_data_ptr()));
    write_bytes.push_back(tensor.nbytes());
    bytes += tensor.nbytes();
  }
  constexpr size_t kPartBytes = 1 << 16;
  BandwidthParams p;
  p.reads = read_data.data();
  p.read_bytes = read_bytes.data();
  p.num_reads = static_cast<int>(read_data.size());
  p.writes = write_data.data();
  p.write_bytes = write_bytes.data();
  p.num_writes = static_cast<int>(write_data.size());
  p.items = static_cast<int64_t>(bytes / kPartBytes) + 1;
  run_cpu(bandwidth_cpu, p, p.items, static_cast<int64_t>(bytes));
  return outputs;
}

// A backward pass that does no more than that: what it takes longer is autograd's own.
class ReadAndWriteBackward final : public torch::autograd::Node {
 public:
  ReadAndWriteBackward(const at::Tensor& input, Tensors reads)
      : Node(torch::autograd::collect_next_edges(input)),
        reads_(std::move(reads)),
        writes_{input.detach()} {}

  Tensors apply(Tensors&&) override { return read_and_write(reads_, writes_); }

 private:
  Tensors reads_, writes_;
};

// An output like `output` whose backward pass, for `input`, reads `reads`.
at::Tensor with_read_and_write_backward(const at::Tensor& input, const at::Tensor& output,
                                        const Tensors& reads) {
  at::Tensor result = at::empty_like(output);
  torch::autograd::set_history(result, make_node<ReadAndWriteBackward>(input, reads));
  return result;
}

}  // namespace

void bind_bandwidth(pybind11::module_& m) {
  m.def("read_and_write", &read_and_write, pybind11::call_guard<pybind11::gil_scoped_release>());
  m.def("with_read_and_write_backward", &with_read_and_write_backward);
}

}  // namespace segfast
