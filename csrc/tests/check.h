// check.h: what a test needs to say what went wrong.
#pragma once

#include <cstdio>
#include <string>

namespace segfast::test {

inline int checks = 0;
inline int failures = 0;
inline std::string context;  // the case that runs, printed with its failures

inline void check(bool condition, const std::string& message, const char* file, int line) {
  ++checks;
  if (condition) return;
  ++failures;
  if (failures > 20) return;  // the first ones tell; the count stands in the last line
  std::fprintf(stderr, "%s:%d: %s%s%s\n", file, line, context.c_str(), context.empty() ? "" : ": ",
               message.c_str());
}

// The exit status of main(). A test that checked nothing has failed.
inline int finish() {
  std::fprintf(stderr, "%d checks, %d failures\n", checks, failures);
  return failures == 0 && checks > 0 ? 0 : 1;
}

}  // namespace segfast::test

#define CHECK(condition, message) ::segfast::test::check((condition), (message), __FILE__, __LINE__)
