// eager.h: plain eager calls, from Python's arguments to a result that autograd has taken note of.
// A Python torch.autograd.Function costs more than a small kernel, forward and backward.
//
// Every derivative of these ops is a linear map of the gradient, whose own derivative is the map's
// transpose. Such a map is a struct with
//
//   Geometry               the numbers of a call: a struct of nothing but int64_t
//   Transpose              the map that is its derivative
//   kNode                  the name of the autograd node that applies it
//   kModule, kFunction     the Python function that does the same with any tensors
//   has_kernel(record)     whether the kernel may be used with this record
//   run(x, record, geometry)                the kernel
//   arguments(x, record, geometry)          those of the Python function
//
// where the record is what the forward pass kept (indices, codes or a mask), or undefined.
#pragma once

#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/dynamo/compiled_autograd.h>
#include <torch/csrc/utils/pybind.h>

#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "bindings/node.h"
#include "bindings/plain.h"

namespace segfast::eager {

namespace compiled = torch::dynamo::autograd;
using torch::autograd::variable_list;

template <typename Map>
at::Tensor apply_map(const at::Tensor& x, const at::Tensor& record,
                     const typename Map::Geometry& geometry);

// The same of a gradient, which is undefined where nothing depended on the output.
template <typename Map>
at::Tensor apply_to_grad(const at::Tensor& grad, const at::Tensor& record,
                         const typename Map::Geometry& geometry) {
  return grad.defined() ? apply_map<Map>(grad, record, geometry) : at::Tensor();
}

template <typename Geometry>
std::vector<int64_t> numbers_of(const Geometry& geometry) {
  std::vector<int64_t> numbers(sizeof(Geometry) / sizeof(int64_t));
  std::memcpy(numbers.data(), &geometry, sizeof(Geometry));
  return numbers;
}

// The autograd node of a call whose derivative is Map.
template <typename Map>
class MapBackward final : public torch::autograd::Node {
 public:
  using Geometry = typename Map::Geometry;

  MapBackward(const at::Tensor& input, const at::Tensor& record, const Geometry& geometry)
      : Node(torch::autograd::collect_next_edges(input)),
        record_(record, /*is_output=*/false),
        geometry_(geometry) {}

  std::string name() const override { return std::string("segfast::") + Map::kNode; }

  variable_list apply(variable_list&& grads) override {
    at::Tensor record;
    {
      const std::lock_guard<std::mutex> lock(mutex_);  // against release_variables
      record = record_.unpack();
    }
    return {apply_to_grad<Map>(grads[0], record, geometry_)};
  }

  void release_variables() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    record_.reset_data();
  }

  // Compiled autograd: what a graph is specialized on, and this node as a call in that graph.

  void compiled_args(compiled::CompiledNodeArgs& args) const override {
    args.collect(record_, /*is_output=*/false);
    for (const int64_t number : numbers_of(geometry_)) args.collect(number);
  }

  variable_list apply_with_saved(const variable_list& grads,
                                 compiled::SwapSavedVariables& saved) override {
    using Record = compiled::IValuePacker<std::optional<at::Tensor>>;
    using Numbers = compiled::IValuePacker<std::vector<int64_t>>;
    using Metadata = std::vector<std::optional<torch::autograd::InputMetadata>>;
    const auto& compiler = compiled::getPyCompilerInterface();
    static const std::string function = compiler->bind_function(
        saved.get_py_compiler(), std::string("segfast_") + Map::kNode,
        [](const variable_list& grads, const std::vector<at::IValue>& packed) -> variable_list {
          Geometry geometry;
          const auto numbers = Numbers::unpack(packed[1]);
          std::memcpy(&geometry, numbers.data(), sizeof(Geometry));
          const auto record = Record::unpack(packed[0]).value_or(at::Tensor());
          return {apply_to_grad<Map>(grads[0], record, geometry)};
        },
        {Record::packed_type(), Numbers::packed_type()});
    saved.before(record_);
    const at::Tensor record = record_.unpack();
    saved.after(record_);
    return compiler->call_function(
        saved.get_py_compiler(), "apply_functional", function, grads,
        {Record::pack(record.defined() ? std::optional(record) : std::nullopt),
         Numbers::pack(numbers_of(geometry_))},
        compiled::IValuePacker<Metadata>::pack(compiled::get_input_metadata(next_edges())));
  }

