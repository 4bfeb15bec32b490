// Walks over the pooling windows of images, and sums over them.
#pragma once

#include "direct.h"

struct Norm {
  int64_t tasks, images, height, width, channels, pool, relu;
  double eps;
  int64_t rows() const { return images * height * width; }
  int64_t left() const { return pool ? images * (height / 2) * (width / 2) : rows(); }
};

constexpr int64_t BLOCK = 64;  // pixels that are added up in the precision of the data, before float64

// Which of the entries of a window each channel has.
template <class S>
static inline Mask<S> places(const uint8_t* index) {
  typedef uint8_t Bytes __attribute__((vector_size(Of<S>::length), aligned(1)));
  return __builtin_convertvector(*reinterpret_cast<const Bytes*>(index), Mask<S>);
}

template <class S>
static inline void store_places(uint8_t* index, Mask<S> place) {
  typedef uint8_t Bytes __attribute__((vector_size(Of<S>::length), aligned(1)));
  *reinterpret_cast<Bytes*>(index) = __builtin_convertvector(place, Bytes);
}

// Pairs of rows of one task's images [N, H, W, C], as they are in memory.
template <class S>
struct Stored {
  S* images;
  const Norm& s;
  S* rows(int64_t i, int64_t h, int64_t) const { return images + (i * s.height + h) * s.width * s.channels; }
};

// Pairs of rows of a convolution with few channels in, computed anew where they are needed: from the first cache that
// is cheaper than from memory. x [N, H, W, in], w [3, 3, in, channels].
template <class S>
struct Recomputed {
  const S *x, *w;
  int64_t in;
  const Norm& s;
  Scratch<S>& scratch;
  int64_t row() const { return (s.width + 2) * in; }
  S* padded() const { return scratch.of(2 * s.width * s.channels + (s.height + 2) * row()) + 2 * s.width * s.channels; }
  S* rows(int64_t i, int64_t h, int64_t count) const {
    S* image = padded();
    S* to = scratch.data;
    if (h == 0) pad(x + i * s.height * s.width * in, image, s.height, s.width, in);
    for (int64_t k = 0; k < count; k++)
      line<S, 3>(s.width, image + (h + k) * row(), row(), in, 3 * in, w, s.channels, to + k * s.width * s.channels);
    return to;
  }
};

// Calls begin(image, row, rows) for each pair of rows, or a last single one; then window(first pixel, pooled pixel)
// for each window in it and single(pixel) for each pixel outside of all windows, with pixels counted from the pair's
// first; then end(image, row, rows).
template <int K, class Begin, class Window, class Single, class End>
static inline void each_window(const Norm& s, Begin begin, Window window, Single single, End end) {
  int64_t pooled = 0;
  for (int64_t i = 0; i < s.images; i++)
    for (int64_t h = 0; h < s.height; h += 2) {
      const int64_t rows = h + 1 < s.height ? 2 : 1;
      begin(i, h, rows);
      if constexpr (K == 1) {
        for (int64_t p = 0; p < rows * s.width; p++) window(p, pooled++);
      } else if (rows == 2) {
        for (int64_t w = 0; w + 1 < s.width; w += 2) window(w, pooled++);
        if (s.width % 2) single(s.width - 1), single(2 * s.width - 1);
      } else {
        for (int64_t w = 0; w < s.width; w++) single(w);
      }
      end(i, h, rows);
    }
}

static inline void nothing(int64_t, int64_t, int64_t) {}

// Sums over pixels of K terms a channel, added up in the precision of the data for some pixels, then in float64.
template <class S, int K>
struct Sums {
  S* some;
  double* all;
  int64_t channels, count = 0;
  Sums(Scratch<double>& scratch, int64_t channels) : channels(channels) {
    all = scratch.of(2 * K * channels);
    some = reinterpret_cast<S*>(all + K * channels);
    for (int64_t k = 0; k < K * channels; k++) all[k] = 0, some[k] = 0;
  }
  inline void add(int k, int64_t c, Vector<S> term) { store(some + k * channels + c, load(some + k * channels + c) + term); }
  inline void next() {
    if (++count % BLOCK == 0) flush();
  }
  void flush() {
    for (int64_t k = 0; k < K * channels; k++) all[k] += some[k], some[k] = 0;
  }
  double of(int k, int64_t c) const { return all[k * channels + c]; }
};

// Mean and 1 / sqrt(variance + eps) of the channels.
template <class S, class Y>
static void statistics(const Y& y, const Norm& s, S* mu, S* r, double* sums) {
  constexpr int n = Of<S>::length;
  const int64_t C = s.channels;
  double* mean = sums;
  double* square = sums + C;
  for (int64_t c = 0; c < 2 * C; c++) sums[c] = 0;
  int64_t first = 0;
  for (int64_t i = 0; i < s.images; i++)
    for (int64_t h = 0; h < s.height; h += 2) {
      const int64_t rows = h + 1 < s.height ? 2 : 1, count = rows * s.width;
      const S* from = y.rows(i, h, rows);
      const double share = static_cast<double>(count) / (first + count);
      for (int64_t c = 0; c < C; c += n) {
        Vector<S> sum = {}, squares = {};
        for (int64_t p = 0; p < count; p++) sum += load(from + p * C + c);
        const Vector<S> centre = sum / static_cast<S>(count);
        for (int64_t p = 0; p < count; p++) {
          const Vector<S> d = load(from + p * C + c) - centre;
          squares += d * d;
        }
        for (int k = 0; k < n; k++) {  // the statistics of two parts together (Chan, Golub & LeVeque 1983)
          const double delta = centre[k] - mean[c + k];
          mean[c + k] += delta * share;
          square[c + k] += squares[k] + delta * delta * first * share;
        }
      }
      first += count;
    }
  for (int64_t c = 0; c < C; c++) {
    mu[c] = mean[c];
    r[c] = 1 / std::sqrt(square[c] / s.rows() + s.eps);
  }
}

// a and b of out = relu(a p + b).
template <class S>
struct Affine {
  S *a, *b;
  Affine(Scratch<S>& scratch, const S* gamma, const S* beta, const S* mu, const S* r, int64_t channels) {
    a = scratch.of(2 * channels);
    b = a + channels;
    for (int64_t c = 0; c < channels; c++) a[c] = gamma[c] * r[c], b[c] = beta[c] - a[c] * mu[c];
  }
  inline Vector<S> operator()(Vector<S> p, int64_t c) const { return p * load(a + c) + load(b + c); }
};
