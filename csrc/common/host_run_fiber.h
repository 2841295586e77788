// host_run_fiber.h: stacks to switch between, for host_run.cpp alone.
//
// <ucontext.h> has them for every machine, but asks the operating system for the signal mask at
// each switch, which took two thirds of the time of a test. On x86-64 a switch is a dozen moves.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#if defined(__x86_64__) && defined(__ELF__)
#define SEGFAST_SWITCHES_STACKS 1
#else
#define SEGFAST_SWITCHES_STACKS 0
#endif

#if !SEGFAST_SWITCHES_STACKS
#include <ucontext.h>
#endif

namespace segfast::host_run {

struct Fiber {
#if SEGFAST_SWITCHES_STACKS
  void* top = nullptr;  // of its stack, where it stands while another fiber runs
#else
  ucontext_t context;
#endif
  std::unique_ptr<char[]> stack;
  const void* bottom = nullptr;  // its stack, for the address sanitizer
  size_t size = 0;
};

#if SEGFAST_SWITCHES_STACKS

// Saves the registers that a call must keep on the stack, *from = the stack's top; then the same
// backwards for `to`.
extern "C" void segfast_switch_stacks(void** from, void* to);
asm(R"(
.pushsection .text
segfast_switch_stacks:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.popsection
)");

// A fiber that begins with main(), which never returns, when it is first switched to.
inline void begin_at(Fiber& fiber, void (*main)()) {
  // As if the fiber had been left where main() begins: its return address, then the registers.
  auto* top = reinterpret_cast<uint64_t*>(
      (reinterpret_cast<uintptr_t>(fiber.stack.get()) + fiber.size) / 16 * 16);
  *--top = 0;  // no caller
  *--top = reinterpret_cast<uint64_t>(main);
  for (int i = 0; i < 6; ++i) *--top = 0;
  fiber.top = top;
}

inline void switch_fibers(Fiber& from, Fiber& to) { segfast_switch_stacks(&from.top, to.top); }

#else

inline void begin_at(Fiber& fiber, void (*main)()) {
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = fiber.size;
  makecontext(&fiber.context, main, 0);
  // ASan forgets the bounds of locals on a stack whose size it finds here at each swapcontext().
  fiber.context.uc_stack.ss_size = 0;
}

inline void switch_fibers(Fiber& from, Fiber& to) { swapcontext(&from.context, &to.context); }

#endif

}  // namespace segfast::host_run
