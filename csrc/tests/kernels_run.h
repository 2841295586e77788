// kernels_run.h: a kernel that no test runs is proved by nobody. Names the CUDA kernels in this
// program, each instance of a template by itself, that have not been launched.
#pragma once

#include <string>
#include <vector>

namespace segfast::test {

// By the program's table of symbols, so on Linux alone; empty elsewhere.
std::vector<std::string> kernels_not_run();

}  // namespace segfast::test
