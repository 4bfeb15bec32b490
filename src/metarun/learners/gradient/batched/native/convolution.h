// Convolutions of T tasks and their derivatives, each by the algorithm that suits its shape.
#pragma once

#include "direct.h"
#include "winograd.h"

#ifdef __clang__
#define SHUFFLE(a, b, from) ([&] {                                                                     \
  Vector<S> result;                                                                                    \
  for (int i = 0; i < n; i++) result[i] = from[i] < n ? a[from[i]] : b[from[i] - n];                    \
  return result;                                                                                       \
}())
#else
#define SHUFFLE(a, b, from) __builtin_shuffle(a, b, from)
#endif

// Exchanges blocks of STEP x STEP entries across the diagonal, then larger ones: a transposition in the registers.
template <class S, int STEP = 1>
static inline __attribute__((always_inline)) void transpose(Vector<S>* v) {
  constexpr int n = Of<S>::length;
  if constexpr (STEP < n) {
    Mask<S> low, high;
    for (int i = 0; i < n; i++) low[i] = i & STEP ? n + i - STEP : i, high[i] = i & STEP ? n + i : i + STEP;
    for (int i = 0; i < n; i++)
      if (!(i & STEP)) {
        const Vector<S> a = v[i], b = v[i + STEP];
        v[i] = SHUFFLE(a, b, low);
        v[i + STEP] = SHUFFLE(a, b, high);
      }
    transpose<S, 2 * STEP>(v);
  }
}

// w [3, 3, in, out] turned by half a turn and transposed: [3, 3, out, in], so that a convolution with it is the
// derivative with respect to the images.
template <class S>
static void turn(const S* w, S* turned, int64_t in, int64_t out) {
  constexpr int n = Of<S>::length;
  for (int tap = 0; tap < 9; tap++) {
    const S* from = w + tap * in * out;
    S* to = turned + (8 - tap) * in * out;
    for (int64_t o = 0; o < out; o += n)
      for (int64_t c = 0; c < in; c += n) {
        Vector<S> v[n];
        for (int i = 0; i < n; i++) v[i] = load(from + (c + i) * out + o);
        transpose<S>(v);
        for (int i = 0; i < n; i++) store(to + (o + i) * in + c, v[i]);
      }
  }
}

template <class S>
static void convolution(const S* x, const S* w, int64_t w_stride, S* y, const Shape& s) {
  const auto task = suits_winograd(s, s.in, s.out) ? winograd<S> : direct<S>;
  for (int64_t t = 0; t < s.tasks; t++)
    task(x + t * s.pixels() * s.in, w + t * w_stride, y + t * s.pixels() * s.out, s, s.in, s.out);
}

template <class S>
static void convolution_images(const S* g, const S* w, int64_t w_stride, S* gx, const Shape& s) {
  static thread_local Scratch<S> scratch;
  const auto task = suits_winograd(s, s.out, s.in) ? winograd<S> : direct<S>;
  S* turned = scratch.of(9 * s.in * s.out);
  for (int64_t t = 0; t < s.tasks; t++) {
    if (t == 0 || w_stride) turn(w + t * w_stride, turned, s.in, s.out);
    task(g + t * s.pixels() * s.out, turned, gx + t * s.pixels() * s.in, s, s.out, s.in);
  }
}

template <class S>
static void convolution_weights(const S* x, const S* g, S* gw, const Shape& s) {
  const auto task = suits_winograd(s, s.in, s.out) ? winograd_weights<S> : direct_weights<S>;
  for (int64_t t = 0; t < s.tasks; t++)
    task(x + t * s.pixels() * s.in, g + t * s.pixels() * s.out, gw + t * 9 * s.in * s.out, s, s.in, s.out);
}
