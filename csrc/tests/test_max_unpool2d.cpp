// test_max_unpool2d.cpp: max unpooling from codes, from the indices of its own windows and from
// indices that come from anywhere, and its backward.
#include "kernels/max_unpool2d/max_unpool2d.h"

#include "pools.h"

using namespace segfast;
using namespace segfast::test;

namespace {

enum class Source {
  own_codes,        // a tap of each window
  own_indices,      // the same as indices
  foreign_indices,  // any positions of the plane
};

// Whether the kernel names a bad position instead of going there.
template <typename Params>
bool refuses(Backend backend, const Params& p, int64_t items,
             void (*cpu)(const Params&, int64_t, int64_t),
             cudaError_t (*cuda)(const Params&, cudaStream_t)) {
  if (backend == Backend::cuda) {
    const bool refused = cuda(p, nullptr) == cudaErrorAssert;
    host_run::take_failure();
    return refused;
  }
  try {
    cpu(p, 0, items);
  } catch (const std::runtime_error&) {
    return true;
  }
  return false;
}
bool refuses(Backend backend, const MaxUnpool2dParams& p) {
  return refuses(backend, p, max_unpool2d_items(p), max_unpool2d_cpu, max_unpool2d_cuda);
}
bool refuses(Backend backend, const MaxUnpool2dBackwardParams& p) {
  return refuses(backend, p, max_unpool2d_backward_items(p), max_unpool2d_backward_cpu,
                 max_unpool2d_backward_cuda);
}

template <typename T>
void test_case(Backend backend, const Pooling& pooling, Source source, char unaligned) {
  const Record kind = source == Source::own_codes ? pooling.records().front() : Record::indices;
  if (source == Source::own_codes && kind == Record::indices) return;
  const int64_t plane = pooling.map.H * pooling.map.W;

  Array<T> input(pooling.shape.pooled_numel(), unaligned == 'i');
  Array<T> grad_input(input.size(), unaligned == 'o');
  Array<T> output(pooling.shape.map_numel(), unaligned == 'o');
  Array<T> grad_output(output.size(), unaligned == 'i');
  Array<T> expected(output.size()), expected_grad(input.size());
  RecordArray record(pooling, kind, unaligned == 'r');
  record.bytes().fill_bytes(0xff);  // also what the last byte of a row's codes has left
  fill_random(input, Values::special);
  fill_random(grad_output, Values::special);

  bool refused = false;  // a window that held no input has no position to unpool to
  pooling.for_each_window([&](int64_t n, int64_t c, int64_t oh, int64_t ow) {
    int chosen = -1, seen = 0;
    int64_t index = -1;
    if (source == Source::foreign_indices) {
      index = random_integer(0, plane - 1);
    } else {
      pooling.for_each_tap(oh, ow, [&](int tap, int64_t y, int64_t x) {
        if (random_integer(0, seen++) != 0) return;  // each tap is as likely
        chosen = tap;
        index = y * pooling.map.W + x;
      });
    }
    record.set(n, c, oh, ow, chosen, index);
    const int64_t from = pooling.pooled(n, c, oh, ow);
    if (index < 0) {
      refused = true;
      return;
    }
    const int64_t to = pooling.map(n, c, index / pooling.map.W, index % pooling.map.W);
    expected[to] = input[from];  // of equal positions the last window's value stays
    expected_grad[from] = grad_output[to];
  });

  Array<int32_t> foreign(1);
  const bool cuda_indices = backend == Backend::cuda && kind == Record::indices;
  const bool gathers = pooling.window.is_2x2();
  const bool flags = kind == Record::indices && gathers;
  MaxUnpool2dParams p{input.data(), record.data(), output.data(), nullptr,
                      kind,         dtype_of<T>(), pooling.shape, pooling.window};
  const auto run = [&] {
    foreign[0] = 0;
    p.foreign = flags ? foreign.data() : nullptr;
    if (cuda_indices && !gathers) output.fill_bytes(0);  // what it scatters over
    run_op(backend, p, max_unpool2d_items(p), max_unpool2d_cpu, max_unpool2d_cuda);
    if (backend != Backend::cpu || foreign[0] == 0) return;
    p.foreign = nullptr;  // as the CPU's caller must
    run_op(backend, p, max_unpool2d_items(p), max_unpool2d_cpu, max_unpool2d_cuda);
  };
  if (refused) {
    CHECK(refuses(backend, p), "a window without input was unpooled");
  } else {
    const std::string missing = unwritten(run, output);
    CHECK(missing.empty(), missing);
    check_same(output, expected, "output");
    const bool own = source == Source::own_indices;
    if (own) CHECK(foreign[0] == 0, "windows' own indices are called foreign");
  }

  const MaxUnpool2dBackwardParams b{grad_output.data(), record.data(), grad_input.data(), kind,
                                    dtype_of<T>(),      pooling.shape, pooling.window};
  const auto run_backward = [&] {
    run_op(backend, b, max_unpool2d_backward_items(b), max_unpool2d_backward_cpu,
           max_unpool2d_backward_cuda);
  };
  const std::string missing_backward = unwritten(run_backward, grad_input);
  CHECK(missing_backward.empty(), "backward: " + missing_backward);
  check_same(grad_input, expected_grad, "grad_input");
}

// An index outside the plane is refused, and nothing is written outside the output; or read, but of
// a window that held no input (-1) there is no gradient.
void test_bad_index(Backend backend, bool channels_last, int64_t W, int64_t bad) {
  const Pooling pooling({"", 2, 3, 5, W, {2, 2, 2, 2, 0, 0, 1, 1}, true}, channels_last);
  Array<float> input(pooling.shape.pooled_numel()), output(pooling.shape.map_numel());
  RecordArray record(pooling, Record::indices);
  pooling.for_each_window([&](int64_t n, int64_t c, int64_t oh, int64_t ow) {
    record.set(n, c, oh, ow, 0, 2 * oh * pooling.map.W + 2 * ow);
  });
  record.set(1, 2, 2, pooling.pooled.W - 1, 0, bad);
  Array<int32_t> foreign(1);
  MaxUnpool2dParams p{input.data(),    record.data(),  output.data(), foreign.data(),
                      Record::indices, DType::float32, pooling.shape, pooling.window};
  if (backend == Backend::cpu && gathers(p)) {
    max_unpool2d_cpu(p, 0, max_unpool2d_items(p));
    CHECK(foreign[0] == 1, "a position outside the plane passed for its window's own");
    p.foreign = nullptr;
  }
  CHECK(refuses(backend, p), "a position outside the plane was unpooled");
  const MaxUnpool2dBackwardParams b{output.data(),  record.data(), input.data(),  Record::indices,
                                    DType::float32, pooling.shape, pooling.window};
  CHECK(refuses(backend, b) == (bad != kEmptyIndex), "backward");
}

// At the map's right edge the next element in memory is the next row's first, in no window of the
// cut one's: only the ordered scatter writes it.
void test_index_beyond_a_cut_window(Backend backend, bool channels_last, int64_t C, int64_t W,
                                    int64_t distance) {
  const Pooling pooling({"", 1, C, 5, W, {2, 2, 2, 2, 0, 0, 1, 1}, true}, channels_last);
  Array<float> input(pooling.shape.pooled_numel()), output(pooling.shape.map_numel());
  Array<float> expected(output.size());
  fill_random(input);
  RecordArray record(pooling, Record::indices);
  pooling.for_each_window([&](int64_t n, int64_t c, int64_t oh, int64_t ow) {
    const bool beyond = oh == 0 && ow == pooling.pooled.W - 1 && c == C - 1;
    const int64_t index = 2 * oh * pooling.map.W + 2 * ow + (beyond ? distance : 0);
    record.set(n, c, oh, ow, 0, index);
    expected[pooling.map(n, c, index / pooling.map.W, index % pooling.map.W)] =
        input[pooling.pooled(n, c, oh, ow)];
  });
  Array<int32_t> foreign(1);
  MaxUnpool2dParams p{input.data(),    record.data(),  output.data(), foreign.data(),
                      Record::indices, DType::float32, pooling.shape, pooling.window};
  run_op(backend, p, max_unpool2d_items(p), max_unpool2d_cpu, max_unpool2d_cuda);
  const bool scatters = backend == Backend::cuda || !gathers(p);
  if (gathers(p)) CHECK(foreign[0] == 1, "a position beyond a cut window passed for its own");
  if (scatters) check_same(output, expected, "output");
}

// Whatever the kernels tell windows apart by, an index beside its window is seen in every lane.
template <typename T>
void test_index_beside_its_window(Backend backend, bool channels_last, int64_t C, int64_t W) {
  const Pooling pooling({"", 1, C, 4, W, {2, 2, 2, 2, 0, 0, 1, 1}, false}, channels_last);
  const int64_t windows = pooling.shape.pooled_width;
  Array<T> input(pooling.shape.pooled_numel()), output(pooling.shape.map_numel());
  RecordArray record(pooling, Record::indices);
  const auto own = [&](int64_t oh, int64_t ow) { return 2 * oh * W + 2 * ow; };
  const auto is_foreign = [&] {
    Array<int32_t> foreign(1);
    foreign[0] = 0;
    const MaxUnpool2dParams p{input.data(),    record.data(), output.data(), foreign.data(),
                              Record::indices, dtype_of<T>(), pooling.shape, pooling.window};
    if (backend == Backend::cpu) max_unpool2d_cpu(p, 0, max_unpool2d_items(p));
    if (backend == Backend::cuda) refuses(backend, p);  // where an index lies outside the plane
    return foreign[0] == 1;
  };
  pooling.for_each_window([&](int64_t n, int64_t c, int64_t oh, int64_t ow) {
    record.set(n, c, oh, ow, 0, own(oh, ow) + random_integer(0, 1) + W * random_integer(0, 1));
  });
  CHECK(!is_foreign(), "windows' own indices are called foreign");
  for (int64_t ow : {int64_t{0}, random_integer(0, windows - 1), windows - 1}) {
    const int64_t c = random_integer(0, C - 1), bit = int64_t{1} << random_integer(15, 62);
    for (int64_t beside : {int64_t{-1}, int64_t{2}, W - 1, W + 2, 2 * W, -W, int64_t{1} << 16, bit,
                           -bit, bit + W, W - bit, std::numeric_limits<int64_t>::min()}) {
      record.set(0, c, 1, ow, 0, own(1, ow) + beside);
      CHECK(is_foreign(), "window " + std::to_string(ow) + ", " + std::to_string(beside) +
                              " from its first pixel: called its own");
    }
    record.set(0, c, 1, ow, 0, own(1, ow));
  }
}

// A code that names a position outside the map, or no tap of its window, is refused.
void test_bad_code(Backend backend, const PoolCase& c, bool channels_last, int64_t oh, int64_t ow,
                   int code) {
  const Pooling pooling(c, channels_last);
  Array<float> input(pooling.shape.pooled_numel()), output(pooling.shape.map_numel());
  const Record kind = pooling.records().front();
  RecordArray record(pooling, kind);
  pooling.for_each_window([&](int64_t n, int64_t k, int64_t h, int64_t w) {
    int sound = -1;
    pooling.for_each_tap(h, w, [&](int tap, int64_t, int64_t) { sound = tap; });
    record.set(n, k, h, w, sound, 0);
  });
  record.set(c.N - 1, c.C - 1, oh, ow, code, 0);
  const MaxUnpool2dParams p{input.data(), record.data(),  output.data(), nullptr,
                            kind,         DType::float32, pooling.shape, pooling.window};
  CHECK(refuses(backend, p), std::string(c.reason) + ": code " + std::to_string(code));
  const MaxUnpool2dBackwardParams b{output.data(),  record.data(), input.data(),  kind,
                                    DType::float32, pooling.shape, pooling.window};
  if (kind == Record::codes2) {  // reads an element of the map, whichever, or refuses
    static_cast<void>(refuses(backend, b));
    return;
  }
  CHECK(refuses(backend, b), std::string(c.reason) + ", backward: code " + std::to_string(code));
}

void test_max_unpool2d(Backend backend) {
  for_each_pooling([&](const Pooling& pooling, const std::string& reason) {
    for_each_type([&](auto tag) {
      using T = typename decltype(tag)::type;
      for (Source source : {Source::own_codes, Source::own_indices, Source::foreign_indices}) {
        for (const char* unaligned : {"nothing", "input", "record"}) {
          const std::string kind = std::to_string(static_cast<int>(source));
          const std::string name =
              reason + ", " + type_name<T>() + ", unaligned: " + unaligned + ", source " + kind;
          if (!begin_case(name)) continue;
          test_case<T>(backend, pooling, source, *unaligned);
        }
      }
    });
  });
  for (bool channels_last : {false, true}) {
    for_each_type([&](auto tag) {
      using T = typename decltype(tag)::type;
      // A map of whole vectors: itself at an odd place, or with a row and a column of windows less
      // than it has room for.
      for (const char* what : {"output unaligned", "fewer windows"}) {
        Pooling pooling({"", 1, 16, 8, 32, {2, 2, 2, 2, 0, 0, 1, 1}, false}, channels_last);
        if (*what == 'f') {
          pooling.shape.pooled_height = --pooling.pooled.H;
          pooling.shape.pooled_width = --pooling.pooled.W;
        }
        for (Source source : {Source::own_codes, Source::own_indices, Source::foreign_indices}) {
          const std::string name = std::string(what) +
                                   (channels_last ? ", channels_last, " : ", ") + type_name<T>() +
                                   ", source " + std::to_string(static_cast<int>(source));
          if (begin_case(name)) test_case<T>(backend, pooling, source, *what);
        }
      }
      // Fewer windows than a vector's, whole vectors and not, wider than 16 bits tell.
      for (int64_t W : {4, 7, 16, 22, 64, 127, (1 << 14) - 1, 1 << 14, (1 << 16) + 3}) {
        // Whose indices may lie anywhere.
        if (backend == Backend::cpu && !channels_last && W / 2 < kShortRow) continue;
        const std::string name = std::string(type_name<T>()) + ", maps " + std::to_string(W) +
                                 " wide" + (channels_last ? ", channels_last" : "");
        if ((backend == Backend::cuda && W > 22) || !begin_case(name)) continue;
        const int64_t C = channels_last && W < 1000 ? random_integer(1, 80) : 1;
        test_index_beside_its_window<T>(backend, channels_last, C, W);
      }
    });
    for (int64_t W : {8, 16}) {  // rows of less than a vector, and of more
      // Beyond the plane by one, below and below to the right of a window cut there, and far.
      for (int64_t bad : {int64_t{-1}, 5 * W, 6 * W - 2, 6 * W - 1, int64_t{1} << 33}) {
        const std::string name = "index " + std::to_string(bad) + ", maps " + std::to_string(W) +
                                 " wide" + (channels_last ? ", channels_last" : "");
        if (!begin_case(name)) continue;
        test_bad_index(backend, channels_last, W, bad);
      }
    }
    if (!begin_case(channels_last ? "bad codes, channels_last" : "bad codes")) continue;
    const Window2d two{2, 2, 2, 2, 0, 0, 1, 1}, three{3, 3, 2, 2, 1, 1, 1, 1};
    const Window2d three_1{3, 3, 1, 1, 1, 1, 1, 1};
    for (int64_t C : {3, 16}) {  // one element and one vector of channels a thread
      for (int64_t W : {9, 17}) {
        for (int64_t distance : {int64_t{1}, W + 1}) {
          test_index_beyond_a_cut_window(backend, channels_last, C, W, distance);
        }
      }
      const PoolCase cut{"2x2, last windows cut", 2, C, 7, 9, two, true};
      test_bad_code(backend, cut, channels_last, 3, 0, 2);
      test_bad_code(backend, cut, channels_last, 0, 4, 1);
      test_bad_code(backend, cut, channels_last, 3, 4, 3);  // the last window
      const PoolCase padded{"3x3, padded", 2, C, 8, 10, three, false};
      test_bad_code(backend, padded, channels_last, 0, 2, 1);
      test_bad_code(backend, padded, channels_last, 2, 0, 3);
      test_bad_code(backend, padded, channels_last, 2, 2, 9);
      test_bad_code(backend, padded, channels_last, 3, 4, 9);  // the last window
      const PoolCase dense{"3x3/1, more windows than threads", 2, C, 8, 10, three_1, false};
      test_bad_code(backend, dense, channels_last, 7, 9, 9);
    }
  }
}

}  // namespace

int main(int argc, char** argv) { return op_main(argc, argv, test_max_unpool2d); }
