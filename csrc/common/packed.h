// packed.h: neighbouring elements as a GPU's registers hold them, those of 16 bits two a word. What
// is loaded, chosen and compared by words takes half the instructions; a compiler that chooses
// between two Vecs does so element by element.
#pragma once

#include "common/vec.h"

namespace segfast {

template <typename T, int N>
struct Packed {
  static constexpr bool kPairs = sizeof(T) == 2 && N % 2 == 0;
  using Word = std::conditional_t<kPairs, uint32_t, T>;
  static constexpr int kWords = static_cast<int>(N * sizeof(T) / sizeof(Word));

  Word word[kWords];

  SEGFAST_HOST_DEVICE static Packed load(const T* address) { return load_if(true, address); }
  // Zeros unless `condition`.
  SEGFAST_HOST_DEVICE static Packed load_if(bool condition, const T* address) {
    using Words = Vec<Word, kWords>;
    Words words{};
    if (condition) words = Words::load(reinterpret_cast<const Word*>(address));
    Packed packed;
#pragma unroll
    for (int i = 0; i < kWords; ++i) packed.word[i] = words.at[i];
    return packed;
  }

  SEGFAST_HOST_DEVICE void store(T* address) const {
    Vec<Word, kWords> words;
#pragma unroll
    for (int i = 0; i < kWords; ++i) words.at[i] = word[i];
    words.store(reinterpret_cast<Word*>(address));
  }

  SEGFAST_HOST_DEVICE T at(int i) const {
    if constexpr (kPairs) {
      return T{static_cast<uint16_t>(word[i / 2] >> (i % 2 * 16))};
    } else {
      return word[i];
    }
  }
  // Element i becomes 0.
  SEGFAST_HOST_DEVICE void clear(int i) {
    if constexpr (kPairs) {
      word[i / 2] &= i % 2 == 0 ? 0xffff0000u : 0xffffu;
    } else {
      word[i] = T{};
    }
  }

  SEGFAST_HOST_DEVICE void floats(accumulate_t<T> (&values)[N]) const {
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      if constexpr (kPairs) {
        floats_of_word<T>(word[i], values[2 * i], values[2 * i + 1]);
      } else {
        values[i] = to_float(word[i]);
      }
    }
  }
};

}  // namespace segfast
