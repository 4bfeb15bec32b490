// The first block: a convolution of examples, which have no derivatives, its norm, pool and ReLU.
#pragma once

#include "norm.h"

//
// The convolution's output is as large as all other activations together, and quickly computed: it is never stored.

struct First {
  int64_t in, w_stride;
};

template <class S>
static void first(const S* x, const S* w, const S* gamma, const S* beta, S* out, S* pooled, uint8_t* index, S* mu,
    S* r, const First& f, const Norm& s) {
  static thread_local Scratch<double> sums;
  static thread_local Scratch<S> scratch, rows;
  const int64_t C = s.channels, left = s.left() * C;
  for (int64_t t = 0; t < s.tasks; t++) {
    const Recomputed<S> y{x + t * s.rows() * f.in, w + t * f.w_stride, f.in, s, rows};
    statistics(y, s, mu + t * C, r + t * C, sums.of(2 * C));
    const Affine<S> affine(scratch, gamma + t * C, beta + t * C, mu + t * C, r + t * C, C);
    if (s.pool)
      forward_task<S, 4>(y, gamma + t * C, affine, out + t * left, pooled + t * left, index + t * left, s);
    else
      forward_task<S, 1>(y, gamma + t * C, affine, out + t * left, pooled + t * left, nullptr, s);
  }
}

// Adds the derivative of the weights of a pair of rows, whose output has the derivative dy.
template <class S>
static void add_weights(const Recomputed<S>& y, const S* dy, int64_t h, int64_t rows, S* gw) {
  const int64_t row = y.row();
  for (int kh = 0; kh < 3; kh++)
    outer_all(y.padded() + (h + kh) * row, Pixels{1, rows, y.s.width, 0, row, y.in}, 3 * y.in, dy, y.s.channels,
        gw + kh * 3 * y.in * y.s.channels);
}

template <class S>
static void first_backward(const Saved<S>& saved, const S* x, const S* w, S* gw, S* dgamma, S* dbeta, const First& f,
    const Norm& s) {
  static thread_local Scratch<S> rows, results;
  const int64_t C = s.channels, size = 9 * f.in * C;
  S* dy = results.of(2 * s.width * C);
  for (int64_t t = 0; t < s.tasks; t++) {
    const Recomputed<S> y{x + t * s.rows() * f.in, w + t * f.w_stride, f.in, s, rows};
    std::memset(gw + t * size, 0, size * sizeof(S));
    auto to = [&](int64_t, int64_t) { return dy; };
    auto end = [&](int64_t, int64_t h, int64_t count) { add_weights(y, dy, h, count, gw + t * size); };
    if (s.pool)
      backward_task<S, 4>(saved.of(t, s), y, to, dgamma + t * C, dbeta + t * C, s, end);
    else
      backward_task<S, 1>(saved.of(t, s), y, to, dgamma + t * C, dbeta + t * C, s, end);
  }
}

// The cotangent u of gw is weights, too: that of dy is their convolution.
template <class S>
static void first_twice(const Saved<S>& saved, const Cotangents<S>& by, const S* x, const S* w, const S* u, S* of_g,
    S* of_w, S* of_gamma, const First& f, const Norm& s) {
  static thread_local Scratch<S> y_rows, u_rows, results;
  const int64_t C = s.channels, size = 9 * f.in * C, left = s.left() * C;
  S* of_y = results.of(2 * s.width * C);
  for (int64_t t = 0; t < s.tasks; t++) {
    const S* images = x + t * s.rows() * f.in;
    const Recomputed<S> y{images, w + t * f.w_stride, f.in, s, y_rows}, cotangent{images, u + t * size, f.in, s, u_rows};
    std::memset(of_w + t * size, 0, size * sizeof(S));
    auto to = [&](int64_t, int64_t) { return of_y; };
    auto end = [&](int64_t, int64_t h, int64_t count) { add_weights(y, of_y, h, count, of_w + t * size); };
    if (s.pool)
      twice_task<S, 4>(saved.of(t, s), by.of(t, s), y, cotangent, to, of_g + t * left, of_gamma + t * C, s, end);
    else
      twice_task<S, 1>(saved.of(t, s), by.of(t, s), y, cotangent, to, of_g + t * left, of_gamma + t * C, s, end);
  }
}
