// node.h: what differs between versions of torch about autograd nodes of one's own.
#pragma once

#include <torch/csrc/autograd/function.h>

#include <memory>
#include <type_traits>
#include <utility>

namespace segfast {

// torch up to 2.13 shares nodes through std::shared_ptr; deleteNode is found there by its argument.
template <typename Node, typename... Args>
auto make_node(Args&&... args) {
  if constexpr (std::is_base_of_v<c10::intrusive_ptr_target, Node>) {
    return c10::make_intrusive<Node>(std::forward<Args>(args)...);
  } else {
    return std::shared_ptr<Node>(new Node(std::forward<Args>(args)...),
                                 [](Node* node) { deleteNode(node); });
  }
}

namespace detail {

template <typename Pointer>
auto fire_hooks(const Pointer& node, int) -> decltype(fire_node_creation_hooks(node)) {
  fire_node_creation_hooks(node);
}
template <typename Pointer>
void fire_hooks(const Pointer&, long) {}

}  // namespace detail

// torch.autograd.graph.node_creation_hook, which torch has from 2.14 on.
template <typename Pointer>
void announce(const Pointer& node) {
  detail::fire_hooks(decltype(torch::autograd::Edge::function)(node), 0);
}

}  // namespace segfast
