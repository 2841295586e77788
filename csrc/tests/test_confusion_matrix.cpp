// test_confusion_matrix.cpp: counts from logits and from predicted labels. Counts are exact.
#include "kernels/confusion_matrix/confusion_matrix.h"

#include "labels.h"

using namespace segfast;
using namespace segfast::test;

namespace {

struct MatrixCase {
  const char* reason;
  int64_t N, C, S;  // C = 1: two classes by a threshold
};

const MatrixCase kCases[] = {
    {"one pixel, two classes", 1, 2, 1},
    {"one channel and a threshold", 2, 1, 77},
    {"a whole number of vectors", 1, 8, 1024},
    {"a tail of pixels", 2, 19, 333},
    {"more classes than registers hold", 1, 40, 130},
    {"classes whose matrix leaves shared memory", 1, 150, 65},
    {"more classes than a byte counts", 1, 300, 24},
    {"a stage of doubles holds one pixel, not aligned", 1, 1537, 4},
    {"one channel more than a stage of doubles holds", 1, 3073, 3},
    {"several blocks of threads and chunks", 2, 3, 17000},
    {"no pixels", 1, 3, 0},
    {"an empty batch", 0, 3, 5},
};

template <typename T>
void test_case(Backend backend, const MatrixCase& c, bool channels_last, TargetType type,
               bool by_sample, int64_t offset, int64_t label_offset) {
  const int64_t K = c.C == 1 ? 2 : c.C;
  if (K - 1 >= largest_label(type)) return;
  // For what they are for, and no more: their matrices take up to 76 MB.
  const bool fills_stage = std::is_same_v<T, double> && channels_last && backend == Backend::cuda;
  if (c.C > 1500 && !(fills_stage && type == TargetType::int32)) return;
  const int64_t ignored = by_sample ? largest_label(type) : K - 1;
  const int64_t pixels = c.N * c.S;
  std::vector<int64_t> labels = random_labels(pixels, K, ignored);
  std::vector<int64_t> predicted = random_labels(pixels, K, 0);
  Array<T> logits(pixels * c.C, offset);
  fill_random(logits, Values::ties);
  for (int64_t i = 0; i < logits.size(); ++i) {
    if (random_integer(0, 15) == 0) logits[i] = from_float<T>(static_cast<accumulate_t<T>>(NAN));
  }
  std::vector<int64_t> expected_bad(2);
  if (pixels > 20) {  // a bad prediction where the label is ignored
    labels[7] = ignored;
    predicted[7] = K;
  }
  // Bad ones stop a GPU's grid, so only the CPU gets some: two labels, and a prediction.
  if (pixels > 20 && backend == Backend::cpu) {
    labels[3] = K;
    labels[17] = ignored - 1;
    labels[5] = 0;
    predicted[5] = K;
  }

  const Layout layout{channels_last, c.C, 1, c.S};
  // The first of equal maxima is an early class: of some pixels the last one wins.
  for (int64_t i = 0; i < pixels; i += 7) {
    for (int64_t k = 0; k < c.C; ++k) {
      logits[layout(i / c.S, k, 0, i % c.S)] = from_float<T>(k == c.C - 1 ? 4 : 0);
    }
  }
  const double threshold = 1.0;  // which some logits are
  const int64_t matrices = by_sample ? c.N : 1;
  Array<int64_t> from_logits(matrices * K * K), from_labels(matrices * K * K);
  int64_t bad_labels = 0, bad_predictions = 0;
  for (int64_t n = 0; n < c.N; ++n) {
    for (int64_t s = 0; s < c.S; ++s) {
      const size_t pixel = static_cast<size_t>(n * c.S + s);
      const int64_t label = labels[pixel];
      if (label == ignored) continue;
      if (label < 0 || label >= K) {
        ++bad_labels;
        continue;
      }
      int64_t best = 0;
      double largest = static_cast<double>(to_float(logits[layout(n, 0, 0, s)]));
      for (int64_t k = 1; k < c.C && !std::isnan(largest); ++k) {
        const double value = static_cast<double>(to_float(logits[layout(n, k, 0, s)]));
        if (value > largest || std::isnan(value)) {
          best = k;
          largest = value;
        }
      }
      if (c.C == 1) best = largest > threshold ? 1 : 0;
      const int64_t row = ((by_sample ? n : 0) * K + label) * K;
      ++from_logits[row + best];
      if (predicted[pixel] < K) {
        ++from_labels[row + predicted[pixel]];
      } else {
        ++bad_predictions;
      }
    }
  }

  const Array<uint8_t> target = store_labels(labels, type, label_offset);
  const Array<uint8_t> prediction = store_labels(predicted, type, label_offset);
  Array<int64_t> matrix(matrices * K * K), bad(2);
  ConfusionMatrixParams p{};
  p.dtype = dtype_of<T>();
  p.samples = c.N;
  p.channels = c.C;
  p.pixels = c.S;
  p.channels_last = channels_last;
  p.threshold = threshold;
  p.target = target.data();
  p.target_type = type;
  p.classes = K;
  p.has_ignore_index = true;
  p.ignore_index = ignored;
  p.by_sample = by_sample;
  p.matrix = matrix.data();
  p.bad = bad.data();
  const auto run = [&] {
    matrix.fill_bytes(0);
    bad.fill_bytes(0);
    run_op(backend, p, confusion_matrix_items(p), confusion_matrix_cpu, confusion_matrix_cuda);
  };
  p.logits = logits.data();
  std::string differs = unwritten(run, matrix, bad);
  CHECK(differs.empty(), "from logits: " + differs);
  check_same(matrix, from_logits, "matrix from logits");
  CHECK(bad[0] == bad_labels && bad[1] == 0, "bad labels: " + show(bad[0]) + ", " + show(bad[1]));

  p.logits = nullptr;
  p.prediction = prediction.data();
  p.prediction_type = type;
  differs = unwritten(run, matrix, bad);
  CHECK(differs.empty(), "from labels: " + differs);
  check_same(matrix, from_labels, "matrix from labels");
  CHECK(bad[0] == bad_labels && bad[1] == bad_predictions,
        "bad labels: " + show(bad[0]) + ", predictions: " + show(bad[1]));
}

// A label, or a predicted label, that is no class stops the grid with an error.
void test_bad_labels_on_a_gpu() {
  for (bool bad_prediction : {false, true}) {
    if (!begin_case(bad_prediction ? "a bad predicted label" : "a bad label")) continue;
    Array<int64_t> matrix(9), target(50), prediction(50);
    (bad_prediction ? prediction : target)[33] = 3;
    ConfusionMatrixParams p{};
    p.samples = 1;
    p.pixels = 50;
    p.prediction = prediction.data();
    p.target = target.data();
    p.prediction_type = p.target_type = TargetType::int64;
    p.classes = 3;
    p.matrix = matrix.data();
    const cudaError_t error = confusion_matrix_cuda(p, nullptr);
    const std::string failure = host_run::take_failure();
    CHECK(error == cudaErrorAssert && failure.find("confusion_matrix: a ") != std::string::npos,
          "the launch ended with " + std::to_string(error) + ": " + failure);
  }
}

void test_confusion_matrix(Backend backend) {
  if (backend == Backend::cuda) test_bad_labels_on_a_gpu();
  for (const MatrixCase& c : kCases) {
    for (bool channels_last : {false, true}) {
      for_each_type([&](auto tag) {
        using T = typename decltype(tag)::type;
        for (TargetType type : kLabelTypes) {
          // Each label type once, with the other options in turn.
          const int turn = static_cast<int>(type);
          const std::string name = std::string(c.reason) +
                                   (channels_last ? ", channels_last, " : ", contiguous, ") +
                                   type_name<T>() + ", label type " + std::to_string(turn);
          if (!begin_case(name)) continue;
          test_case<T>(backend, c, channels_last, type, turn % 2 == 0, turn / 2 == 1,
                       turn % 3 == 1);
        }
      });
    }
  }
}

}  // namespace

int main(int argc, char** argv) { return op_main(argc, argv, test_confusion_matrix); }