 private:
  torch::autograd::SavedVariable record_;
  Geometry geometry_;
};

// Lets autograd know that `output` came from `input`, and that the derivative is Map.
template <typename Map>
void set_derivative(const at::Tensor& output, const at::Tensor& input, const at::Tensor& record,
                    const typename Map::Geometry& geometry) {
  const auto node = make_node<MapBackward<Map>>(input, record, geometry);
  torch::autograd::set_history(output, node);
  announce(node);
}

// A kernel's result: what it does to make its inputs contiguous is not for autograd to see.
template <typename Kernel>
auto below_autograd(const Kernel& kernel) {
  const at::AutoDispatchBelowADInplaceOrView guard;
  return kernel();
}

// The map of plain tensors.
template <typename Map>
at::Tensor apply_plain(const at::Tensor& x, const at::Tensor& record,
                       const typename Map::Geometry& geometry) {
  at::Tensor result = below_autograd([&] { return Map::run(x, record, geometry); });
  if (needs_grad(x)) set_derivative<typename Map::Transpose>(result, x, record, geometry);
  return result;
}

// The map of any tensors: gradients may be those of vmap, of a dispatch mode, dual, fake.
template <typename Map>
at::Tensor apply_map(const at::Tensor& x, const at::Tensor& record,
                     const typename Map::Geometry& geometry) {
  const auto plain = [](const at::Tensor& t) { return is_plain(t) && !is_dual(t); };
  if (is_plain_context() && plain(x) && (!record.defined() || plain(record)) &&
      Map::has_kernel(record)) {
    return apply_plain<Map>(x, record, geometry);
  }
  const pybind11::gil_scoped_acquire gil;
  const auto function = pybind11::module_::import(Map::kModule).attr(Map::kFunction);
  return function(*Map::arguments(x, record, geometry)).template cast<at::Tensor>();
}

// ---- the functions of segfast._C.eager: NotImplemented where the call is not plain, or where an
// argument is none of the usual ones. Python then takes the long way, which also words the errors.

inline PyObject* not_implemented() {
  return pybind11::reinterpret_borrow<pybind11::object>(Py_NotImplemented).release().ptr();
}

// The tensor of an argument, or nullptr where it is not plain.
inline const at::Tensor* plain_argument(PyObject* object) {
  if (!THPVariable_CheckExact(object)) return nullptr;  // a subclass: __torch_function__
  const at::Tensor& tensor = THPVariable_Unpack(object);
  return is_plain(tensor) && !is_dual(tensor) ? &tensor : nullptr;
}

inline bool read_int(PyObject* object, int64_t* value) {
  if (!PyLong_CheckExact(object)) return false;
  int overflow = 0;
  *value = PyLong_AsLongLongAndOverflow(object, &overflow);
  return overflow == 0;
}

inline bool read_bool(PyObject* object, bool* value) {
  *value = object == Py_True;
  return PyBool_Check(object);
}

// The result of `call`, which runs without the GIL, for Python: a tensor or a pair of them.
template <typename Call>
PyObject* wrap_without_gil(const Call& call) {
  decltype(call()) result;
  {
    const pybind11::gil_scoped_release no_gil;
    result = call();
  }
  if constexpr (std::is_same_v<decltype(result), at::Tensor>) {
    return THPVariable_Wrap(std::move(result));
  } else {
    return pybind11::make_tuple(std::move(result.first), std::move(result.second)).release().ptr();
  }
}

template <size_t count, PyObject* (*function)(PyObject* const* arguments)>
PyObject* fastcall(PyObject*, PyObject* const* arguments, Py_ssize_t given) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(given == static_cast<Py_ssize_t>(count), "expected ", count, " arguments, got ",
                   given);
  return is_plain_context() ? function(arguments) : not_implemented();
  END_HANDLE_TH_ERRORS
}

// pybind11's own way to call a function with eight arguments takes 0.5 us longer.
template <size_t count, PyObject* (*function)(PyObject* const* arguments)>
void bind(pybind11::module_& m, const char* name) {
  static PyMethodDef definition{
      name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&fastcall<count, function>)),
      METH_FASTCALL, nullptr};
  m.attr(name) =
      pybind11::reinterpret_steal<pybind11::object>(PyCFunction_New(&definition, nullptr));
}

}  // namespace segfast::eager
