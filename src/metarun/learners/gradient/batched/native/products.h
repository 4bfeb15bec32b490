// Products of small matrices whose results stay in the registers.
#pragma once

#include "vectors.h"

// y[p, o] = sum over kh < K and j < J of x[p + kh rows, j] w[kh, j, o], for R rows of P pixels and V vectors of o.
template <class S, int K, int R, int P, int V>
static inline __attribute__((always_inline)) void tile(const S* __restrict x, int64_t row, int64_t pixel, int64_t J,
    const S* __restrict w, int64_t out, S* __restrict y) {
  Vector<S> sum[R * P][V] = {};
  for (int kh = 0; kh < K; kh++) {
    const S* source = x + kh * row;
    const S* weights = w + kh * J * out;
    for (int64_t j = 0; j < J; j++) {
      Vector<S> of[V];
      for (int v = 0; v < V; v++) of[v] = load(weights + j * out + v * Of<S>::length);
      for (int p = 0; p < R * P; p++) {
        const S a = source[p / P * row + p % P * pixel + j];
        for (int v = 0; v < V; v++) sum[p][v] += a * of[v];
      }
    }
  }
  for (int p = 0; p < R * P; p++)  // rows of y follow one another
    for (int v = 0; v < V; v++) store(y + p * out + v * Of<S>::length, sum[p][v]);
}

template <class S, int K, int V, int P = PIXELS>
static inline void tile_of(
    int pixels, const S* x, int64_t row, int64_t pixel, int64_t J, const S* w, int64_t out, S* y) {
  if constexpr (P > 0) {
    if (pixels == P)
      tile<S, K, 1, P, V>(x, row, pixel, J, w, out, y);
    else
      tile_of<S, K, V, P - 1>(pixels, x, row, pixel, J, w, out, y);
  }
}

// Several whole rows of a narrow image at once, which keep more registers busy; returns how many, 0: it is wide.
template <class S, int V, int P = PIXELS / 2>
static inline int rows_of(
    int64_t width, int64_t rows, const S* x, int64_t row, int64_t pixel, int64_t J, const S* w, int64_t out, S* y) {
  if constexpr (P > 0) {
    if (width != P) return rows_of<S, V, P - 1>(width, rows, x, row, pixel, J, w, out, y);
    constexpr int most = PIXELS / P < 4 ? PIXELS / P : 4;
    if (most >= 4 && rows >= 4) return tile<S, 3, most < 4 ? 1 : 4, P, V>(x, row, pixel, J, w, out, y), 4;
    if (most >= 3 && rows >= 3) return tile<S, 3, most < 3 ? 1 : 3, P, V>(x, row, pixel, J, w, out, y), 3;
    if (rows >= 2) return tile<S, 3, 2, P, V>(x, row, pixel, J, w, out, y), 2;
  }
  return 0;
}

// A line of pixels side by side, in parts that fit into the registers, and all vectors of o.
template <class S, int K>
static void line(int64_t width, const S* x, int64_t row, int64_t pixel, int64_t J, const S* w, int64_t out, S* y) {
  constexpr int n = Of<S>::length;
  const int64_t parts = (width + PIXELS - 1) / PIXELS;
  for (int64_t o = 0; o < out; o += 2 * n)
    for (int64_t part = 0; part < parts; part++) {
      const int64_t begin = width * part / parts, pixels = width * (part + 1) / parts - begin;
      if (o + 2 * n <= out)
        tile_of<S, K, 2>(pixels, x + begin * pixel, row, pixel, J, w + o, out, y + begin * out + o);
      else
        tile_of<S, K, 1>(pixels, x + begin * pixel, row, pixel, J, w + o, out, y + begin * out + o);
    }
}

// Where the pixels of a sum are: images of rows of pixels, at these distances in x; those of g follow one another.
struct Pixels {
  int64_t images, rows, width, image, row, pixel;
};

// gw[j, o] += sum over pixels of x[p, j] g[p, o], for J entries j and V vectors of o.
template <class S, int J, int V>
static inline __attribute__((always_inline)) void outer(
    const S* __restrict x, const Pixels& at, const S* __restrict g, int64_t out, S* __restrict gw) {
  Vector<S> sum[J][V];
  for (int j = 0; j < J; j++)
    for (int v = 0; v < V; v++) sum[j][v] = load(gw + j * out + v * Of<S>::length);
  for (int64_t i = 0; i < at.images; i++)
    for (int64_t h = 0; h < at.rows; h++) {
      const S* source = x + i * at.image + h * at.row;
      for (int64_t p = 0; p < at.width; p++, source += at.pixel, g += out) {
        Vector<S> of[V];
        for (int v = 0; v < V; v++) of[v] = load(g + v * Of<S>::length);
        for (int j = 0; j < J; j++) {
          const S a = source[j];
          for (int v = 0; v < V; v++) sum[j][v] += a * of[v];
        }
      }
    }
  for (int j = 0; j < J; j++)
    for (int v = 0; v < V; v++) store(gw + j * out + v * Of<S>::length, sum[j][v]);
}

template <class S, int V, int J = ROWS>
static inline void outer_of(int entries, const S* x, const Pixels& at, const S* g, int64_t out, S* gw) {
  if constexpr (J > 0) {
    if (entries == J)
      outer<S, J, V>(x, at, g, out, gw);
    else
      outer_of<S, V, J - 1>(entries, x, at, g, out, gw);
  }
}

// gw [J, out] += of all entries and vectors.
template <class S>
static void outer_all(const S* x, const Pixels& at, int64_t J, const S* g, int64_t out, S* gw) {
  constexpr int n = Of<S>::length;
  for (int64_t o = 0; o < out; o += 2 * n)
    for (int64_t j = 0; j < J; j += ROWS) {
      const int entries = j + ROWS < J ? ROWS : J - j;
      if (o + 2 * n <= out)
        outer_of<S, 2>(entries, x + j, at, g + o, out, gw + j * out + o);
      else
        outer_of<S, 1>(entries, x + j, at, g + o, out, gw + j * out + o);
    }
}
