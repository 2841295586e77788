// test_pool_codes.cpp: conversions between codes and indices.
#include "kernels/pool_codes/pool_codes.h"
#include "pools.h"

using namespace segfast;
using namespace segfast::test;

namespace {

// Codes and indices of the same random taps, as both kinds store them.
struct Taps {
  Taps(const Pooling& pooling, Record kind)
      : codes(pooling, kind), indices(pooling, Record::indices) {
    pooling.for_each_window([&](int64_t n, int64_t c, int64_t oh, int64_t ow) {
      int chosen = -1;
      int64_t index = -1;
      int seen = 0;
      pooling.for_each_tap(oh, ow, [&](int tap, int64_t y, int64_t x) {
        if (random_integer(0, seen++) != 0) return;  // each tap is as likely
        chosen = tap;
        index = y * pooling.map.W + x;
      });
      codes.set(n, c, oh, ow, chosen, index);
      indices.set(n, c, oh, ow, chosen, index);
    });
  }
  RecordArray codes, indices;
};

PoolCodesParams params_of(const Pooling& pooling, RecordArray& codes, RecordArray& indices,
                          int32_t* bad) {
  return {static_cast<uint8_t*>(codes.data()), static_cast<int64_t*>(indices.data()), pooling.shape,
          pooling.window, bad};
}

void test_pool_codes(Backend backend) {
  for_each_pooling([&](const Pooling& pooling, const std::string& reason) {
    const Record kind = pooling.records().front();
    if (kind == Record::indices || !begin_case(reason)) return;
    Taps taps(pooling, kind);
    Array<int32_t> bad(1);

    RecordArray indices(pooling, Record::indices);
    PoolCodesParams p = params_of(pooling, taps.codes, indices, bad.data());
    const auto to_indices = [&] {
      run_op(backend, p, codes_to_indices_items(p), codes_to_indices_cpu, codes_to_indices_cuda);
    };
    const std::string missing = unwritten(to_indices, indices.bytes());
    CHECK(missing.empty(), "codes_to_indices: " + missing);
    check_same(indices.bytes(), taps.indices.bytes(), "indices");

    RecordArray codes(pooling, kind);
    p = params_of(pooling, codes, taps.indices, bad.data());
    const auto to_codes = [&] {
      run_op(backend, p, indices_to_codes_items(p), indices_to_codes_cpu, indices_to_codes_cuda);
    };
    const std::string missing_codes = unwritten(to_codes, codes.bytes());
    CHECK(missing_codes.empty(), "indices_to_codes: " + missing_codes);
    check_same(codes.bytes(), taps.codes.bytes(), "codes");
    CHECK(bad[0] == 0, "a sound record was called bad");

    if (pooling.shape.pooled_numel() == 0) return;
    // The CPU kernel reports a bad record; the CUDA kernel stops.
    const auto is_refused = [&](auto&& on_cpu, auto* on_cuda) {
      if (backend == Backend::cuda) {
        const cudaError_t error = on_cuda(p, nullptr);
        return error == cudaErrorAssert && !host_run::take_failure().empty();
      }
      bad[0] = 0;
      on_cpu();
      return bad[0] == 1;
    };
    const int64_t windows = pooling.shape.pooled_numel();
    for (int64_t wrong :
         {kEmptyIndex, int64_t{-2}, pooling.map.H * pooling.map.W, int64_t{1} << 40}) {
      if (wrong == kEmptyIndex && kind == Record::codes8) continue;  // which have a code for it
      Taps broken(pooling, kind);
      auto* values = static_cast<int64_t*>(broken.indices.data());
      values[random_integer(0, windows - 1)] = wrong;
      p = params_of(pooling, codes, broken.indices, bad.data());
      CHECK(is_refused(to_codes, indices_to_codes_cuda),
            "index " + std::to_string(wrong) + " goes unnoticed");
    }
    if (kind != Record::codes8) return;
    for (int wrong : {pooling.window.taps(), 254}) {  // the window's last tap and one; no tap
      Taps broken(pooling, kind);
      broken.codes.bytes()[random_integer(0, windows - 1)] = static_cast<uint8_t>(wrong);
      p = params_of(pooling, broken.codes, indices, bad.data());
      CHECK(is_refused(to_indices, codes_to_indices_cuda),
            "code " + std::to_string(wrong) + " goes unnoticed");
    }
  });
}

}  // namespace

int main(int argc, char** argv) { return op_main(argc, argv, test_pool_codes); }
