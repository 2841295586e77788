// test_max_pool2d.cpp: max pooling with and without a record of the maxima, and its backward.
#include "kernels/max_pool2d/max_pool2d.h"

#include "pools.h"

using namespace segfast;
using namespace segfast::test;

namespace {

template <typename T>
void test_forward(Backend backend, const Pooling& pooling, Values values, char unaligned) {
  Array<T> input(pooling.shape.map_numel(), unaligned == 'i');
  Array<T> output(pooling.shape.pooled_numel(), unaligned == 'o');
  Array<T> expected(output.size());
  fill_random(input, values);
  std::vector<RecordArray> expected_records;
  for (Record kind : pooling.records()) expected_records.emplace_back(pooling, kind);

  pooling.for_each_window([&](int64_t n, int64_t c, int64_t oh, int64_t ow) {
    double best = -INFINITY;
    int best_tap = -1;
    int64_t best_index = -1;
    pooling.for_each_tap(oh, ow, [&](int tap, int64_t y, int64_t x) {
      const double value = static_cast<double>(to_float(input[pooling.map(n, c, y, x)]));
      if (best_tap < 0 || value > best || std::isnan(value)) {
        best = value;
        best_tap = tap;
        best_index = y * pooling.map.W + x;
      }
    });
    expected[pooling.pooled(n, c, oh, ow)] = from_float<T>(static_cast<accumulate_t<T>>(best));
    for (RecordArray& record : expected_records) record.set(n, c, oh, ow, best_tap, best_index);
  });

  MaxPool2dParams p{input.data(),  output.data(), nullptr,       Record::indices,
                    dtype_of<T>(), pooling.shape, pooling.window};
  const auto run = [&] {
    run_op(backend, p, max_pool2d_items(p), max_pool2d_cpu, max_pool2d_cuda);
  };
  const std::string missing = unwritten(run, output);
  CHECK(missing.empty(), missing);
  check_same(output, expected, "output without record");
  for (size_t i = 0; i < expected_records.size(); ++i) {
    const Record kind = pooling.records()[i];
    RecordArray record(pooling, kind, unaligned == 'r');
    p.record = record.data();
    p.record_kind = kind;
    const std::string missing_with_record = unwritten(run, output, record.bytes());
    CHECK(missing_with_record.empty(), record_name(kind) + (": " + missing_with_record));
    check_same(output, expected, std::string("output with ") + record_name(kind));
    check_same(record.bytes(), expected_records[i].bytes(), record_name(kind));
  }
}

// Gradients are small integers, so that sums are exact in every type and any order.
template <typename T>
void test_backward(Backend backend, const Pooling& pooling, char unaligned) {
  Array<T> grad_output(pooling.shape.pooled_numel(), unaligned == 'i');
  Array<T> grad_input(pooling.shape.map_numel(), unaligned == 'o');
  fill_random(grad_output, Values::ties);
  Array<double> sums(grad_input.size());
  std::vector<RecordArray> records;
  for (Record kind : pooling.records()) records.emplace_back(pooling, kind, unaligned == 'r');
  pooling.for_each_window([&](int64_t n, int64_t c, int64_t oh, int64_t ow) {
    int chosen = -1, seen = 0;
    int64_t index = -1, element = -1;
    pooling.for_each_tap(oh, ow, [&](int tap, int64_t y, int64_t x) {
      if (random_integer(0, seen++) != 0) return;  // each tap is as likely
      chosen = tap;
      index = y * pooling.map.W + x;
      element = pooling.map(n, c, y, x);
    });
    for (RecordArray& record : records) record.set(n, c, oh, ow, chosen, index);
    if (element >= 0) {
      sums[element] += static_cast<double>(to_float(grad_output[pooling.pooled(n, c, oh, ow)]));
    }
  });
  Array<T> expected(grad_input.size());
  for (int64_t i = 0; i < sums.size(); ++i) {
    expected[i] = from_float<T>(static_cast<accumulate_t<T>>(sums[i]));
  }

  for (size_t i = 0; i < records.size(); ++i) {
    const Record kind = pooling.records()[i];
    const MaxPool2dBackwardParams p{grad_output.data(), records[i].data(), grad_input.data(), kind,
                                    dtype_of<T>(),      pooling.shape,     pooling.window};
    const auto run = [&] {
      run_op(backend, p, max_pool2d_backward_items(p), max_pool2d_backward_cpu,
             max_pool2d_backward_cuda);
    };
    const std::string missing = unwritten(run, grad_input);
    CHECK(missing.empty(), record_name(kind) + (": " + missing));
    check_same(grad_input, expected, std::string("grad_input from ") + record_name(kind));
  }
}

// Records that name what lies beyond the map send nothing there, and every element of the map is
// written. (A backward pass's records are its forward pass's: which element gets what, nobody
// says.)
void test_bad_records(Backend backend, bool channels_last) {
  for (int64_t W : {9, 41}) {  // rows of less than a vector, and of more
    for (Record kind : {Record::codes2, Record::indices}) {
      const std::string layout = channels_last ? ", channels_last" : ", contiguous";
      const std::string name = std::string("bad ") + record_name(kind) + ", maps ";
      if (!begin_case(name + std::to_string(W) + " wide" + layout)) continue;
      const Pooling pooling({"", 2, 3, 7, W, {2, 2, 2, 2, 0, 0, 1, 1}, true}, channels_last);
      Array<float> grad_output(pooling.shape.pooled_numel()), grad_input(pooling.shape.map_numel());
      RecordArray record(pooling, kind);
      record.bytes().fill_bytes(0xff);  // the last code of each window; index -1
      fill_random(grad_output);
      const MaxPool2dBackwardParams p{grad_output.data(), record.data(), grad_input.data(), kind,
                                      DType::float32,     pooling.shape, pooling.window};
      const auto run = [&] {
        run_op(backend, p, max_pool2d_backward_items(p), max_pool2d_backward_cpu,
               max_pool2d_backward_cuda);
      };
      const std::string missing = unwritten(run, grad_input);
      CHECK(missing.empty(), missing);
    }
  }
}

// Indices of rows that are as long as an offset of 16 bits reaches, and longer.
void test_wide_maps(Backend backend, bool channels_last) {
  for (int64_t W : {65534, 65535}) {
    const std::string layout = channels_last ? ", channels_last" : ", contiguous";
    if (!begin_case("maps " + std::to_string(W) + " wide" + layout)) continue;
    const Pooling pooling({"", 1, channels_last ? 2 : 1, 2, W, {2, 2, 2, 2, 0, 0, 1, 1}, false},
                          channels_last);
    test_forward<BFloat16>(backend, pooling, Values::normal, 'n');
  }
}

void test_max_pool2d(Backend backend) {
  for (bool channels_last : {false, true}) {
    test_bad_records(backend, channels_last);
    test_wide_maps(backend, channels_last);
  }
  for_each_pooling([&](const Pooling& pooling, const std::string& reason) {
    // On a GPU, a window is like any other that no kernel knows, however many taps it has.
    const bool is_long = backend == Backend::cuda && pooling.window.taps() > 64;
    for_each_type([&](auto tag) {
      using T = typename decltype(tag)::type;
      for (const char* unaligned : {"nothing", "input", "output", "record"}) {
        if (is_long && *unaligned != 'n') continue;
        const std::string where = reason + ", " + type_name<T>() + ", unaligned: " + unaligned;
        // Fresh memory, which a forward pass writes to, is aligned: a few cases will do.
        const bool writes_aligned = *unaligned == 'o' || *unaligned == 'r';
        const bool of_vectors = pooling.map.W % 16 == 0 || pooling.map.C % 16 == 0;
        for (Values values : {Values::normal, Values::ties, Values::special, Values::low}) {
          if (*unaligned == 'i' && values == Values::normal) continue;  // as most special ones are
          if (writes_aligned && !(of_vectors && values == Values::special)) continue;
          if (is_long && values != Values::special) continue;
          const std::string kind = std::to_string(static_cast<int>(values));
          if (!begin_case(where + ", values " + kind)) continue;
          test_forward<T>(backend, pooling, values, *unaligned);
        }
        if (*unaligned == 'o' && !of_vectors) continue;
        if (begin_case(where + ", backward")) test_backward<T>(backend, pooling, *unaligned);
      }
    });
  });
}

}  // namespace

int main(int argc, char** argv) { return op_main(argc, argv, test_max_pool2d); }
