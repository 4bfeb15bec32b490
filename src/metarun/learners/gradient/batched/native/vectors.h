// Vectors of the processor, and memory that threads keep.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <type_traits>

// Bytes of a vector, and what fits into the registers: pixels of a tile, entries of an outer product, each times two
// vectors.
#ifdef __AVX512F__
constexpr int BYTES = 64, PIXELS = 14, ROWS = 8;
#else
constexpr int BYTES = 32, PIXELS = 6, ROWS = 4;
#endif

template <class S>
struct Of {
  typedef S Vector __attribute__((vector_size(BYTES), aligned(alignof(S))));
  static constexpr int length = BYTES / sizeof(S);
};

template <class S>
using Vector = typename Of<S>::Vector;

template <class S>
static inline Vector<S> load(const S* from) {
  return *reinterpret_cast<const Vector<S>*>(from);
}

template <class S>
static inline void store(S* to, Vector<S> v) {
  *reinterpret_cast<Vector<S>*>(to) = v;
}

template <class S>
using Mask = decltype(Vector<S>() > Vector<S>());

// Scratch memory of the calling thread, aligned to a cache line; it grows and stays.
template <class S>
struct Scratch {
  S* data = nullptr;
  size_t size = 0;
  S* of(size_t wanted) {
    if (wanted > size) {
      ::operator delete(data, std::align_val_t(64));
      data = static_cast<S*>(::operator new(wanted * sizeof(S), std::align_val_t(64)));
      size = wanted;
    }
    return data;
  }
  ~Scratch() { ::operator delete(data, std::align_val_t(64)); }
};

struct Shape {
  int64_t tasks, images, height, width, in, out;
  int64_t pixels() const { return images * height * width; }
};
